"""Find the integers that a graph can take: each index within its axis, followed back to the inputs of the model.

The nodes are visited once, last to first. A node that uses a value as an index limits it (Gather: from 0 to the size of
its axis - 1). A node that passes numbers on, or does simple arithmetic with them, turns the limits of its result into
limits of its inputs. Unknown values limit nothing; an index into an axis of unknown size can only be 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.models.graphs import bodies
from ort_ops.models.inputs.skeleton import Dims, infer_dims

Array = NDArray[Any]
_NO_NUMBERS = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
_MAX_CONSTANT = 1 << 16  # elements of the largest tensor whose values are read
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Limits:
    """The smallest and the largest number that a value may have; ``reason`` says why there is none."""

    low: float = -math.inf
    high: float = math.inf
    reason: str = ""

    @property
    def is_bounded(self) -> bool:
        return self.low > -math.inf or self.high < math.inf

    def __and__(self, other: Limits) -> Limits:
        return Limits(max(self.low, other.low), min(self.high, other.high), self.reason or other.reason)


ANY = Limits()
_FEW, _ZERO, _ONE = Limits(1, 3), Limits(0, 0), Limits(1, 1)


@dataclass
class _Scope:
    """What is known of the values of one graph or function: limits (filled from last to first), shapes, constants."""

    dims: Mapping[str, Dims]
    constants: Mapping[str, Array]
    sizes: Mapping[str, int]
    functions: Mapping[tuple[str, str], onnx.FunctionProto]
    limits: dict[str, Limits] = field(default_factory=dict)
    calls: dict[Any, list[Limits]] = field(default_factory=dict)

    def of(self, name: str) -> Limits:
        return self.limits.get(name, ANY)

    def meet(self, name: str, limits: Limits) -> None:
        if name and (limits.is_bounded or limits.reason):
            self.limits[name] = self.of(name) & limits

    def size(self, name: str, axis: int) -> int | None:
        """Return the size of an axis; None if it is not known."""
        dims = self.dims.get(name)
        if dims is None or not -len(dims) <= axis < len(dims):
            return None
        dim = dims[axis]
        return self.sizes.get(dim) if isinstance(dim, str) else dim

    def index_into(self, name: str, axis: int) -> Limits:
        size = self.size(name, axis)
        return _ZERO if size is None else Limits(0, size - 1)


class IntegerLimits:
    """Find the limits of a model's inputs. Shapes are inferred once, for all sizes of the dynamic dimensions."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.dims = infer_dims(model)
        self._constants = dict(_constants(model.graph))
        self._functions = {(f.domain, f.name): f for f in model.functions}

    def of_inputs(self, sizes: Mapping[str, int]) -> dict[str, Limits]:
        """Return the limits of each input of the main graph, with these sizes of the dynamic dimensions."""
        scope = _Scope(self.dims, self._constants, sizes, self._functions)
        _visit(self._model.graph.node, scope)
        return {value.name: scope.of(value.name) for value in self._model.graph.input}


def _visit(nodes: Sequence[onnx.NodeProto], scope: _Scope) -> None:
    for node in reversed(nodes):
        function = scope.functions.get((node.domain, node.op_type))
        if function is not None:
            _visit_call(node, function, scope)
        elif node.op_type in ("If", "Loop", "Scan"):
            _visit_bodies(node, scope)
        elif node.domain in ("", "ai.onnx", _MICROSOFT) and node.op_type in _RULES:
            _RULES[node.op_type](node, scope)


def _visit_call(node: onnx.NodeProto, function: onnx.FunctionProto, scope: _Scope) -> None:
    """Visit a function once for each combination of shapes, constants and limits that it is called with."""
    inner = _Scope(
        {formal: scope.dims[name] for formal, name in zip(function.input, node.input, strict=False)
         if name in scope.dims} | {k: list(a.shape) for k, a in _constants(function)},
        {formal: scope.constants[name] for formal, name in zip(function.input, node.input, strict=False)
         if name in scope.constants} | dict(_constants(function)),
        scope.sizes, scope.functions, calls=scope.calls,
    )  # fmt: skip
    for formal, name in zip(function.output, node.output, strict=False):
        inner.meet(formal, scope.of(name))
    known = [(name, tuple(inner.dims.get(name, ())), inner.of(name)) for name in (*function.input, *function.output)]
    numbers = [inner.constants[name].tobytes() for name in function.input if name in inner.constants]
    key = (function.domain, function.name, tuple(known), tuple(numbers))
    if key not in scope.calls:
        scope.calls[key] = []  # a function that calls itself, which is an error elsewhere, ends here
        _visit(function.node, inner)
        scope.calls[key] = [inner.of(formal) for formal in function.input]
    for limits, name in zip(scope.calls[key], node.input, strict=False):
        scope.meet(name, limits)


