"""Find the linear layers of a graph: MatMul, MatMul + Add and Gemm, through what stands in between. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ort_ops.contract import ELEMENT_TYPES

Array = NDArray[Any]
_STANDARD = ("", "ai.onnx")
_DTYPES = {ir.DataType(element_type.onnx_type): element_type for element_type in ELEMENT_TYPES}


class NoMatch(Exception):  # noqa: N818  # a verdict on one node, not an error of anybody's
    """Why a node is no linear layer that can be adopted; the reason is shown to the user."""


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
        return int(np.prod(self.shape))

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


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer as it stands in a graph.

    Attributes:
        node: the MatMul or Gemm.
        x: what MYLINEAR takes as X.
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]``; None for none.
        factor: the constant weight as the node takes it; None for a weight that is computed.
        is_transposed: whether that is ``[out_features, in_features]`` too.
        passages: Identity, Reshape and Transpose between the MatMul and the Add; they stay, after MYLINEAR.
        add: the Add that the bias came from, or None.
        turn: the Transpose that gives the result of a product from the left its usual order, or None; it goes.
        alpha: of the weight, beta: of the bias; both such that no number is rounded.
    """

    node: ir.Node
    x: ir.Value
    weight: Constant | Computed
    bias: Constant | Computed | None = None
    factor: Constant | None = None
    is_transposed: bool = False
    passages: tuple[ir.Node, ...] = ()
    add: ir.Node | None = None
    turn: ir.Node | None = None
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def form(self) -> str:
        """What `lower` makes of it again: ``Gemm``, ``Gemm+C``, ``MatMul`` or ``MatMul+Add``."""
        if self.node.op_type == "Gemm":
            return "Gemm" if self.bias is None else "Gemm+C"
        return "MatMul" if self.add is None else "MatMul+Add"


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether the node is one of these operators of ONNX's own domain."""
    return node.domain in _STANDARD and node.op_type in op_types


def match(node: ir.Node) -> LinearLayer:
    """Return the linear layer that the MatMul or Gemm is. Raises: NoMatch with the reason if it is none."""
    layer = _match_gemm(node) if node.op_type == "Gemm" else _match_matmul(node)
    element_type = _DTYPES.get(layer.weight.dtype)
    if element_type is None:
        raise NoMatch(f"the dtype is {layer.weight.dtype.name.lower()}")
    if layer.bias is not None and layer.bias.dtype != layer.weight.dtype:
        raise NoMatch("weight and bias are of different dtypes")
    if layer.x.dtype is not None and layer.x.dtype != layer.weight.dtype:
        raise NoMatch("x and weight are of different dtypes")
    if layer.x.shape is not None:
        if len(layer.x.shape) == 0:
            raise NoMatch("x is a scalar")
        last, in_features = layer.x.shape[-1], layer.weight.shape[1]
        if isinstance(last, int) and in_features is not None and last != in_features:
            raise NoMatch(f"x has {last} features and the weight takes {in_features}")
    return layer


def _match_gemm(node: ir.Node) -> LinearLayer:
    x, weight_value, bias_value = (*node.inputs, None, None)[:3]
    assert x is not None
    assert weight_value is not None
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    if node.attributes.get_int("transA", 0):
        producer = x.producer()
        if producer is None or not is_standard(producer, "Transpose") or _perm(producer, 2) != (1, 0):
            raise NoMatch("transA=1: the input enters transposed, and would need a Transpose when the model runs")
        (x,) = producer.inputs
        assert x is not None
    is_transposed = bool(node.attributes.get_int("transB", 0))
    weight: Constant | Computed
    factor = resolve(weight_value)
    if factor is None:
        weight = _computed_weight(weight_value, x, is_transposed)
    else:
        if len(factor.shape) != 2:
            raise NoMatch(f"the weight has rank {len(factor.shape)}")
        weight = factor if is_transposed else factor.then("transpose", np.transpose)
    bias = None if bias_value is None else _gemm_bias(bias_value, beta, weight)
    for name, scalar, constant in (("alpha", alpha, weight), ("beta", beta, bias)):
        if constant is not None and not _scales_exactly(constant, scalar):
            raise NoMatch(f"{name}={scalar:g} cannot go into the {_KINDS[type(constant)]} without rounding it")
    layer = LinearLayer(node, x, weight, bias, factor, is_transposed, alpha=alpha, beta=beta)
    return _with_known_width(layer)


