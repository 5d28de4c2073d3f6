"""The operator: MYLINEAR, domain ``mylinear``, version 1. Everything else in this project follows this file.

    Y = X W^T + B        X [..., in_features], W [out_features, in_features], B [out_features] or absent
                         Y [..., out_features]

X has rank 1 or more; every dimension may be 0; NaN and infinities propagate as in IEEE arithmetic. All have the same
element type: float64, float32, float16 or bfloat16. The two small ones are summed in float32 and rounded once, to
nearest even.

The order of a sum is up to the kernel, so a partial sum may overflow where the whole sum does not. Let P be the sum of
the positive terms of one element (products and bias), N the sum of the absolute values of the negative ones, and L the
largest number of the accumulator's type. Every partial sum lies between -N and P. The kernel returns
    the sum within its error bound (or the infinity that it rounds to),
    also +infinity where P >= L, and -infinity where N >= L,
    also NaN where both hold, for +infinity and -infinity may have been added;
An infinity among the terms counts for P or N by its sign. Where neither holds, only the first is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.element_types import FLOATS, ElementType
from ort_ops.opdef.onnx_objects import single_type, widest_accumulator
from ort_ops.opdef.operator import AbsentInput, ContractError, Operator, Parameter, TypeVariable
from ort_ops.opdef.shapes import Shape, are_different
from ort_ops.opdef.shapes import format_shape as format_shape

if TYPE_CHECKING:
    import onnx

DOMAIN = "mylinear"
NAME = "MYLINEAR"
SINCE_VERSION = 1

ELEMENT_TYPES = FLOATS
ABSENT_BIAS = -0.0
"""The bias that stands for "no bias" in a model: x + (-0.0) is x for every x, also for -0.0."""
_T = TypeVariable("T", tuple(element_type.name for element_type in ELEMENT_TYPES))


def infer_shape(shapes: Sequence[Shape | None]) -> Shape | None:
    """Return the shape of Y from those of X, W and B; None for an unknown or absent one.

    Raises: ContractError if the known dimensions break the contract.

    >>> infer_shape([["batch", 3], [5, 3], [5]])
    ['batch', 5]
    """
    x, weight, bias = (*shapes, None, None)[:3]
    if x is not None and len(x) == 0:
        raise ContractError(_message("x", "[..., in_features] with rank 1 or more", "[]"))
    if weight is not None and len(weight) != 2:
        raise ContractError(_message("weight", "[out_features, in_features]", format_shape(weight)))
    if x is not None and weight is not None and are_different(x[-1], weight[1]):
        rule = f"[out_features, {x[-1]}] (x has in_features {x[-1]})"
        hint = "is it transposed?" if weight[0] == x[-1] else ""
        raise ContractError(_message("weight", rule, format_shape(weight), hint))
    out_features = None if weight is None else weight[0]
    if bias is not None and (len(bias) != 1 or are_different(bias[0], out_features)):
        known = isinstance(out_features, int)
        rule = f"[{out_features}] (weight has out_features {out_features})" if known else "[out_features]"
        raise ContractError(_message("bias", rule, format_shape(bias)))
    if out_features is None and bias is not None:
        out_features = bias[0]
    return None if x is None else [*x[:-1], out_features]


def make_body(opset_version: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write ``Y = X W^T + B`` in standard operators; see `ort_ops.opdef.operator.Operator`.

    A type that is its own accumulator needs no cast. One with a wider accumulator is cast to that and back, with one
    rounding. Several types are cast to the widest accumulator among them, and back with ``CastLike``. The product is
    MatMul, because Gemm takes matrices only, and Reshape around it would lose the shapes.
    """
    return _make_body(opset_version, types["T"], transpose_weight)