def _visit_bodies(node: onnx.NodeProto, scope: _Scope) -> None:
    """Pass limits to the results of the bodies, visit them, and pass on the limits of their own inputs."""
    skipped = {"Loop": 1, "Scan": 0, "If": 0}[node.op_type]
    for _, body in bodies(node):
        for output, name in zip(list(body.output)[skipped:], node.output, strict=False):
            scope.meet(output.name, scope.of(name))
        _visit(body.node, scope)
        if node.op_type != "If":
            for value, name in zip(body.input, node.input, strict=False):
                scope.meet(name, scope.of(value.name))
    if node.op_type == "Loop" and node.input[0]:
        scope.meet(node.input[0], _FEW)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _gather(node: onnx.NodeProto, scope: _Scope) -> None:
    scope.meet(node.input[1], scope.index_into(node.input[0], _attribute(node, "axis", 0)))
    scope.meet(node.input[0], scope.of(node.output[0]))


def _gather_nd(node: onnx.NodeProto, scope: _Scope) -> None:
    first, dims = _attribute(node, "batch_dims", 0), scope.dims.get(node.input[0])
    count = scope.size(node.input[1], -1)
    last = first + count if count is not None else len(dims or ())
    limits = _ZERO
    if dims is not None:
        limits = ANY
        for axis in range(first, min(last, len(dims))):
            limits &= scope.index_into(node.input[0], axis)
    scope.meet(node.input[1], limits)
    scope.meet(node.input[0], scope.of(node.output[0]))


def _scatter(node: onnx.NodeProto, scope: _Scope) -> None:
    scope.meet(node.input[1], scope.index_into(node.input[0], _attribute(node, "axis", 0)))
    for name in (node.input[0], node.input[2]):
        scope.meet(name, scope.of(node.output[0]))


def _one_hot(node: onnx.NodeProto, scope: _Scope) -> None:
    depth = scope.constants.get(node.input[1])
    scope.meet(node.input[0], Limits(0, float(depth.reshape(-1)[0]) - 1) if depth is not None and depth.size else _ZERO)


def _embed_layer_normalization(node: onnx.NodeProto, scope: _Scope) -> None:
    for index, table in ((0, 2), (1, 4), (8, 3)):
        if index < len(node.input) and table < len(node.input):
            scope.meet(node.input[index], scope.index_into(node.input[table], 0))


def _reverse_sequence(node: onnx.NodeProto, scope: _Scope) -> None:
    size = scope.size(node.input[0], _attribute(node, "time_axis", 0))
    scope.meet(node.input[1], Limits(1, 1 if size is None else size))
    scope.meet(node.input[0], scope.of(node.output[0]))


def _hands_on(*which: int) -> Callable[[onnx.NodeProto, _Scope], None]:
    """The rule of an operator that moves numbers of these inputs (all, if none is named) into its results."""

    def rule(node: onnx.NodeProto, scope: _Scope) -> None:
        limits = ANY
        for name in node.output:
            limits &= scope.of(name)
        for index, name in enumerate(node.input):
            if not which or index in which:
                scope.meet(name, limits)

    return rule


def _sum(sign: int) -> Callable[[onnx.NodeProto, _Scope], None]:
    """The rule of ``a + sign b``: the rest beside a constant, or half of the range for each of two unknowns."""

    def rule(node: onnx.NodeProto, scope: _Scope) -> None:
        limits = scope.of(node.output[0])
        if not (limits.is_bounded or limits.reason):
            return
        a, b = node.input[:2]
        for name, other, own, others in ((a, b, 1, sign), (b, a, sign, 1)):
            constant = scope.constants.get(other)
            if constant is None or not constant.size:
                scope.meet(name, Limits(limits.low / 2 if own > 0 else 0, _share(limits.high, 2) if own > 0 else 0))
                continue
            ends = [others * float(constant.min()), others * float(constant.max())]
            low, high = limits.low - min(ends), limits.high - max(ends)
            scope.meet(name, Limits(low, high) if own > 0 else Limits(-high, -low))

    return rule


def _share(limit: float, parts: float) -> float:
    """Return the largest whole number whose product with ``parts`` is at most ``limit``; infinity stays."""
    return limit if math.isinf(limit) else limit // parts


def _product(node: onnx.NodeProto, scope: _Scope) -> None:
    limits = scope.of(node.output[0])
    if not limits.is_bounded:
        return
    a, b = node.input[:2]
    for name, other in ((a, b), (b, a)):
        constant = scope.constants.get(other)
        largest = 0.0 if constant is None or not constant.size else float(np.abs(constant).max())
        if constant is None:
            scope.meet(name, Limits(0, math.floor(math.sqrt(max(limits.high, 0))) if limits.high < math.inf else 1))
        elif largest:
            scope.meet(name, Limits(-_share(-limits.low, largest), _share(limits.high, largest)))


