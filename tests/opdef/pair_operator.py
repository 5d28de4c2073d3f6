"""An operator that takes only some combinations of element types, and only some values of an attribute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import Arithmetic, Bound
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import Attribute, Operator, Parameter, TypeVariable

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
_T = TypeVariable("T", ("float64", "float32"))
_S = TypeVariable("S", ("float32", "float16", "int32"))
ALLOWED = (("float64", "int32"), ("float32", "float32"), ("float32", "float16"))


def _make_body(opset: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    from onnx import helper

    widest = types["T"][0]
    nodes = [helper.make_node("Cast", [name], [f"{name}_wide"], to=widest.onnx_type) for name in ("X", "S")]
    nodes.append(helper.make_node("Mul", ["X_wide", "S_wide"], ["product"]))
    if len(types["T"]) > 1:
        return [*nodes, helper.make_node("CastLike", ["product", "X"], ["Y"])]
    return [*nodes, helper.make_node("Identity", ["product"], ["Y"])]


SCALED = Operator(
    domain="tests.pairs",
    name="Scaled",
    since_version=1,
    inputs=(Parameter("X", "x", _T), Parameter("S", "scale", _S)),
    outputs=(Parameter("Y", "y", _T),),
    attributes=(Attribute("mode", 3, "str", default="plain", choices=("plain", "same")),),
    make_body=_make_body,
    min_opset=13,
    allowed=ALLOWED,
)


def _reference(call: Call) -> Sequence[Array]:
    x, scale = call.arrays
    assert x is not None
    assert scale is not None
    return [x.astype(np.float64) * scale.astype(np.float64)]


def _bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound]:
    exact = np.abs(_reference(call)[0])
    return [Bound((call.element_type.unit_roundoff + 2.0**-52) * exact + call.element_type.smallest)]


def _samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterator[Call]:
    for shape, mode in (((2, 3), "plain"), ((0, 3), "same"), ((4, 1), "same")):
        x = generator.standard_normal(shape).astype(types["T"].name)
        scale = (generator.standard_normal(shape[-1:]) * 4).astype(types["S"].name)
        yield make_call(SCALED, [x, scale], {"mode": mode}, f"{shape} {mode}")


def _python_kernel() -> Any:
    from ort_ops.python_kernels.decorator import implements

    real, other = Annotated[NDArray[Any], _T], Annotated[NDArray[Any], _S]

    def scaled(x: Any, scale: Any, *, mode: str = "plain") -> Any:
        return (x.astype(np.float64) * scale.astype(np.float64)).astype(x.dtype)

    scaled.__annotations__ |= {"x": real, "scale": other, "return": real}
    return implements(SCALED)(scaled)


_KERNELS: list[Any] = []


def _kept_kernel() -> Any:
    if not _KERNELS:
        _KERNELS.append(_python_kernel())
    return _KERNELS[0]


KIT = OperatorKit(SCALED, _reference, _bound, _samples, python_kernel=_kept_kernel)