_KINDS = {Constant: "constant", Computed: "computed value"}


def _gemm_bias(value: ir.Value, beta: float, weight: Constant | Computed) -> Constant | Computed | None:
    bias, out_features = resolve(value), weight.shape[0]
    if bias is None:
        shape = None if value.shape is None else tuple(value.shape)
        if shape is not None and len(shape) == 1 and isinstance(shape[0], int) and shape[0] == out_features and beta:
            assert value.shape is not None
            return Computed(value, (shape[0],), value.dtype or weight.dtype)
        raise NoMatch(f"C is not a constant, nor known to be one number for each output feature ({_origin(value)})")
    if beta == 0:
        if np.isfinite(bias.array().astype(np.float64)).all():
            return None
        raise NoMatch("beta=0 of a C that is not finite")
    if out_features is None and len(bias.shape) and bias.shape[-1] > 1:
        out_features = bias.shape[-1]  # C may not widen the product of a Gemm
    if out_features is None:
        raise NoMatch("the weight is computed, and its out_features are not known")
    widened = _as_bias(bias, out_features, 2)
    if widened is None:
        raise NoMatch("C is not one number for each output feature")
    return widened


def _match_matmul(node: ir.Node) -> LinearLayer:
    x, weight_value = node.inputs
    assert x is not None
    assert weight_value is not None
    factor = resolve(weight_value)
    if factor is None:
        if resolve(x) is not None:
            return _match_from_left(node)
        producer = weight_value.producer()
        if producer is None or not is_standard(producer, "Transpose") or not _turns(producer, 2):
            raise NoMatch(f"the weight is not a constant ({_origin(weight_value)})")
        (turned,) = producer.inputs
        assert turned is not None
        layer = LinearLayer(node, x, _computed_weight(turned, x, is_transposed=True), is_transposed=True)
        return _with_known_width(_with_add(layer))
    shape = factor.shape
    weight = factor
    if len(shape) < 2:
        raise NoMatch(f"the weight has rank {len(shape)}")
    if len(shape) > 2:
        x_rank = None if x.shape is None else len(x.shape)
        if any(size != 1 for size in shape[:-2]) or x_rank is None or x_rank < len(shape):
            raise NoMatch(f"the weight has rank {len(shape)}: a product of batches")
        weight = weight.then("squeeze", lambda array: array.reshape(array.shape[-2:]))
    return _with_add(LinearLayer(node, x, weight.then("transpose", np.transpose), factor=factor))


def _match_from_left(node: ir.Node) -> LinearLayer:
    """Match ``(W x^T + B)^T``, with the B ``[out_features, 1]`` or without one."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    weight, before = resolve(left), right.producer()
    assert weight is not None
    if len(weight.shape) != 2:
        raise NoMatch(f"the constant is the left factor, and has rank {len(weight.shape)}")
    reason = NoMatch("the constant is the left factor, and there is no Transpose on both sides of the product")
    if before is None or not is_standard(before, "Transpose") or before.inputs[0] is None:
        raise reason
    x = before.inputs[0]
    rank = None if x.shape is None else len(x.shape)
    if rank is None:
        rank = len(before.attributes.get_ints("perm", []))
    if rank < 2 or not _turns(before, rank):
        raise reason
    bias, add, consumer = None, None, _only_consumer(node)
    if consumer is not None and is_standard(consumer, "Add"):
        other = consumer.inputs[1 if consumer.inputs[0] is node.outputs[0] else 0]
        bias, add = resolve(other), consumer
        if (
            bias is None
            or not 2 <= len(bias.shape) <= rank
            or bias.size != weight.shape[0]
            or bias.shape[-2] != bias.size
        ):
            raise reason
        bias = bias.then(f"bias of {bias.size}", lambda array: array.reshape(-1))
        consumer = _only_consumer(consumer)
    if consumer is None or not is_standard(consumer, "Transpose") or not _turns(consumer, rank):
        raise reason
    return LinearLayer(node, x, weight, bias, weight, is_transposed=True, add=add, turn=consumer)


def _only_consumer(node: ir.Node) -> ir.Node | None:
    """Return the one node that takes the node's result, if it is in the same graph and nobody else sees it."""
    (value,) = node.outputs
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1 or uses[0].node.graph is not node.graph:
        return None
    consumer: ir.Node = uses[0].node
    return consumer