def _running_total(node: onnx.NodeProto, scope: _Scope) -> None:
    """The rule of CumSum and ReduceSum: each number may have its share of the sum, if the size is known."""
    limits = scope.of(node.output[0])
    if not limits.is_bounded:
        return
    dims = scope.dims.get(node.input[0]) or []
    sizes = [scope.size(node.input[0], axis) for axis in range(len(dims))]
    count = max((size for size in sizes if size is not None), default=1)
    if node.op_type == "ReduceSum":
        count = math.prod(size for size in sizes if size is not None)
    scope.meet(node.input[0], Limits(0, _share(limits.high, max(1, count))))


def _clip(node: onnx.NodeProto, scope: _Scope) -> None:
    limits = scope.of(node.output[0])
    ends = [scope.constants.get(name) for name in [*node.input[1:], "", ""][:2]]
    low, high = (
        default if end is None or end.size != 1 else float(end.item())
        for end, default in zip(ends, (-math.inf, math.inf), strict=True)
    )
    if not limits.low <= low <= high <= limits.high:
        scope.meet(node.input[0], limits)


def _remainder(node: onnx.NodeProto, scope: _Scope) -> None:
    """The rule of Mod: whatever the number, its remainder by a constant that fits is within the limits."""
    limits, divisor = scope.of(node.output[0]), scope.constants.get(node.input[1])
    if divisor is None or not divisor.size or not 0 < float(divisor.max()) <= limits.high + 1:
        scope.meet(node.input[0], limits)


def _takes(limits: Mapping[int, Limits], hands_on: bool = True) -> Callable[[onnx.NodeProto, _Scope], None]:
    """The rule of an operator that some inputs configure."""

    def rule(node: onnx.NodeProto, scope: _Scope) -> None:
        for index, own in limits.items():
            if index < len(node.input):
                reason = f"{own.reason} {node.op_type} '{node.name or node.output[0]}'" if own.reason else ""
                scope.meet(node.input[index], Limits(own.low, own.high, reason))
        if hands_on:
            _hands_on(0)(node, scope)

    return rule


_SHAPE = Limits(reason="it gives the shape to")
_RULES: dict[str, Callable[[onnx.NodeProto, _Scope], None]] = {
    "Gather": _gather,
    "GatherElements": _gather,
    "GatherBlockQuantized": _gather,
    "GatherND": _gather_nd,
    "Scatter": _scatter,
    "ScatterElements": _scatter,
    "ScatterND": _gather_nd,
    "OneHot": _one_hot,
    "EmbedLayerNormalization": _embed_layer_normalization,
    "ReverseSequence": _reverse_sequence,
    "Add": _sum(1),
    "Sub": _sum(-1),
    "Mul": _product,
    "CumSum": _running_total,
    "ReduceSum": _running_total,
    "Clip": _clip,
    "Mod": _remainder,
    "Reshape": _takes({1: _SHAPE}),
    "Expand": _takes({1: _SHAPE}),
    "Resize": _takes({2: _SHAPE, 3: _SHAPE}),
    "Upsample": _takes({1: _SHAPE}),
    "ConstantOfShape": _takes({0: _FEW}, hands_on=False),
    "Range": _takes({0: _ZERO, 1: _FEW, 2: _ONE}, hands_on=False),
    "Tile": _takes({1: _FEW}),
    "TopK": _takes({1: _ONE}, hands_on=False),
    "Slice": _takes({1: _ZERO, 2: _ONE, 3: _ZERO, 4: _ONE}),
    "Squeeze": _takes({1: _ZERO}),
    "Unsqueeze": _takes({1: _ZERO}),
    "Where": _hands_on(1, 2),
    **dict.fromkeys(("Concat", "Max", "Min"), _hands_on()),
    **dict.fromkeys(
        ("Cast", "CastLike", "Flatten", "Identity", "Transpose", "Split", "Pad", "Dropout", "Compress", "Floor", "Ceil",
         "Round", "ReduceMax", "ReduceMin", "DepthToSpace", "SpaceToDepth"), _hands_on(0)
    ),
}  # fmt: skip


def _constants(container: onnx.GraphProto | onnx.FunctionProto) -> list[tuple[str, Array]]:
    """Small stored tensors by name, those of the bodies too."""
    found = []
    if isinstance(container, onnx.GraphProto):
        found = [(tensor.name, tensor) for tensor in container.initializer]
    pending = list(container.node)
    arrays = []
    while pending:
        node = pending.pop()
        for _, body in bodies(node):
            pending += body.node
            found += [(tensor.name, tensor) for tensor in body.initializer]
        if node.op_type == "Constant" and len(node.attribute) == 1 and not node.attribute[0].ref_attr_name:
            value = helper.get_attribute_value(node.attribute[0])
            if isinstance(value, onnx.TensorProto):
                found.append((node.output[0], value))
            elif isinstance(value, int | float):
                arrays.append((node.output[0], np.asarray(value)))
    for name, tensor in found:
        is_here = tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.data_type not in _NO_NUMBERS
        if is_here and math.prod(tensor.dims) <= _MAX_CONSTANT:
            arrays.append((name, numpy_helper.to_array(tensor)))
    return arrays
