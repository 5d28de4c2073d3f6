"""Values of a graph that are known when it is rewritten: stored tensors, and what is done to them on the way. No torch.

Nothing is read to find out what a constant is; its numbers are read when `Constant.array` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ort_ops.operators.mylinear.contract import ELEMENT_TYPES
from ort_ops.rewrite.reasons import Origin, OriginKind
from ort_ops.rewrite.shapes import known_shape

Array = NDArray[Any]
_STANDARD = ("", "ai.onnx")
DTYPES = {ir.DataType(element_type.onnx_type): element_type for element_type in ELEMENT_TYPES}
"""The element types of MYLINEAR, as onnx_ir knows them."""
_FOLDED = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Split", "Slice")
"""Operators that are done to a constant when the model is rewritten; none of them rounds a number."""


@dataclass(frozen=True)
class Constant:
    """A value that is known when the model is rewritten: a stored tensor, and what is done to it on the way.

    Attributes:
        source: the initializer, or the output of a Constant node.
        steps: names what was done, so that equal constants are known as equal.
        functions: the same, to compute it; each works on views where NumPy can.
    """

    source: ir.Value
    steps: tuple[str, ...] = ()
    functions: tuple[Callable[[Array], Array], ...] = ()
    cast_to: ir.DataType | None = None
    """The dtype, where it is not that of the source any more."""

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.source.const_value is not None
        stand_in: Array = np.broadcast_to(np.int8(0), self.source.const_value.shape.numpy())
        for step, function in zip(self.steps, self.functions, strict=True):
            stand_in = stand_in if step.startswith("cast") else function(stand_in)  # a cast would be a copy
        return stand_in.shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> ir.DataType:
        assert self.source.const_value is not None
        return self.cast_to or self.source.const_value.dtype

    @property
    def canonical_steps(self) -> tuple[str, ...]:
        """The steps without those that undo each other: two transpositions of a matrix are none."""
        steps: list[str] = []
        for step in self.steps:
            step = "transpose" if step == "transpose (1, 0)" else step
            if steps and step == steps[-1] == "transpose":
                steps.pop()
            else:
                steps.append(step)
        return tuple(steps)

    @property
    def is_unchanged(self) -> bool:
        """Whether it is the stored tensor itself."""
        return not self.canonical_steps

    def array(self) -> Array:
        """Read the tensor (memory-mapped, where it is external) and do the steps."""
        assert self.source.const_value is not None
        array: Array = self.source.const_value.numpy()
        for function in self.functions:
            array = function(array)
        return array

    def then(self, step: str, function: Callable[[Array], Array]) -> Constant:
        return replace(self, steps=(*self.steps, step), functions=(*self.functions, function))


@dataclass(frozen=True)
class Computed:
    """A weight or bias that is known only when the model runs, and lies as MYLINEAR takes it.

    Attributes:
        value: what MYLINEAR takes.
        shape: ``[out_features, in_features]`` or ``[out_features]``; None for what is not known of it.
        dtype: as far as known.
    """

    value: ir.Value
    shape: tuple[int | None, ...]
    dtype: ir.DataType


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether the node is one of these operators of ONNX's own domain, with attributes that are known.

    An attribute that belongs to the function around the node is known only where the function is called.
    """
    return node.domain in _STANDARD and node.op_type in op_types and not refers_to_function(node)


def refers_to_function(node: ir.Node) -> bool:
    """Whether an attribute of the node is one of the function around it."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def perm_of(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Return what a Transpose of that many dimensions does to them."""
    return tuple(node.attributes.get_ints("perm", list(range(rank))[::-1]))


def origin_of(value: ir.Value) -> Origin:
    """Say where a value comes from that is no constant."""
    producer, name = value.producer(), value.name or ""
    if producer is not None and is_standard(producer, "Cast") and resolve(producer.inputs[0]) is not None:
        return Origin(OriginKind.ROUNDED, name, producer.op_type)
    if producer is not None:
        return Origin(OriginKind.COMPUTED, name, producer.op_type)
    if value.is_initializer() and value.is_graph_input():
        return Origin(OriginKind.OVERRIDABLE, name)
    return Origin(OriginKind.PARAMETER, name)