def _turns(node: ir.Node, rank: int) -> bool:
    """Whether a Transpose changes the last two of that many dimensions, and no other."""
    if "perm" not in node.attributes:
        value = node.inputs[0]
        return rank == 2 and value is not None and value.shape is not None and len(value.shape) == 2
    return _perm(node, rank) == (*range(rank - 2), rank - 1, rank - 2)


def _computed_weight(value: ir.Value, x: ir.Value, is_transposed: bool) -> Computed:
    """Return a weight that is known only at run time, if it lies as MYLINEAR takes it: nothing is turned there."""
    if not is_transposed:
        raise NoMatch(f"the weight is not a constant ({_origin(value)})")
    dtype = value.dtype or x.dtype
    if dtype is None:
        raise NoMatch(f"the weight is computed, and its dtype is not known ({_origin(value)})")
    sizes = [None, None] if value.shape is None else [s if isinstance(s, int) else None for s in value.shape]
    if len(sizes) != 2:
        raise NoMatch(f"the weight has rank {len(sizes)}")
    return Computed(value, tuple(sizes), dtype)


def _with_known_width(layer: LinearLayer) -> LinearLayer:
    """Return the layer, if it has a bias or one can be made: a definition inside a model takes three inputs."""
    if layer.bias is None and layer.weight.shape[0] is None:
        raise NoMatch("the weight is computed, its out_features are not known, and there is no bias")
    return layer


def _with_add(layer: LinearLayer) -> LinearLayer:
    """Take the Add behind a MatMul in, if it is a bias; else return the layer as it is."""
    value, passages = layer.node.outputs[0], []
    rank = None if layer.x.shape is None else len(layer.x.shape)
    out_features = layer.weight.shape[0]
    if out_features is None:
        return layer
    while True:
        uses = value.uses()
        if value.is_graph_output() or len(uses) != 1:
            return layer
        ((consumer, index),) = uses
        if consumer.graph is not value.producer().graph:  # type: ignore[union-attr]
            return layer
        if is_standard(consumer, "Add"):
            break
        if index != 0 or not _keeps_features(consumer, rank, out_features):
            return layer
        if consumer.op_type == "Reshape":
            target = resolve(consumer.inputs[1])
            rank = None if target is None else target.shape[0]
        passages.append(consumer)
        value = consumer.outputs[0]
    other = consumer.inputs[1 - index]
    bias = None if other is None else resolve(other)
    bias = None if bias is None else _as_bias(bias, out_features, rank)
    if bias is None:
        return layer
    return replace(layer, bias=bias, passages=tuple(passages), add=consumer)


def _keeps_features(node: ir.Node, rank: int | None, out_features: int) -> bool:
    """Whether the node leaves the last dimension what it was, so that a bias may be added before it."""
    if is_standard(node, "Identity"):
        return True
    if is_standard(node, "Transpose") and rank is not None:
        return _perm(node, rank)[-1] == rank - 1
    if is_standard(node, "Reshape"):
        target = resolve(node.inputs[1])
        return target is not None and target.shape[0] > 0 and int(target.array()[-1]) == out_features > 0
    return False


def _origin(value: ir.Value) -> str:
    """Say where a value comes from that is no constant."""
    producer = value.producer()
    if producer is not None and is_standard(producer, "Cast") and resolve(producer.inputs[0]) is not None:
        return f"'{value.name}' is a constant that a Cast rounds or makes of other than floating-point numbers"
    if producer is not None:
        return f"'{value.name}' is computed by {producer.op_type}"
    if value.is_initializer() and value.is_graph_input():
        return f"'{value.name}' is also an input, which a caller may override"
    return f"'{value.name}' is an input of the graph or function"


_FOLDED = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Split", "Slice")
"""Operators that are done to a constant when the model is rewritten; none of them rounds a number."""


