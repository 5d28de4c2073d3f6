"""MYLINEARGRAD as an `OperatorKit`. Every session imports this module, so it imports little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.kit import OperatorKit
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD

if TYPE_CHECKING:
    import numpy as np

    from ort_ops.numerics.bound import Arithmetic, Array, Bound
    from ort_ops.opdef.call import Call
    from ort_ops.opdef.element_types import ElementType


def _reference(call: Call) -> Sequence[Array]:
    from ort_ops.operators.mylineargrad.reference import gradients_float64

    return gradients_float64(call)


def _bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound]:
    from ort_ops.operators.mylineargrad.reference import gradient_bounds

    return gradient_bounds(call, arithmetic)


def _error_sizes(call: Call) -> Sequence[tuple[Array, Array]]:
    from ort_ops.operators.mylineargrad.reference import error_sizes

    return error_sizes(call)


def _may_overflow(call: Call) -> bool:
    from ort_ops.operators.mylineargrad.reference import may_overflow

    return may_overflow(call)


def _samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterable[Call]:
    from ort_ops.operators.mylineargrad.samples import draw_calls

    return draw_calls(generator, types["T"])


def _python_kernel() -> Any:
    from ort_ops.operators.mylineargrad.numpy_kernel import KERNEL

    return KERNEL


def _library() -> str:
    from ort_ops.native.library import library_path

    return library_path(MYLINEARGRAD.name)


def _cuda_library() -> str:
    from ort_ops.native.cuda import library_path

    return library_path()


def _gradient(call: Call, gradients: Sequence[Array | None]) -> Sequence[Array | None]:
    from ort_ops.operators.mylineargrad.second_gradient import exact_gradients

    return exact_gradients(call, gradients)


def _gradient_bound(call: Call, gradients: Sequence[Array | None]) -> Sequence[Bound | None]:
    from ort_ops.operators.mylineargrad.second_gradient import bounds

    return bounds(call, gradients)


KIT = OperatorKit(
    MYLINEARGRAD,
    _reference,
    _bound,
    _samples,
    python_kernel=_python_kernel,
    library=_library,
    cuda_library=_cuda_library,
    error_sizes=_error_sizes,
    may_overflow=_may_overflow,
    gradient=_gradient,
    gradient_bound=_gradient_bound,
    torch="exporter.operators.mylineargrad.kit:KIT",
)