def resolve(value: ir.Value | None) -> Constant | None:
    """Return the constant that the value is, through `_FOLDED`; None if it is none."""
    passed: list[ir.Value] = []
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or not is_standard(node, "Constant", *_FOLDED):
            return None
        if node.op_type == "Constant":
            break
        passed.append(value)
        value = node.inputs[0]
    if value is None:
        return None
    if value.is_initializer():
        constant = None if value.is_graph_input() or value.const_value is None else Constant(value)
    else:
        constant = Constant(value) if value.const_value is not None or _read_constant(value) else None
    for step in reversed(passed):
        if constant is None:
            return None
        try:
            constant = _fold(step, constant)
        except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError):  # it breaks the operator's rules
            return None
    return constant


def _fold(value: ir.Value, inner: Constant) -> Constant | None:
    """Return what an operator of `_FOLDED` makes of a constant; None if it needs more than constants."""
    node = value.producer()
    assert node is not None
    if node.op_type == "Identity":
        return inner
    if node.op_type in ("Split", "Slice"):
        if not inner.shape:
            return None
        is_split = node.op_type == "Split"
        part = _part_of_split(node, value, inner.shape) if is_split else _part_of_slice(node, inner.shape)
        return None if part is None else inner.then(f"part {part}", lambda array: array[part])
    if node.op_type == "Cast":
        return _cast(inner, ir.DataType(node.attributes.get_int("to", 0)))
    if node.op_type == "Transpose":
        perm = perm_of(node, len(inner.shape))
        return inner.then(f"transpose {perm}", lambda array: np.transpose(array, perm))
    shape = _static_shape(node, inner.shape)
    if shape is None or math.prod(shape) != inner.size:
        return None
    return inner.then(f"reshape {shape}", lambda array: array.reshape(shape))


