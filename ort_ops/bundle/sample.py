"""The sample of a bundle: inputs, what was got for them, exact values and bounds, one .npy file for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.analysis.evaluation import Evaluation, Value
from ort_ops.bundle.manifest import TEXT, BundledTensor, BundleError, ParityRow
from ort_ops.files.inputs import first_line
from ort_ops.numerics.compare import Comparison, Verdict, compare, compare_exactly
from ort_ops.opdef.element_types import ELEMENT_TYPES

Array = NDArray[Any]
FOLDER = "sample"
UNTESTED = "untested"


def save_array(path: Path, array: Array) -> None:
    """Write an array as NumPy alone can read it: bfloat16 as its 16 bits, text as Unicode."""
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    np.save(path, array.astype(str) if array.dtype == object else np.ascontiguousarray(array).reshape(array.shape))


def load_array(folder: Path, path: str, dtype: str) -> Array:
    """Read an array of a bundle in its own dtype. Raises: BundleError if it is not of that dtype."""
    try:
        array = np.load(folder / path, allow_pickle=False)
    except Exception as error:  # NumPy reports damage in many ways
        raise BundleError(f"'{folder}': '{path}' is no array: {first_line(error)}; make the bundle again") from error
    if dtype == TEXT and array.dtype.kind == "U":
        return np.asarray(array.astype(object))
    if dtype == "bfloat16" and array.dtype == np.uint16:
        return np.asarray(array.view(numpy_dtype(dtype)))
    if array.dtype.name != dtype:
        raise BundleError(f"'{folder}': '{path}' must be {dtype}, got {array.dtype.name}; make the bundle again")
    return np.asarray(array)


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return the dtype of arrays for a tensor's dtype, as the manifest has it."""
    if dtype == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    found: np.dtype[Any] = np.dtype(object if dtype == TEXT else dtype)
    return found


def write_sample(
    folder: Path,
    inputs: Sequence[BundledTensor],
    outputs: Sequence[BundledTensor],
    feed: Mapping[str, Array],
    results: Mapping[str, Array],
    evaluation: Evaluation | None,
) -> tuple[list[BundledTensor], list[BundledTensor]]:
    """Write a sample, and return the tensors with the paths of its files.

    Args:
        evaluation: exact values and bounds; None where they could not be computed.
    """
    (folder / FOLDER).mkdir()

    def write(kind: str, index: int, array: Array) -> str:
        path = f"{FOLDER}/{kind}_{index}.npy"
        save_array(folder / path, array)
        return path

    def with_files(index: int, tensor: BundledTensor) -> BundledTensor:
        value = None if evaluation is None else evaluation.outputs.get(tensor.name)
        exact = bound = ""
        if value is not None:
            is_number = value.element_type is not None
            exact = write("exact", index, value.exact if is_number else value.exact.astype(numpy_dtype(tensor.dtype)))
            allowed = _allowed(value)
            bound = "" if allowed is None else write("bound", index, allowed)
        sample = write("output", index, results[tensor.name])
        return BundledTensor(tensor.name, tensor.dtype, tensor.shape, sample, exact, bound)

    given = [
        BundledTensor(tensor.name, tensor.dtype, tensor.shape, write("input", index, feed[tensor.name]))
        for index, tensor in enumerate(inputs)
    ]
    return given, [with_files(index, tensor) for index, tensor in enumerate(outputs)]


def _allowed(value: Value) -> Array | None:
    """Return the bound of each number, NaN where a decision may turn; None for equality."""
    undecided = np.zeros(value.exact.shape, bool) if value.undecided is None else value.undecided
    if value.element_type is None and not undecided.any():
        return None
    return np.where(undecided, np.nan, value.error)


def compare_outputs(
    folder: Path, outputs: Sequence[BundledTensor], results: Mapping[str, Array], kernel: str
) -> list[ParityRow]:
    """Compare the results of a run of the sample with its exact values, within their bounds."""
    return [_row(tensor.name, kernel, _compare(folder, tensor, results[tensor.name])) for tensor in outputs]


def _compare(folder: Path, tensor: BundledTensor, got: Array) -> Comparison | str:
    if (got.dtype.name if got.dtype != object else TEXT) != tensor.dtype:
        raise BundleError(f"output '{tensor.name}' must be {tensor.dtype}, got {got.dtype.name}; make the bundle again")
    if not tensor.exact:
        expected = load_array(folder, tensor.sample, tensor.dtype)
        if expected.shape != got.shape:
            return compare_exactly(got, expected)
        return "no exact value is known"
    is_rounded = tensor.dtype in ELEMENT_TYPES and ELEMENT_TYPES[tensor.dtype].is_floating
    exact = load_array(folder, tensor.exact, "float64" if is_rounded else tensor.dtype)
    bound = load_array(folder, tensor.bound, "float64") if tensor.bound else np.zeros(exact.shape)
    undecided = np.isnan(bound)
    if not is_rounded:
        return compare_exactly(got, exact, undecided)
    return compare(got, exact, np.where(undecided, 0.0, bound), ELEMENT_TYPES[tensor.dtype], undecided)


def _row(name: str, kernel: str, found: Comparison | str) -> ParityRow:
    if isinstance(found, str):
        return ParityRow(kernel, name, UNTESTED, None, None, found)
    error, in_bounds = (value if math.isfinite(value) else None for value in (found.max_error, found.max_in_bounds))
    detail = "" if found.verdict is Verdict.OK else found.text
    return ParityRow(kernel, name, found.verdict.value, error, in_bounds, detail)