def make_former_body(opset_version: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write the body that older models have, also in float64: Transpose next to MatMul."""
    return _make_body(opset_version, types["T"], lambda name, *_: [_transpose(name)])


def _make_body(
    opset_version: int,
    types: Sequence[ElementType],
    transposed: Callable[[str, int, ElementType], list[onnx.NodeProto]],
) -> list[onnx.NodeProto]:
    from onnx import helper

    accumulator, element_type = widest_accumulator(types), single_type(types)
    if accumulator == element_type:
        return [
            *transposed("W", opset_version, accumulator),
            helper.make_node("MatMul", ["X", "W_transposed"], ["product"]),
            helper.make_node("Add", ["product", "B"], ["Y"]),
        ]
    nodes = [helper.make_node("Cast", [name], [f"{name}_cast"], to=accumulator.onnx_type) for name in "XWB"]
    nodes += [
        *transposed("W_cast", opset_version, accumulator),
        helper.make_node("MatMul", ["X_cast", "W_transposed"], ["product"]),
        helper.make_node("Add", ["product", "B_cast"], ["sum"]),
    ]
    if element_type is None:
        return [*nodes, helper.make_node("CastLike", ["sum", "X"], ["Y"])]
    return [*nodes, helper.make_node("Cast", ["sum"], ["Y"], to=element_type.onnx_type)]


def transpose_weight(name: str, opset_version: int, accumulator: ElementType) -> list[onnx.NodeProto]:
    """Transpose a matrix, to ``W_transposed``.

    Up to 1.25, onnxruntime fuses Transpose and MatMul into an operator that it has no float64 kernel for, and then does
    not load the model. So in float64 an Unsqueeze and a Squeeze, which copy nothing, keep the two apart. With a
    constant weight, all of it is computed when the model is loaded.
    """
    from onnx import helper

    if accumulator.name != "float64":
        return [_transpose(name)]
    if opset_version < 13:
        return [
            helper.make_node("Unsqueeze", [name], ["W_batch"], axes=[0]),
            helper.make_node("Transpose", ["W_batch"], ["W_batch_transposed"], perm=[0, 2, 1]),
            helper.make_node("Squeeze", ["W_batch_transposed"], ["W_transposed"], axes=[0]),
        ]
    return [
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("Unsqueeze", [name, "axes"], ["W_batch"]),
        helper.make_node("Transpose", ["W_batch"], ["W_batch_transposed"], perm=[0, 2, 1]),
        helper.make_node("Squeeze", ["W_batch_transposed", "axes"], ["W_transposed"]),
    ]


def _transpose(name: str) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Transpose", [name], ["W_transposed"], perm=[1, 0])


def _infer_shapes(shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> list[Shape | None]:
    return [infer_shape(shapes)]


MYLINEAR = Operator(
    domain=DOMAIN,
    name=NAME,
    since_version=SINCE_VERSION,
    inputs=(
        Parameter("X", "x", _T, "[..., in_features], rank 1 or more."),
        Parameter("W", "weight", _T, "[out_features, in_features]."),
        Parameter(
            "B",
            "bias",
            _T,
            "[out_features]; nothing is added if absent.",
            is_optional=True,
            absent=AbsentInput(ABSENT_BIAS, (("W", 0),)),
        ),
    ),
    outputs=(Parameter("Y", "y", _T, "[..., out_features]."),),
    doc="Linear transformation Y = X W^T + B; float16 and bfloat16 sum in float32 and round once.",
    infer_shape=_infer_shapes,
    make_body=make_body,
    former_bodies=(make_former_body,),
    package="ort-mylinear",
)


def check_arguments(shapes: Sequence[Shape | None], element_types: Sequence[str | None]) -> Shape:
    """Check concrete arguments X, W and B (None for an absent bias) and return the shape of Y.

    Raises: ContractError (a ValueError) that says which argument breaks which rule.
    """
    (result,) = MYLINEAR.check_arguments(shapes, element_types)
    assert result is not None
    return result


def _message(argument: str, rule: str, got: str, hint: str = "") -> str:
    return MYLINEAR.message(argument, rule, got, hint)
