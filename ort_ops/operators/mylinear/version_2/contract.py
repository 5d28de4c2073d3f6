"""MYLINEAR of version 2 of its domain. Everything of that version follows from this file; version 1 stays beside it.

    Y = f(X W^T + B)     X, W, B and Y with the shapes of version 1; f is the activation

X, B and Y have one element type, T. W has the same, TW = T, or where T is float32 also float16 or bfloat16: every
number of W is then taken as it is stored, for each is a number of float32. Sums are held in float64 where T is float64,
in float32 otherwise. The bias is added, the activation is applied to that sum in its type, and the result is rounded
once to T, to nearest even.

The attribute ``activation`` names f; the formulas are evaluated as IEEE arithmetic does, so NaN stays NaN, and where
x/2 (1 - 1) is -inf 0 the result is NaN:

    none        x
    relu        max(x, 0); NaN stays NaN
    gelu        x/2 (1 + erf(x / sqrt 2))                                     NaN at -inf; see below
    gelu_tanh   x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))                 NaN at -inf
    silu        x / (1 + exp(-x))                                             NaN at -inf
    sigmoid     1 / (1 + exp(-x))
    tanh        tanh(x)

At +inf gelu is +inf. A kernel may also return +inf from half the largest number of the sum's type on, and NaN at +inf:
torch 2.13 does both in float32, where onnxruntime's kernels and ours do neither.

The sign of a zero is free. What version 1 says of partial sums that overflow holds here too: the activation is applied
to whatever the sum may then be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ort_ops.opdef.operator import Attribute, Operator, TypeVariable
from ort_ops.opdef.shapes import Shape
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME

if TYPE_CHECKING:
    import onnx

    from ort_ops.opdef.element_types import ElementType

SINCE_VERSION = 2

NONE = "none"
ACTIVATIONS = (NONE, "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
"""The values of the attribute ``activation``; the first is the default."""
NARROW_WEIGHTS = ("float16", "bfloat16")
"""The element types that W may have where X is float32."""

_X, _WEIGHT, _BIAS = MYLINEAR.inputs
_TW = TypeVariable("TW", _WEIGHT.type.dtypes)
ALLOWED = (
    ("float64", "float64"),
    ("float32", "float32"),
    *(("float32", narrow) for narrow in NARROW_WEIGHTS),
    *((narrow, narrow) for narrow in NARROW_WEIGHTS),
)
"""(T, TW)"""


def _make_body(opset_version: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    from ort_ops.operators.mylinear.version_2.body import make_body

    return make_body(opset_version, types)


MYLINEAR_2 = Operator(
    domain=DOMAIN,
    name=NAME,
    since_version=SINCE_VERSION,
    inputs=(_X, replace(_WEIGHT, type=_TW), _BIAS),
    outputs=MYLINEAR.outputs,
    doc="Linear transformation with an activation, Y = f(X W^T + B), rounded once; W may be narrower than X.",
    infer_shape=MYLINEAR.infer_shape,
    make_body=_make_body,
    attributes=(
        Attribute("activation", 3, "str", default=NONE, doc="what the sum passes through.", choices=ACTIVATIONS),
    ),
    package="ort-mylinear",
    min_opset=11,
    allowed=ALLOWED,
    serves_since=1,
)


def check_arguments(
    shapes: Sequence[Shape | None], element_types: Sequence[str | None], activation: str = NONE
) -> Shape:
    """Check concrete arguments X, W and B (None for an absent bias) and return the shape of Y.

    Raises: ContractError (a ValueError) that says which argument breaks which rule.
    """
    (result,) = MYLINEAR_2.check_arguments(shapes, element_types, {"activation": activation})
    assert result is not None
    return result
