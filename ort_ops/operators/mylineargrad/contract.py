"""The operator: MYLINEARGRAD, domain ``mylinear``, version 1: the gradients of MYLINEAR, all in one node.

    GX = G W                         G [..., out_features], X [..., in_features], W [out_features, in_features]
    GW = G^T X                       GX [..., in_features], GW [out_features, in_features], GB [out_features]
    GB = sum of the rows of G

In GW and GB, a row is what stands at one index of the leading dimensions, which are the same in G and X: G^T X and the
sum go over all of them. Each output is there only where a node names it, in any place: ``["", "GW", ""]`` is right.
A node without any output is wrong.

G and X have rank 1 or more (rank 1 is one row); every dimension may be 0, and a sum of nothing is 0; NaN and infinities
propagate as in IEEE arithmetic. All have the same element type: float64, float32, float16 or bfloat16. The two small
ones are summed in float32 and rounded once, to nearest even.

The order of each sum is up to the kernel. Where a partial sum may overflow, the results are right that the contract of
MYLINEAR (`ort_ops.operators.mylinear.contract`) allows for its sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.element_types import FLOATS, ElementType
from ort_ops.opdef.onnx_objects import single_type, widest_accumulator
from ort_ops.opdef.operator import Operator, Parameter, TypeVariable
from ort_ops.opdef.shapes import Dim, Shape, are_different, better_known, format_shape

if TYPE_CHECKING:
    import onnx

DOMAIN = "mylinear"
NAME = "MYLINEARGRAD"
SINCE_VERSION = 1

ELEMENT_TYPES = FLOATS
_T = TypeVariable("T", tuple(element_type.name for element_type in ELEMENT_TYPES))


def infer_shape(shapes: Sequence[Shape | None], attributes: Mapping[str, Any] | None = None) -> list[Shape | None]:
    """Return the shapes of GX, GW and GB from those of G, X and W; None for an unknown one.

    Raises: ContractError if the known dimensions break the contract.

    >>> infer_shape([["batch", 5], ["batch", 3], [5, 3]])
    [['batch', 3], [5, 3], [5]]
    """
    grad, x, weight = shapes
    if x is not None and len(x) == 0:
        raise MYLINEARGRAD.error("x", "[..., in_features] with rank 1 or more", "[]")
    if grad is not None and len(grad) == 0:
        raise MYLINEARGRAD.error("grad", "[..., out_features] with rank 1 or more", "[]")
    if weight is not None and len(weight) != 2:
        raise MYLINEARGRAD.error("weight", "[out_features, in_features]", format_shape(weight))
    out_features, in_features = weight if weight is not None else (None, None)
    if x is not None and are_different(x[-1], in_features):
        rule = f"[out_features, {x[-1]}] (x has in_features {x[-1]})"
        hint = "is it transposed?" if out_features == x[-1] else ""
        raise MYLINEARGRAD.error("weight", rule, format_shape([out_features, in_features]), hint)
    if grad is not None:
        _check_grad(grad, x, out_features)
        out_features = better_known(out_features, grad[-1])
    if x is not None:
        in_features = better_known(in_features, x[-1])
    leading = None if x is None else x[:-1]
    if grad is not None:
        leading = grad[:-1] if leading is None else list(map(better_known, leading, grad[:-1]))
    grad_x = None if leading is None else [*leading, in_features]
    return [grad_x, [out_features, in_features], [out_features]]


def _check_grad(grad: Shape, x: Shape | None, out_features: Dim) -> None:
    """Check the shape of G against the leading dimensions of X, and W. Raises: ContractError."""
    if are_different(grad[-1], out_features):
        rule = f"[..., {out_features}] (weight has out_features {out_features})"
        raise MYLINEARGRAD.error("grad", rule, format_shape(grad))
    if x is None:
        return
    if len(grad) != len(x) or any(map(are_different, grad[:-1], x[:-1])):
        rule = f"{format_shape([*x[:-1], better_known(out_features, grad[-1])])} (x is {format_shape(x)})"
        raise MYLINEARGRAD.error("grad", rule, format_shape(grad))


def make_body(opset_version: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write the three gradients in standard operators; see `ort_ops.opdef.operator.Operator`.

    Flatten along the last axis makes a matrix of any rank, 1 included. G^T X is Gemm and not Transpose and MatMul,
    which onnxruntime up to 1.25 fuses into an operator that it has no float64 kernel for. G W is MatMul, because Gemm
    takes matrices only, and Reshape around it would lose the shapes.

    What a node does not ask for is computed all the same where a runtime does not remove nodes that nobody reads, as
    onnxruntime does not in the bodies that it inlines. The results are right; inline and prune for speed.
    Two runtimes' faults with zero sizes: onnxruntime 1.17's Gemm refuses G without rows, and its MatMul leaves G W
    unset where there are no out_features.
    """
    from onnx import helper

    accumulator, element_type = widest_accumulator(types["T"]), single_type(types["T"])
    is_cast = accumulator != element_type
    inputs, outputs = (
        [f"{name}_{word}" if is_cast else name for name in names]
        for names, word in (("GXW", "cast"), (("GX", "GW", "GB"), "sum"))
    )
    (grad, x, weight), (grad_x, grad_weight, grad_bias) = inputs, outputs
    nodes = [
        helper.make_node("Cast", [name], [cast], to=accumulator.onnx_type)
        for name, cast in zip("GXW", inputs, strict=True)
        if is_cast
    ]
    nodes += [
        helper.make_node("MatMul", [grad, weight], [grad_x]),
        helper.make_node("Flatten", [grad], ["G_rows"], axis=-1),
        helper.make_node("Flatten", [x], ["X_rows"], axis=-1),
        helper.make_node("Gemm", ["G_rows", "X_rows"], [grad_weight], transA=1),
    ]
    if opset_version < 13:
        nodes.append(helper.make_node("ReduceSum", ["G_rows"], [grad_bias], axes=[0], keepdims=0))
    else:
        nodes.append(helper.make_node("Constant", [], ["axes"], value_ints=[0]))
        nodes.append(helper.make_node("ReduceSum", ["G_rows", "axes"], [grad_bias], keepdims=0))
    if not is_cast:
        return nodes
    casts = zip(outputs, ("GX", "GW", "GB"), strict=True)
    if element_type is None:
        return nodes + [helper.make_node("CastLike", [result, "G"], [name]) for result, name in casts]
    return nodes + [helper.make_node("Cast", [result], [name], to=element_type.onnx_type) for result, name in casts]


MYLINEARGRAD = Operator(
    domain=DOMAIN,
    name=NAME,
    since_version=SINCE_VERSION,
    inputs=(
        Parameter("G", "grad", _T, "[..., out_features], the gradient of MYLINEAR's result; rank 1 or more."),
        Parameter("X", "x", _T, "[..., in_features], leading dimensions of G."),
        Parameter("W", "weight", _T, "[out_features, in_features]."),
    ),
    outputs=(
        Parameter("GX", "grad_x", _T, "G W, [..., in_features].", is_optional=True),
        Parameter("GW", "grad_weight", _T, "G^T X, [out_features, in_features].", is_optional=True),
        Parameter("GB", "grad_bias", _T, "The sum of the rows of G, [out_features].", is_optional=True),
    ),
    doc="Gradients of MYLINEAR: GX = G W, GW = G^T X and GB = sum of the rows of G, each where it is asked for; "
    "float16 and bfloat16 sum in float32 and round once.",
    infer_shape=infer_shape,
    make_body=make_body,
    min_opset=11,
    package="ort-mylinear",
)
