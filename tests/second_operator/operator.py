"""SCALED_CLIP, domain ``example.ops``, version 1: everything that says what the operator is, proves it and runs it.

    Y = alpha X + SHIFT        X [..., n] with rank 1 or more, SHIFT [n] or absent, Y [..., n]
    MASK = COUNT where Y > 0   COUNT [] (a scalar), MASK [..., n]; 0 elsewhere; Y as it is returned

X, SHIFT and Y share one type of float64, float32 and float16; COUNT and MASK one of int32 and int64. float16 is
computed in float32 and rounded once. The product may overflow where the sum does not; then Y may be that infinity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ort_ops import KernelError
from ort_ops.numerics.bound import Arithmetic, Bound, gamma
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.onnx_objects import single_type, widest_accumulator
from ort_ops.opdef.operator import AbsentInput, Attribute, Operator, Parameter, TypeVariable
from ort_ops.opdef.shapes import Shape, format_shape

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
_T = TypeVariable("T", ("float64", "float32", "float16"))
_I = TypeVariable("I", ("int32", "int64"))
Real = Annotated[NDArray[Any], _T]
Count = Annotated[NDArray[Any], _I]
_SMALLER = 130  # bits by which a product of alpha and a float64 number is kept from overflowing


def infer_shape(shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> list[Shape | None]:
    """Return the shapes of Y and MASK. Raises: ContractError."""
    x, count, shift = (*shapes, None, None)[:3]
    if x is not None and len(x) == 0:
        raise SCALED_CLIP.error("X", "of rank 1 or more", "[]")
    if count is not None and len(count) != 0:
        raise SCALED_CLIP.error("COUNT", "a scalar", format_shape(count))
    if shift is not None:
        last = x[-1] if x is not None else None
        is_off = isinstance(last, int) and isinstance(shift[0] if shift else None, int) and shift[0] != last
        if len(shift) != 1 or is_off:
            raise SCALED_CLIP.error("SHIFT", format_shape([last]), format_shape(shift))
    return [x, x]


def make_body(opset: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write the operator in standard operators, computed in the widest accumulator of the types."""
    from onnx import AttributeProto, helper

    accumulator, element_type = widest_accumulator(types["T"]), single_type(types["T"])
    alpha = helper.make_node("Constant", [], ["alpha_float"])
    alpha.attribute.append(AttributeProto(name="value_float", type=AttributeProto.FLOAT, ref_attr_name="alpha"))
    zero = helper.make_tensor("zero", accumulator.onnx_type, [], [0.0])

    def cast(name: str, result: str) -> onnx.NodeProto:
        return helper.make_node("Cast", [name], [result], to=accumulator.onnx_type)

    return [
        alpha,
        cast("alpha_float", "alpha_wide"),
        cast("X", "X_wide"),
        cast("SHIFT", "SHIFT_wide"),
        helper.make_node("Mul", ["X_wide", "alpha_wide"], ["scaled"]),
        helper.make_node("Add", ["scaled", "SHIFT_wide"], ["sum"]),
        helper.make_node("CastLike", ["sum", "X"], ["Y"])
        if element_type is None
        else helper.make_node("Cast", ["sum"], ["Y"], to=element_type.onnx_type),
        cast("Y", "Y_wide"),
        helper.make_node("Constant", [], ["zero"], value=zero),
        helper.make_node("Greater", ["Y_wide", "zero"], ["is_positive"]),
        helper.make_node("Sub", ["COUNT", "COUNT"], ["no_count"]),
        helper.make_node("Where", ["is_positive", "COUNT", "no_count"], ["MASK"]),
    ]


SCALED_CLIP = Operator(
    domain="example.ops",
    name="SCALED_CLIP",
    since_version=1,
    inputs=(
        Parameter("X", "X", _T, "[..., n], rank 1 or more."),
        Parameter("COUNT", "COUNT", _I, "a scalar."),
        Parameter("SHIFT", "SHIFT", _T, "[n].", is_optional=True, absent=AbsentInput(-0.0, (("X", -1),))),
    ),
    outputs=(
        Parameter("Y", "Y", _T, "[..., n]."),
        Parameter("MASK", "MASK", _I, "[..., n].", is_optional=True),
    ),
    attributes=(Attribute("alpha", 1, "float", default=1.0, doc="the factor."),),
    doc="Y = alpha X + SHIFT, and MASK = COUNT where Y > 0; float16 computes in float32 and rounds once.",
    infer_shape=infer_shape,
    make_body=make_body,
    min_opset=13,
    package="example-ops",
)


def _widened(call: Call) -> tuple[Array, Array, Array, float]:
    """Return X, COUNT, SHIFT and alpha of a call; all but COUNT in float64."""
    x, count, shift = call.arrays
    assert x is not None
    assert count is not None
    alpha = float(np.float32(call.attributes["alpha"]))
    wide_shift: Array = np.array(-0.0) if shift is None else shift.astype(np.float64)
    return x.astype(np.float64), count, wide_shift, alpha


def _sum(x: Array, shift: Array, alpha: float) -> Array:
    """Return alpha x + shift; also where the product of float64 numbers overflows and the sum does not."""
    plain = alpha * x + shift
    small = alpha * np.ldexp(x, -_SMALLER) + np.ldexp(shift, -_SMALLER)
    hides_sum = np.isfinite(x) & np.isfinite(shift) & ~np.isfinite(plain) & np.isfinite(alpha)
    result: Array = np.where(hides_sum, np.ldexp(small, _SMALLER), plain)
    return result


