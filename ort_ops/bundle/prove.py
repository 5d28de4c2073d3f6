"""Prove the model of a bundle: run a sample by each kernel, and compare it with exact values within their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ort_ops.analysis.evaluation import Evaluation
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.bundle.load import open_sealed
from ort_ops.bundle.manifest import TEXT, BundledTensor, BundleError, Manifest, ParityRow
from ort_ops.bundle.model import PreparedModel
from ort_ops.bundle.platforms import this_platform
from ort_ops.bundle.sample import UNTESTED, compare_outputs, write_sample
from ort_ops.bundle.seal import sealed_file
from ort_ops.errors import MylinearError
from ort_ops.files.inputs import first_line
from ort_ops.models.complete import remove_definitions
from ort_ops.models.files import load_model
from ort_ops.models.inputs.draw import InputDrawer, NoExampleError, model_inputs, read_examples
from ort_ops.numerics.compare import Verdict
from ort_ops.session import InferenceSession
from ort_ops.session_options import SessionOptions
from ort_ops.training.file_format import find_metadata

Array = NDArray[Any]
_NO_OPERATOR = "onnxruntime"
"""The name of the kernels of a model without registered operators."""
_SIZES = ((2, None), (2, 12), (1, None), (2, 64))
"""Of the first dynamic dimension of each input, and of others: text of two words may be padding alone."""
_REMEDY = "give real inputs by --sample FILE.npz"


def worst(rows: Sequence[ParityRow]) -> str:
    """Return the worst verdict."""
    ranks = [Verdict.OK.value, Verdict.UNDECIDED.value, Verdict.UNBOUNDED.value, UNTESTED, Verdict.VIOLATED.value]
    return max((row.verdict for row in rows), key=ranks.index, default=UNTESTED)


def prove(folder: Path, manifest: Manifest, prepared: PreparedModel, sample: str | Path | None) -> Manifest:
    """Write the sample, run it by each kernel, and return the manifest with what was found."""
    manifest = replace(manifest, files={manifest.model.path: sealed_file(folder / manifest.model.path)})
    has_library = bool(manifest.libraries_for(this_platform()))
    kinds = [True] * has_library + [False] * (not manifest.bodiless)
    if not kinds:
        raise BundleError(
            f"'{prepared.source}': {', '.join(manifest.bodiless)} runs by a library alone, and there is none for "
            f"{this_platform()} to prove it with; add this platform to --platforms"
        )
    feed: dict[str, Array] | None = None
    evaluation: Evaluation | None = None
    reason, rows = "", []
    first: dict[str, Array] = {}
    for with_library in kinds:
        session = open_sealed(folder, manifest, with_library, _quiet())
        if feed is None:
            feed, evaluation, reason = _choose_sample(session, folder / manifest.model.path, sample, prepared.source)
        results = _run(session, feed, prepared.source)
        if not manifest.outputs:
            manifest = _with_sample(folder, manifest, session, feed, results, evaluation)
        kernel = (session.kernel or "body") if manifest.operators else _NO_OPERATOR
        for row in compare_outputs(folder, manifest.outputs, results, kernel):
            detail = reason + _difference(first.setdefault(row.output, results[row.output]), results[row.output])
            rows.append(replace(row, detail=detail) if row.verdict == UNTESTED and reason else row)
        del session
    return replace(manifest, parity=tuple(rows))


def _difference(first: Array, other: Array) -> str:
    """Say how far the output of another kernel is from that of the first; empty for the first itself."""
    if other is first or first.dtype.kind not in "fV" or first.shape != other.shape:
        return ""
    wide, others = first.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        change = float(np.max(np.abs(wide - others), initial=0.0))
    return f"; it is within {change:.2g} of the first kernel's, whose largest number is {np.max(np.abs(wide)):.2g}"


def _choose_sample(
    session: InferenceSession, path: Path, sample: str | Path | None, source: Path
) -> tuple[dict[str, Array], Evaluation | None, str]:
    """Return the given sample, or the first drawn one whose outputs all have bounds, with its exact outputs.

    Where none has, as in a model that magnifies rounding errors, it is the first on which the model runs.

    Returns: inputs, exact outputs or None, and why there are none.
    """
    model = load_model(path, external_data=False)
    chosen: tuple[dict[str, Array], Evaluation | None, str] | None = None
    fault = ""
    for feed in _feeds(model, sample, source):
        try:
            session.run(None, feed)
        except Exception as error:  # onnxruntime's own errors are of many types
            fault = fault or first_line(error)
            continue
        evaluation, reason = _evaluate(path, feed)
        if chosen is None or (evaluation is not None and _is_bounded(evaluation)):
            chosen = feed, evaluation, reason
        if evaluation is None or _is_bounded(evaluation):
            break
    if chosen is None:
        what = f"on '{sample}'" if sample is not None else "on drawn inputs"
        raise BundleError(f"'{source}' does not run {what}: {fault}; {_REMEDY}")
    return chosen


def _feeds(model: onnx.ModelProto, sample: str | Path | None, source: Path) -> Iterator[dict[str, Array]]:
    """Yield the given sample, or drawn ones. Raises: ExampleError, NoExampleError."""
    if sample is not None:
        yield read_examples(sample, model)
        return
    training = find_metadata(model)
    drawer = InputDrawer(model, None if training is None else training.ranges)
    for seed, (size, others) in enumerate(_SIZES):
        try:
            yield drawer.draw(size, np.random.default_rng(seed), others=others)
        except NoExampleError as error:
            raise NoExampleError(f"'{source}': {error}; {_REMEDY}") from error


def _is_bounded(evaluation: Evaluation) -> bool:
    """Whether every output has a bound that says something, at least where no decision may turn."""
    for value in evaluation.outputs.values():
        undecided = np.zeros(value.exact.shape, bool) if value.undecided is None else value.undecided
        if (np.isinf(value.error) & ~undecided).any() or (undecided.size and undecided.all()):
            return False
    return True


def _quiet() -> SessionOptions:
    options = SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions too
    return options


def _evaluate(path: Path, feed: Mapping[str, Array]) -> tuple[Evaluation | None, str]:
    """Return exact outputs and their bounds, or why there are none."""
    model = load_model(path, external_data=False)
    remove_definitions(model)
    try:
        return Float64Run(model, path.parent)(feed), ""
    except MylinearError as error:
        return None, first_line(error)


def _run(session: InferenceSession, feed: Mapping[str, Array], source: Path) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    results = dict(zip(names, session.run(names, feed), strict=True))
    for name, value in results.items():
        if not isinstance(value, np.ndarray):
            raise BundleError(f"'{source}': output '{name}' must be a tensor, got {type(value).__name__}; leave it out")
    return results


def _with_sample(
    folder: Path,
    manifest: Manifest,
    session: InferenceSession,
    feed: Mapping[str, Array],
    results: Mapping[str, Array],
    evaluation: Evaluation | None,
) -> Manifest:
    model = load_model(folder / manifest.model.path, external_data=False)
    inputs = [
        BundledTensor(value.name, _dtype_name(feed[value.name]), None if value.dims is None else tuple(value.dims), "")
        for value in model_inputs(model)
        if value.name in feed
    ]
    shapes = {output.name: output.shape for output in session.get_outputs()}
    outputs = [
        BundledTensor(name, _dtype_name(array), _shape(shapes[name], array.ndim), "") for name, array in results.items()
    ]
    given, got = write_sample(folder, inputs, outputs, feed, results, evaluation)
    return replace(manifest, inputs=tuple(given), outputs=tuple(got))


def _shape(stated: Sequence[int | str | None], rank: int) -> tuple[int | str | None, ...] | None:
    """Return the shape that a session states; onnxruntime states none where it does not know the rank."""
    return tuple(stated) if len(stated) == rank else None


def _dtype_name(array: Array) -> str:
    return TEXT if array.dtype == object or array.dtype.kind == "U" else array.dtype.name
