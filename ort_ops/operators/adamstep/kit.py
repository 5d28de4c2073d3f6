"""ADAMSTEP as an `OperatorKit`. Every session imports this module, so it imports little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.kit import OperatorKit
from ort_ops.operators.adamstep.contract import ADAMSTEP

if TYPE_CHECKING:
    import numpy as np

    from ort_ops.numerics.bound import Arithmetic, Array, Bound
    from ort_ops.opdef.call import Call
    from ort_ops.opdef.element_types import ElementType


def _reference(call: Call) -> Sequence[Array]:
    from ort_ops.operators.adamstep.reference import next_float64

    return next_float64(call)


def _bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound]:
    from ort_ops.operators.adamstep.reference import next_bounds

    return next_bounds(call)


def _samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterable[Call]:
    from ort_ops.operators.adamstep.samples import draw_calls

    return draw_calls(generator, types["T"])


def _python_kernel() -> Any:
    from ort_ops.operators.adamstep.numpy_kernel import KERNEL

    return KERNEL


def _library() -> str:
    from ort_ops.native.library import library_path

    return library_path(ADAMSTEP.name)


KIT = OperatorKit(
    ADAMSTEP,
    _reference,
    _bound,
    _samples,
    python_kernel=_python_kernel,
    library=_library,
    is_elementwise=True,
    torch="exporter.operators.adamstep.kit:KIT",
)
