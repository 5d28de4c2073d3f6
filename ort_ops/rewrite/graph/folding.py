"""Find out whether a value is a constant, through operators that only move its numbers. No torch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ort_ops.rewrite.graph.constants import DTYPES, Constant, is_standard, perm_of
from ort_ops.rewrite.reasons import Origin, OriginKind

_FOLDED = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Split", "Slice")
"""Operators that are applied to a constant when the model is rewritten; none of them rounds a number."""


def origin_of(value: ir.Value) -> Origin:
    """Say where a value that is not a constant comes from."""
    producer, name = value.producer(), value.name or ""
    if producer is not None and is_standard(producer, "Cast") and resolve(producer.inputs[0]) is not None:
        return Origin(OriginKind.ROUNDED, name, producer.op_type)
    if producer is not None:
        return Origin(OriginKind.COMPUTED, name, producer.op_type)
    if value.is_initializer() and value.is_graph_input():
        return Origin(OriginKind.OVERRIDABLE, name)
    return Origin(OriginKind.PARAMETER, name)


def resolve(value: ir.Value | None) -> Constant | None:
    """Return the constant that the value is, through `_FOLDED`; None if it is not one."""
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
    """Apply an operator of `_FOLDED` to a constant; return None if it needs more than constants."""
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
    """Return the part of a constant that Split takes for one of its outputs."""
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
    """Return the part of a constant that Slice with constant indices takes; for steps of 1, Python's slices agree."""
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
    """Return the constant in another floating-point type, if that type has all its numbers."""
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
    """Return the shape that Reshape, Squeeze, Unsqueeze or Flatten gives a constant; None if unknown or wrong."""
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
