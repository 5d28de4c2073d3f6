"""MYLINEAR as an `OperatorKit`. Every session imports this module, so it imports little."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.kit import OperatorKit
from ort_ops.operators.mylinear.contract import MYLINEAR

if TYPE_CHECKING:
    import numpy as np

    from ort_ops.numerics.bound import Arithmetic, Array, Bound
    from ort_ops.opdef.call import Call
    from ort_ops.opdef.element_types import ElementType


def _reference(call: Call) -> Sequence[Array]:
    from ort_ops.numerics.products import exact_product

    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    return [exact_product(x, weight.T, bias)]


def _bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound]:
    from ort_ops.operators.mylinear.error_bound import linear_bound
    from ort_ops.operators.mylinear.parts import joined_bounds

    element_type = call.element_type
    return [joined_bounds(call, lambda x, w, b: linear_bound(x, w, b, element_type, arithmetic=arithmetic))]


def _error_sizes(call: Call) -> Sequence[tuple[Array, Array]]:
    from ort_ops.numerics.sums import sum_size

    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    return [sum_size(x, weight.T, call.element_type, bias)]


def _may_overflow(call: Call) -> bool:
    from ort_ops.operators.mylinear.parts import may_overflow

    return may_overflow(call)


def _samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterable[Call]:
    from ort_ops.operators.mylinear.samples import draw_calls

    return draw_calls(generator, types["T"])


def _python_kernel() -> Any:
    from ort_ops.operators.mylinear.numpy_kernel import KERNEL

    return KERNEL


def _patterns() -> Sequence[Any]:
    from ort_ops.operators.mylinear.patterns import PATTERNS

    return PATTERNS


def _lowering() -> Callable[..., Any]:
    from ort_ops.operators.mylinear.patterns.lowering import lower_node

    return lower_node


def _library() -> str:
    from ort_ops.native.library import library_path

    return library_path()


def _cuda_library() -> str:
    from ort_ops.native.cuda import library_path

    return library_path()


def _describe(node: Any) -> Any:
    from ort_ops.operators.mylinear.inspection import describe

    return describe(node)


KIT = OperatorKit(
    MYLINEAR,
    _reference,
    _bound,
    _samples,
    python_kernel=_python_kernel,
    library=_library,
    cuda_library=_cuda_library,
    patterns=_patterns,
    lowering=_lowering,
    inspection=("linear", _describe),
    rows="X",
    error_sizes=_error_sizes,
    widens=True,
    may_overflow=_may_overflow,
    torch="exporter.operators.mylinear.kit:KIT",
    bench="exporter.operators.mylinear.bench:KIT",
)
