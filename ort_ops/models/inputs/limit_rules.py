"""How each operator hands limits of its results on to its inputs, or limits them itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx

from ort_ops.models.inputs.limits import ANY, FEW, ONE, ZERO, Limits, Scope


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _gather(node: onnx.NodeProto, scope: Scope) -> None:
    scope.meet(node.input[1], scope.index_into(node.input[0], _attribute(node, "axis", 0)))
    scope.meet(node.input[0], scope.of(node.output[0]))


def _gather_nd(node: onnx.NodeProto, scope: Scope) -> None:
    first, dims = _attribute(node, "batch_dims", 0), scope.dims.get(node.input[0])
    count = scope.size(node.input[1], -1)
    last = first + count if count is not None else len(dims or ())
    limits = ZERO
    if dims is not None:
        limits = ANY
        for axis in range(first, min(last, len(dims))):
            limits &= scope.index_into(node.input[0], axis)
    scope.meet(node.input[1], limits)
    scope.meet(node.input[0], scope.of(node.output[0]))


def _scatter(node: onnx.NodeProto, scope: Scope) -> None:
    scope.meet(node.input[1], scope.index_into(node.input[0], _attribute(node, "axis", 0)))
    for name in (node.input[0], node.input[2]):
        scope.meet(name, scope.of(node.output[0]))


def _one_hot(node: onnx.NodeProto, scope: Scope) -> None:
    depth = scope.constants.get(node.input[1])
    scope.meet(node.input[0], Limits(0, float(depth.reshape(-1)[0]) - 1) if depth is not None and depth.size else ZERO)


def _embed_layer_normalization(node: onnx.NodeProto, scope: Scope) -> None:
    for index, table in ((0, 2), (1, 4), (8, 3)):
        if index < len(node.input) and table < len(node.input):
            scope.meet(node.input[index], scope.index_into(node.input[table], 0))


def _reverse_sequence(node: onnx.NodeProto, scope: Scope) -> None:
    size = scope.size(node.input[0], _attribute(node, "time_axis", 0))
    scope.meet(node.input[1], Limits(1, 1 if size is None else size))
    scope.meet(node.input[0], scope.of(node.output[0]))


def _hands_on(*which: int) -> Callable[[onnx.NodeProto, Scope], None]:
    """The rule of an operator that moves numbers of these inputs (all, if none is named) into its results."""

    def rule(node: onnx.NodeProto, scope: Scope) -> None:
        limits = ANY
        for name in node.output:
            limits &= scope.of(name)
        for index, name in enumerate(node.input):
            if not which or index in which:
                scope.meet(name, limits)

    return rule


def _sum(sign: int) -> Callable[[onnx.NodeProto, Scope], None]:
    """The rule of ``a + sign b``: the rest beside a constant, or half of the range for each of two unknowns."""

    def rule(node: onnx.NodeProto, scope: Scope) -> None:
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


def _product(node: onnx.NodeProto, scope: Scope) -> None:
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


def _running_total(node: onnx.NodeProto, scope: Scope) -> None:
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


def _clip(node: onnx.NodeProto, scope: Scope) -> None:
    limits = scope.of(node.output[0])
    ends = [scope.constants.get(name) for name in [*node.input[1:], "", ""][:2]]
    low, high = (
        default if end is None or end.size != 1 else float(end.item())
        for end, default in zip(ends, (-math.inf, math.inf), strict=True)
    )
    if not limits.low <= low <= high <= limits.high:
        scope.meet(node.input[0], limits)


def _remainder(node: onnx.NodeProto, scope: Scope) -> None:
    """The rule of Mod: whatever the number, its remainder by a constant that fits is within the limits."""
    limits, divisor = scope.of(node.output[0]), scope.constants.get(node.input[1])
    if divisor is None or not divisor.size or not 0 < float(divisor.max()) <= limits.high + 1:
        scope.meet(node.input[0], limits)


def _takes(limits: Mapping[int, Limits], hands_on: bool = True) -> Callable[[onnx.NodeProto, Scope], None]:
    """The rule of an operator that some inputs configure."""

    def rule(node: onnx.NodeProto, scope: Scope) -> None:
        for index, own in limits.items():
            if index < len(node.input):
                reason = f"{own.reason} {node.op_type} '{node.name or node.output[0]}'" if own.reason else ""
                scope.meet(node.input[index], Limits(own.low, own.high, reason))
        if hands_on:
            _hands_on(0)(node, scope)

    return rule


_SHAPE = Limits(reason="it gives the shape to")
RULES: dict[str, Callable[[onnx.NodeProto, Scope], None]] = {
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
    "ConstantOfShape": _takes({0: FEW}, hands_on=False),
    "Range": _takes({0: ZERO, 1: FEW, 2: ONE}, hands_on=False),
    "Tile": _takes({1: FEW}),
    "TopK": _takes({1: ONE}, hands_on=False),
    "Slice": _takes({1: ZERO, 2: ONE, 3: ZERO, 4: ONE}),
    "Squeeze": _takes({1: ZERO}),
    "Unsqueeze": _takes({1: ZERO}),
    "Where": _hands_on(1, 2),
    **dict.fromkeys(("Concat", "Max", "Min"), _hands_on()),
    **dict.fromkeys(
        ("Cast", "CastLike", "Flatten", "Identity", "Transpose", "Split", "Pad", "Dropout", "Compress", "Floor", "Ceil",
         "Round", "ReduceMax", "ReduceMin", "DepthToSpace", "SpaceToDepth"), _hands_on(0)
    ),
}  # fmt: skip