def _part_of_split(node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """What Split takes of a constant for one of its outputs."""
    axis, count = node.attributes.get_int("axis", 0) % len(shape), len(node.outputs)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = resolve(node.inputs[1])
        if constant is None:
            return None
        sizes = [int(size) for size in constant.array()]
    elif "split" in node.attributes:
        sizes = list(node.attributes.get_ints("split"))
    else:
        sizes = [-(-shape[axis] // count)] * count  # the last may be smaller, which a slice is by itself
    index = next(i for i, output in enumerate(node.outputs) if output is value)
    start = sum(sizes[:index])
    return (*(slice(None),) * axis, slice(start, start + sizes[index]))


def _part_of_slice(node: ir.Node, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """What Slice with constant indices takes of a constant; Python's slices mean the same for steps of 1."""
    if len(node.inputs) == 1:
        starts, ends = (list(node.attributes.get_ints(name)) for name in ("starts", "ends"))
        axes = list(node.attributes.get_ints("axes", range(len(starts))))
        steps = [1] * len(starts)
    else:
        constants = [None if value is None else resolve(value) for value in node.inputs[1:]]
        if any(c is None for c, value in zip(constants, node.inputs[1:], strict=True) if value is not None):
            return None
        lists = [None if constant is None else [int(i) for i in constant.array()] for constant in constants]
        starts, ends, axes, steps = (*lists, None, None)[:4]  # type: ignore[assignment]
        axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    if any(step != 1 for step in steps):
        return None
    parts = [slice(None)] * len(shape)
    for start, end, axis in zip(starts, ends, axes, strict=True):
        parts[axis] = slice(start, end)
    return tuple(parts)


def _cast(constant: Constant, to: ir.DataType) -> Constant | None:
    """Return the constant in another floating-point type, if every number of it is one there too."""
    if constant.dtype not in DTYPES or to not in DTYPES:
        return None
    if constant.dtype == to:
        return constant
    dtype = to.numpy()
    cast = replace(constant.then(f"cast {to.name}", lambda array: array.astype(dtype)), cast_to=to)
    if (
        DTYPES[constant.dtype].unit_roundoff <= DTYPES[to].unit_roundoff
        or DTYPES[constant.dtype].largest > DTYPES[to].largest
    ):
        array = constant.array()
        with np.errstate(all="ignore"):
            if not np.array_equal(array.astype(dtype).astype(array.dtype), array, equal_nan=True):
                return None
    return cast


def _read_constant(value: ir.Value) -> bool:
    """Keep a Constant node's tensor with its value, as onnx_ir does for initializers; False if it holds none."""
    try:
        value.const_value = ir.convenience.get_const_tensor(value)
    except (TypeError, ValueError):  # several attributes, or of other types than the operator's
        return False
    return value.const_value is not None


def _static_shape(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What Reshape, Squeeze, Unsqueeze or Flatten makes of a constant's shape; None if it is not known or not right."""
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1)
        return (math.prod(shape[:axis]), math.prod(shape[axis:]))
    wanted: list[int] | None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = resolve(node.inputs[1])
        if constant is None:
            return None
        wanted = [int(size) for size in constant.array().reshape(-1)]
    else:
        name = "shape" if node.op_type == "Reshape" else "axes"
        wanted = list(node.attributes.get_ints(name)) if name in node.attributes else None
    if node.op_type == "Squeeze":
        axes = {a % len(shape) for a in wanted} if wanted is not None else {i for i, s in enumerate(shape) if s == 1}
        return tuple(size for i, size in enumerate(shape) if i not in axes)
    if wanted is None:
        return None
    if node.op_type == "Unsqueeze":
        rank = len(shape) + len(wanted)
        axes, sizes = {a % rank for a in wanted}, iter(shape)
        return tuple(1 if i in axes else next(sizes) for i in range(rank))
    if not node.attributes.get_int("allowzero", 0):
        wanted = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(wanted)]
    try:
        return np.broadcast_to(np.int8(0), shape).reshape(wanted).shape
    except ValueError:
        return None


def as_bias(constant: Constant, out_features: int, rank: int | None) -> Constant | None:
    """Return the constant as ``[out_features]``, if adding it is adding a bias to a result of that rank; else None."""
    shape = constant.shape
    if len(shape) > max(1 if rank is None else rank, 1) or any(size != 1 for size in shape[:-1]):
        return None
    if shape and shape[-1] not in (1, out_features):
        return None
    if shape == (out_features,):
        return constant

    def widen(array: Array) -> Array:
        return np.broadcast_to(array.reshape(-1), (out_features,))

    return constant.then(f"bias of {out_features}", widen)


def scales_exactly(constant: Constant | Computed, factor: float) -> bool:
    """Whether the factor times each number is one of the constant's own dtype; NaN and infinities count as such.

    Decided by the exact product: what Dekker's splitting leaves of the product of the mantissas, and whether its
    exponent is one of the dtype.
    """
    if factor == 1.0:
        return True
    if isinstance(constant, Computed):
        return False
    array = constant.array()
    numbers = array.astype(np.float64).reshape(-1)
    numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
    if not numbers.size:
        return True
    mantissas, exponents = np.frexp(numbers)
    mantissa, exponent = math.frexp(factor)
    products = mantissas * mantissa
    heads, head = np.round(mantissas * 2.0**26) * 2.0**-26, round(mantissa * 2.0**26) * 2.0**-26
    tails, tail = mantissas - heads, mantissa - head
    errors = ((heads * head - products) + heads * tail + tails * head) + tails * tail
    if errors.any():
        return False
    with np.errstate(all="ignore"):
        scaled = np.ldexp(products, exponents + exponent).astype(array.dtype).astype(np.float64)
    if not np.isfinite(scaled).all() or not scaled.all():
        return False
    got_mantissas, got_exponents = np.frexp(scaled)
    wanted_mantissas, more = np.frexp(products)
    return bool((got_mantissas == wanted_mantissas).all() and (got_exponents == exponents + exponent + more).all())


def scale(array: Array, factor: float) -> Array:
    """Return the factor times the array, in the array's dtype."""
    if factor == 1.0:
        return array
    with np.errstate(all="ignore"):
        return (array.astype(np.float64) * factor).astype(array.dtype)


def rank_of(value: ir.Value | None) -> int | None:
    """Return how many dimensions a value has; None where that is not known."""
    shape = None if value is None else known_shape(value)
    return None if shape is None else len(shape)