def reference(call: Call) -> Sequence[Array]:
    """Return Y in float64, and MASK."""
    x, count, shift, alpha = _widened(call)
    with np.errstate(all="ignore"):
        y = _sum(x, shift, alpha)
    return [y, np.where(y > 0, count, np.zeros_like(count))]


def bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound]:
    """Derive how far Y may be off, by two roundings of the accumulator and one of the type, and where MASK may be.

    MASK is open where the error of Y may turn its sign.
    """
    x, count, shift, alpha = _widened(call)
    accumulator = ELEMENT_TYPES[call.element_type.accumulator]
    with np.errstate(all="ignore"):
        y = _sum(x, shift, alpha)
        relative = gamma(2, accumulator.unit_roundoff) + gamma(2, 2.0**-53)  # the reference's own error too
        error = relative * _sum(np.abs(x), np.abs(shift), abs(alpha)) + 2 * accumulator.smallest
        if call.element_type != accumulator:
            error += call.element_type.unit_roundoff * (np.abs(y) + error) + call.element_type.smallest
        error = np.where(np.isfinite(y), error, 0.0)
        product = np.where(np.isfinite(x) & np.isfinite(alpha), alpha * np.ldexp(x, -_SMALLER), 0.0)
        largest = np.ldexp(accumulator.largest, -_SMALLER) * (1 - accumulator.unit_roundoff)
        above, below = product >= largest, product <= -largest
        is_open = (np.abs(y) <= error) | above | below
    return [Bound(error, above, below), Bound(np.where(is_open, np.abs(count.astype(np.float64)), 0.0))]


def samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterator[Call]:
    """Yield usual calls, zero sizes, one element, no SHIFT, several alphas, and numbers at the ends of the type."""
    element_type, dtype, counts = types["T"], np.dtype(types["T"].name), np.dtype(types["I"].name)
    for number, shape in enumerate(((2, 3), (1,), (5, 1), (0, 3), (3, 0), (2, 3, 4, 17), (1000,))):
        x, shift = (generator.standard_normal(s).astype(dtype) for s in (shape, shape[-1:]))
        attributes = ({}, {"alpha": -2.5}, {"alpha": 0.1})[number % 3]
        arrays = [x, np.array(number - 2, counts), shift if number % 2 == 0 else None]
        yield make_call(SCALED_CLIP, arrays, attributes, f"{list(shape)}, {attributes or 'default'}")
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan, element_type.largest, -element_type.largest, element_type.smallest]
    x = np.array(ends, dtype)
    for alpha in (1.0, 1.5, 0.0, -1e-30):
        count = np.array(np.iinfo(counts).max, counts)
        shift = generator.permutation(x)
        yield make_call(SCALED_CLIP, [x, count, shift], {"alpha": alpha}, f"the ends of the type, {alpha}")


def gradient(call: Call, gradients: Sequence[Array | None]) -> Sequence[Array | None]:
    """Return the exact gradients of X and SHIFT; COUNT has none."""
    x, _, _, alpha = _widened(call)
    of_y = np.zeros_like(x) if gradients[0] is None else gradients[0].astype(np.float64)
    of_shift = None if call.arrays[2] is None else of_y.sum(axis=tuple(range(x.ndim - 1)))
    return [alpha * of_y, None, of_shift]


def gradient_bound(call: Call, gradients: Sequence[Array | None]) -> Sequence[Bound | None]:
    """Derive how far a backward may be off: one rounding for X, and one for each row that is summed for SHIFT."""
    x, _, shift = call.arrays
    assert x is not None
    roundoff, smallest = call.element_type.unit_roundoff, call.element_type.smallest
    of_y = np.zeros(x.shape) if gradients[0] is None else np.abs(gradients[0].astype(np.float64))
    rows = of_y.size // max(1, x.shape[-1])
    of_x = gamma(2, roundoff) * abs(call.attributes["alpha"]) * of_y + smallest
    of_shift = gamma(rows + 2, roundoff) * of_y.sum(axis=tuple(range(x.ndim - 1))) + rows * smallest
    return [Bound(of_x), None, None if shift is None else Bound(of_shift)]


def _python_kernel() -> Any:
    from ort_ops.python_kernels.decorator import implements

    @implements(SCALED_CLIP)
    def scaled_clip(
        x: Real, count: Count, shift: Real | None = None, *, alpha: float = 1.0
    ) -> tuple[Real, Count | None]:
        with np.errstate(all="ignore"):
            wide = np.float32 if x.dtype == np.float16 else x.dtype.type
            y = x.astype(wide) * wide(alpha)
            y = (y if shift is None else y + shift.astype(wide)).astype(x.dtype)
            return y, np.where(y > 0, count, np.zeros_like(count))

    return scaled_clip


def library() -> str:
    """Return the path of the C++ kernel's library, which stands where EXAMPLE_OPS_LIBRARY says."""
    path = os.environ.get("EXAMPLE_OPS_LIBRARY", "")
    if not Path(path).is_file():
        raise KernelError("the C++ kernel of SCALED_CLIP is not built; set EXAMPLE_OPS_LIBRARY to its library")
    return path


KIT = OperatorKit(
    SCALED_CLIP,
    reference,
    bound,
    samples,
    python_kernel=cache(_python_kernel),
    library=library,
    gradient=gradient,
    gradient_bound=gradient_bound,
    torch=f"{__package__}.torch_side:KIT",
)