def resolve(value: ir.Value | None) -> Constant | None:
    """Return the constant that the value is, through `_FOLDED`; None if it is none."""
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() or value.const_value is None else Constant(value)
    node = value.producer()
    if node is None:
        return None
    if is_standard(node, "Constant"):
        return Constant(value) if value.const_value is not None or _read_constant(node, value) else None
    if not is_standard(node, *_FOLDED):
        return None
    inner = resolve(node.inputs[0])
    if inner is None or node.op_type == "Identity":
        return inner
    if node.op_type in ("Split", "Slice"):
        part = (
            _part_of_split(node, value, inner.shape) if node.op_type == "Split" else _part_of_slice(node, inner.shape)
        )
        return None if part is None else inner.then(f"part {part}", lambda array: array[part])
    if node.op_type == "Cast":
        return _cast(inner, ir.DataType(node.attributes.get_int("to", 0)))
    if node.op_type == "Transpose":
        perm = _perm(node, len(inner.shape))
        return inner.then(f"transpose {perm}", lambda array: np.transpose(array, perm))
    shape = _static_shape(node, inner.shape)
    return None if shape is None else inner.then(f"reshape {shape}", lambda array: array.reshape(shape))


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
    if constant.dtype not in _DTYPES or to not in _DTYPES:
        return None
    if constant.dtype == to:
        return constant
    dtype = to.numpy()
    cast = replace(constant.then(f"cast {to.name}", lambda array: array.astype(dtype)), cast_to=to)
    if (
        _DTYPES[constant.dtype].unit_roundoff <= _DTYPES[to].unit_roundoff
        or _DTYPES[constant.dtype].largest > _DTYPES[to].largest
    ):
        array = constant.array()
        with np.errstate(all="ignore"):
            if not np.array_equal(array.astype(dtype).astype(array.dtype), array, equal_nan=True):
                return None
    return cast


def _read_constant(node: ir.Node, value: ir.Value) -> bool:
    """Keep a Constant node's tensor with its value, as onnx_ir does for initializers."""
    value.const_value = ir.convenience.get_const_tensor(value)
    return value.const_value is not None


def _static_shape(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What Reshape, Squeeze, Unsqueeze or Flatten makes of a constant's shape."""
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1)
        return (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))
    wanted: list[int] | None
    if len(node.inputs) > 1:
        constant = resolve(node.inputs[1])
        wanted = None if constant is None else [int(size) for size in constant.array()]
    else:
        name = "shape" if node.op_type == "Reshape" else "axes"
        wanted = list(node.attributes.get_ints(name)) if name in node.attributes else None
    if node.op_type == "Squeeze":
        if wanted is None and len(node.inputs) > 1:
            return None
        axes = {a % len(shape) for a in wanted} if wanted is not None else {i for i, s in enumerate(shape) if s == 1}
        return tuple(size for i, size in enumerate(shape) if i not in axes)
    if wanted is None:
        return None
    if node.op_type == "Unsqueeze":
        rank = len(shape) + len(wanted)
        axes, sizes = {a % rank for a in wanted}, iter(shape)
        return tuple(1 if i in axes else next(sizes) for i in range(rank))
    if not node.attributes.get_int("allowzero", 0):
        wanted = [shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return np.broadcast_to(np.int8(0), shape).reshape(wanted).shape


def _perm(node: ir.Node, rank: int) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", list(range(rank))[::-1]))


def _as_bias(constant: Constant, out_features: int, rank: int | None) -> Constant | None:
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


def _scales_exactly(constant: Constant | Computed, factor: float) -> bool:
    """Whether the factor times the constant is the same in the constant's own dtype as in float64 or wider."""
    if factor == 1.0:
        return True
    if isinstance(constant, Computed):
        return False
    array = constant.array()
    with np.errstate(all="ignore"):
        scaled = scale(array, factor)
        exact = array.astype(np.longdouble) * np.longdouble(factor)
    return bool(np.array_equal(scaled.astype(np.longdouble), exact, equal_nan=True))


def scale(array: Array, factor: float) -> Array:
    """Return the factor times the array, in the array's dtype."""
    if factor == 1.0:
        return array
    with np.errstate(all="ignore"):
        return (array.astype(np.float64) * factor).astype(array.dtype)
