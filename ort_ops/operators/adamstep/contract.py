"""The operator: ADAMSTEP, domain ``mylinear``, version 1: one step of AdamW for one parameter, in one node.

    MN = M + (1 - BETA1) (G - M)
    VN = BETA2 V + (1 - BETA2) G G
    PN = (1 - LR DECAY) P - LR / (1 - BETA1^STEP) MN / (sqrt(VN) / sqrt(1 - BETA2^STEP) + EPS)

P is the parameter, G its gradient, M and V are what torch calls exp_avg and exp_avg_sq: all four have one shape, any,
and one element type, float64 or float32; so have PN, MN and VN, the next P, M and V. The others are scalars: STEP, the
number of this step, in int64, the first is 1; LR, BETA1, BETA2, EPS and DECAY in float64. Adam without decoupled
weight decay has a DECAY of 0.

What is made of scalars alone is computed in float64, and then rounded once to the element type. NaN and infinities
propagate as in IEEE arithmetic. It is what torch's own kernels compute with BETA1 above 0.5, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.onnx_objects import single_type
from ort_ops.opdef.operator import Operator, Parameter, TypeVariable
from ort_ops.opdef.shapes import Shape, are_different, better_known, format_shape

if TYPE_CHECKING:
    import onnx

    from ort_ops.opdef.element_types import ElementType

DOMAIN = "mylinear"
NAME = "ADAMSTEP"
SINCE_VERSION = 1

T = TypeVariable("T", ("float64", "float32"))
COUNT = TypeVariable("I", ("int64",))
SCALAR = TypeVariable("D", ("float64",))


def infer_shape(shapes: Sequence[Shape | None], attributes: Mapping[str, Any] | None = None) -> list[Shape | None]:
    """Return the shapes of PN, MN and VN; None for an unknown one.

    Raises: ContractError if the known dimensions break the contract.

    >>> infer_shape([[3, None], [3, 4], None, None, [], [], [], [], [], []])
    [[3, 4], [3, 4], [3, 4]]
    """
    known: Shape | None = None
    for parameter, shape in zip(ADAMSTEP.inputs[:4], shapes, strict=False):
        if shape is None:
            continue
        if known is not None and (len(shape) != len(known) or any(map(are_different, shape, known))):
            raise ADAMSTEP.error(parameter.argument, f"{format_shape(known)}, the shape of parameter", _shown(shape))
        known = shape if known is None else list(map(better_known, known, shape))
    for parameter, shape in zip(ADAMSTEP.inputs[4:], shapes[4:], strict=False):
        if shape:
            raise ADAMSTEP.error(parameter.argument, "a scalar", _shown(shape))
    return [known, known, known]


def _shown(shape: Shape) -> str:
    return format_shape(shape)


def make_body(opset_version: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write the step in standard operators, in the order of torch's kernels; see `ort_ops.opdef.operator.Operator`."""
    from onnx import TensorProto, helper

    node = helper.make_node
    element_type = single_type(types["T"])
    nodes = [
        node("Constant", [], ["one"], value=helper.make_tensor("one", TensorProto.DOUBLE, [], [1.0])),
        node("Cast", ["STEP"], ["steps"], to=TensorProto.DOUBLE),
    ]

    def of_type(scalar: str) -> str:
        typed = f"{scalar}_typed"
        if element_type is None:
            nodes.append(node("CastLike", [scalar, "P"], [typed]))
        else:
            nodes.append(node("Cast", [scalar], [typed], to=element_type.onnx_type))
        return typed

    nodes += [
        node("Mul", ["LR", "DECAY"], ["shrinkage"]),
        node("Sub", ["one", "shrinkage"], ["kept"]),
        node("Sub", ["one", "BETA1"], ["weight1"]),
        node("Sub", ["one", "BETA2"], ["weight2"]),
        node("Pow", ["BETA1", "steps"], ["power1"]),
        node("Pow", ["BETA2", "steps"], ["power2"]),
        node("Sub", ["one", "power1"], ["correction1"]),
        node("Sub", ["one", "power2"], ["correction2"]),
        node("Sqrt", ["correction2"], ["root"]),
        node("Div", ["LR", "correction1"], ["size"]),
        node("Neg", ["size"], ["step_size"]),
    ]
    nodes += [
        node("Mul", ["P", of_type("kept")], ["P_kept"]),
        node("Sub", ["G", "M"], ["difference"]),
        node("Mul", [of_type("weight1"), "difference"], ["part"]),
        node("Add", ["M", "part"], ["MN"]),
        node("Mul", ["V", of_type("BETA2")], ["V_kept"]),
        node("Mul", [of_type("weight2"), "G"], ["G_part"]),
        node("Mul", ["G_part", "G"], ["square"]),
        node("Add", ["V_kept", "square"], ["VN"]),
        node("Sqrt", ["VN"], ["deviation"]),
        node("Div", ["deviation", of_type("root")], ["corrected"]),
        node("Add", ["corrected", of_type("EPS")], ["denominator"]),
        node("Mul", [of_type("step_size"), "MN"], ["numerator"]),
        node("Div", ["numerator", "denominator"], ["move"]),
        node("Add", ["P_kept", "move"], ["PN"]),
    ]
    return nodes


ADAMSTEP = Operator(
    domain=DOMAIN,
    name=NAME,
    since_version=SINCE_VERSION,
    inputs=(
        Parameter("P", "parameter", T, "of any shape."),
        Parameter("G", "grad", T, "the gradient of P, of its shape."),
        Parameter("M", "exp_avg", T, "the mean of gradients, of the shape of P."),
        Parameter("V", "exp_avg_sq", T, "the mean of their squares, of the shape of P."),
        Parameter("STEP", "step", COUNT, "the number of this step, from 1."),
        Parameter("LR", "lr", SCALAR, "the learning rate."),
        Parameter("BETA1", "beta1", SCALAR, "how much of M is kept."),
        Parameter("BETA2", "beta2", SCALAR, "how much of V is kept."),
        Parameter("EPS", "eps", SCALAR, "what is added to the denominator."),
        Parameter("DECAY", "weight_decay", SCALAR, "of the parameter, times LR."),
    ),
    outputs=(
        Parameter("PN", "next_parameter", T, "the next P."),
        Parameter("MN", "next_exp_avg", T, "the next M."),
        Parameter("VN", "next_exp_avg_sq", T, "the next V."),
    ),
    doc="One step of AdamW for one parameter: MN = M + (1 - BETA1) (G - M), VN = BETA2 V + (1 - BETA2) G G and "
    "PN = (1 - LR DECAY) P - LR / (1 - BETA1^STEP) MN / (sqrt(VN) / sqrt(1 - BETA2^STEP) + EPS).",
    infer_shape=infer_shape,
    make_body=make_body,
    min_opset=12,
    package="ort-mylinear",
)
