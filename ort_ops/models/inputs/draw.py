"""Get inputs to try a model on: examples from an .npz file, or seeded numbers that its graph can take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ort_ops.errors import MylinearError
from ort_ops.files.inputs import InputError
from ort_ops.files.npy_file import read_npz
from ort_ops.models.inputs.integer_limits import IntegerLimits
from ort_ops.models.inputs.limits import ANY, Limits
from ort_ops.models.inputs.skeleton import Dims
from ort_ops.opdef.element_types import BY_ONNX_TYPE, FLOATS, element_type_name
from ort_ops.opdef.shapes import format_shape

Array = NDArray[Any]
_FLOATS = {element_type.name for element_type in FLOATS}
_DEFAULT_SIZE = 2  # of a dimension whose size nobody names
TEXT = np.dtype(object)
"""The dtype that stands for ONNX's string: arrays of Python strings."""
_WORDS = np.array(["", "a", "b", "Some words"], object)
_USUAL = Limits(0, 1)
"""Limits of integers that no node limits, such as masks and token types."""


class ExampleError(MylinearError, ValueError):
    """Examples that the model cannot take; the message names file, input and what is wrong."""


class NoExampleError(MylinearError, ValueError):
    """An input for which no numbers can be drawn; the message says which and why."""


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        dims: sizes, and for a dynamic dimension its name, or None where it has none; None if the rank is not known.
        dtype: `TEXT` for strings; None where it is no tensor, or one of which onnxruntime takes no arrays.
        is_required: False for an input with a default among the model's initializers.
        kind: what it is where it has no dtype, in words.
    """

    name: str
    dims: Dims | None
    dtype: np.dtype[Any] | None
    is_required: bool = True
    kind: str = ""

    @property
    def is_floating(self) -> bool:
        return self.dtype is not None and self.dtype.name in _FLOATS

    def shape(self, sizes: Mapping[str, int], size: int) -> list[int]:
        """Return the shape with these sizes of named dimensions, and ``size`` for others."""
        if self.dims is None:
            raise NoExampleError(f"input '{self.name}' has no known shape")
        return [dim if isinstance(dim, int) else sizes.get(dim or "", size) for dim in self.dims]


def model_inputs(model: onnx.ModelProto) -> list[ModelInput]:
    """Return the inputs of a model in their order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    found = []
    for value in model.graph.input:
        tensor = value.type.tensor_type
        dims: Dims | None = None
        if tensor.HasField("shape"):
            dims = [int(d.dim_value) if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
        dtype = _dtype(tensor.elem_type)
        kind = "" if dtype is not None else _kind(value.type)
        found.append(ModelInput(value.name, dims, dtype, value.name not in stored, kind))
    return found


def read_examples(path: str | Path, model: onnx.ModelProto) -> dict[str, Array]:
    """Read one call of the model from an .npz file, an array for each input under its name.

    Names, dtypes and shapes are checked. As NumPy has no bfloat16 of its own, such an input may also be given as
    float32, and is rounded.

    Raises: ExampleError with everything that is wrong with the file, in one line.
    """
    try:
        arrays = read_npz(path, remedy="write all by name: numpy.savez('inputs.npz', x=..., mask=...)")
    except InputError as error:
        raise ExampleError(str(error)) from error
    inputs = {value.name: value for value in model_inputs(model)}
    wrong = [f"it has no '{name}'" for name, value in inputs.items() if value.is_required and name not in arrays]
    unknown = [name for name in arrays if name not in inputs]
    if unknown:
        names = ", ".join(f"'{name}'" for name in inputs) or "none"
        wrong += [f"the model has no input '{name}' (its inputs are {names})" for name in unknown]
    feed = {}
    for name, value in inputs.items():
        if name not in arrays:
            continue
        array = _as_wanted(arrays[name], value)
        complaint = _complaint(array, value)
        if complaint:
            wrong.append(complaint)
        feed[name] = array
    if wrong:
        raise ExampleError(f"'{path}': {'; '.join(wrong)}")
    return feed


def _as_wanted(array: Array, value: ModelInput) -> Array:
    """Return an array that stands for bfloat16 as bfloat16, and any other as it is."""
    if value.dtype is not None and value.dtype.name == "bfloat16":
        if array.dtype == np.dtype("V2"):  # how NumPy saves an array of ml_dtypes
            return array.view(value.dtype)
        if array.dtype == np.float32:
            return array.astype(value.dtype)
    if value.dtype == TEXT and array.dtype.kind == "U":
        return array.astype(object)
    return array.astype(array.dtype.newbyteorder("=")) if array.dtype.kind in "iufc" else array


def _complaint(array: Array, value: ModelInput) -> str:
    if value.dtype is None:
        return f"input '{value.name}' is {value.kind}"
    if array.dtype != value.dtype:
        return f"'{value.name}' must be {value.dtype.name}, got {array.dtype.name}"
    if value.dims is None:
        return ""
    is_right = len(value.dims) == array.ndim
    is_right &= all(not isinstance(d, int) or d == size for d, size in zip(value.dims, array.shape, strict=False))
    if is_right:
        return ""
    return f"'{value.name}' must be {format_shape(value.dims)}, got {format_shape(array.shape)}"


class InputDrawer:
    """Draw seeded numbers for all inputs of one model: normally distributed, or integers that the graph can take.

    An index into an axis, such as the rows of an embedding, is drawn from the whole axis. Other integers, such as
    masks, are 0 or 1. `ort_ops.models.inputs.integer_limits` says how far an index is followed.

    Where the caller knows the smallest and the largest number of an input, they are spread evenly between them, unless
    the graph limits them.
    """

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]] | None = None) -> None:
        self._ranges = {name: Limits(low, high) for name, (low, high) in (ranges or {}).items() if low < high}
        self.inputs = [value for value in model_inputs(model) if value.is_required]
        self._limits = IntegerLimits(model)

    @property
    def dims(self) -> Mapping[str, Dims]:
        """The shapes of the values of the main graph and its bodies, as far as they can be inferred."""
        return self._limits.dims

    @property
    def num_dynamic(self) -> int:
        """The most dynamic dimensions that one input has."""
        return max((sum(not isinstance(dim, int) for dim in value.dims or ()) for value in self.inputs), default=0)

    def sizes(self, first: int, others: int | None = None) -> dict[str, int]:
        """Return a size for each named dimension: ``first`` where it leads an input, ``others`` elsewhere."""
        found: dict[str, int] = {}
        for value in self.inputs:
            for index, dim in enumerate(value.dims or ()):
                if isinstance(dim, str) and (dim not in found or not index):
                    found[dim] = first if not index or others is None else others
        return found

    def draw(self, size: int, rng: np.random.Generator, *, others: int | None = None) -> dict[str, Array]:
        """Draw every input.

        Args:
            size: of dynamic dimensions.
            others: of dynamic dimensions that are not the first of an input, if different.

        Raises: NoExampleError naming the first input for which no valid numbers are known.
        """
        sizes = self.sizes(size, others)
        limits = self._limits.of_inputs(sizes)
        found: dict[str, Array] = {}
        for value in self.inputs:
            shape, usual = self._shape(value, sizes, size, others), self._ranges.get(value.name)
            found[value.name] = _draw(value, limits[value.name], shape, rng, usual)
        return found

    def shape(self, value: ModelInput, size: int) -> list[int]:
        """Return the shape of an input with ``size`` for every dynamic dimension."""
        return value.shape(self.sizes(size), size)

    def _shape(self, value: ModelInput, sizes: Mapping[str, int], size: int, others: int | None) -> list[int]:
        shape = value.shape(sizes, size if others is None else others)
        if value.dims and value.dims[0] is None:
            shape[0] = size
        return shape

    def limits(self, size: int) -> dict[str, Limits]:
        """Return the limits of each input's numbers, with ``size`` for every dynamic dimension."""
        return self._limits.of_inputs(self.sizes(size))


def _draw(
    value: ModelInput, limits: Limits, shape: Sequence[int], rng: np.random.Generator, usual: Limits | None
) -> Array:
    if value.dtype is None:
        raise NoExampleError(f"nothing can be drawn for input '{value.name}', which is {value.kind}")
    if value.dtype == TEXT:
        return rng.choice(_WORDS, shape).astype(object)
    if limits.reason:
        raise NoExampleError(f"no numbers can be drawn for input '{value.name}': {limits.reason}")
    if not limits.is_bounded and usual is not None:
        if value.is_floating:
            return rng.uniform(usual.low, usual.high, shape).astype(value.dtype)
        limits = usual
    if value.is_floating and not limits.is_bounded:
        return rng.standard_normal(shape).astype(value.dtype)
    low, high = _ends(value, limits)
    if low > high and 0 not in shape:
        raise NoExampleError(f"no numbers can be drawn for input '{value.name}': it indexes an axis without elements")
    return rng.integers(low, max(low, high) + 1, shape).astype(value.dtype)


def _kind(type_proto: onnx.TypeProto) -> str:
    """Say what an input is that has no dtype here."""
    if type_proto.WhichOneof("value") != "tensor_type" or not type_proto.tensor_type.elem_type:
        return "no tensor of a known element type; make it one, or give the model another input for it"
    name = element_type_name(type_proto.tensor_type.elem_type)
    return f"a tensor of {name}, of which onnxruntime takes no arrays from Python; cast from another type in the model"


def _ends(value: ModelInput, limits: Limits) -> tuple[int, int]:
    assert value.dtype is not None
    if limits == ANY:
        limits = _USUAL
    least, largest = -(2**31), 2**31 - 1
    if value.dtype.kind in "iu":
        least, largest = int(np.iinfo(value.dtype).min), int(np.iinfo(value.dtype).max) - 1
    if value.dtype.kind == "b":
        return 0, 1
    low = math.ceil(limits.low) if limits.low > -math.inf else min(0, math.floor(limits.high))
    high = math.floor(limits.high) if limits.high < math.inf else max(1, low)
    return max(low, least), min(high, largest)


def _dtype(onnx_type: int) -> np.dtype[Any] | None:
    if onnx_type == onnx.TensorProto.STRING:
        return TEXT
    if onnx_type not in BY_ONNX_TYPE:
        return None
    return np.dtype(helper.tensor_dtype_to_np_dtype(onnx_type))
