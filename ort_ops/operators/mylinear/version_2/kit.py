"""Version 2 of MYLINEAR as an `OperatorKit`. Every session imports this module, so it imports little."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.kit import OperatorKit
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2

if TYPE_CHECKING:
    import numpy as np

    from ort_ops.numerics.bound import Arithmetic, Array, Bound
    from ort_ops.opdef.call import Call
    from ort_ops.opdef.element_types import ElementType


def _reference(call: Call) -> Sequence[Array]:
    from ort_ops.numerics.products import exact_product
    from ort_ops.operators.mylinear.version_2.activations import activated

    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    return [activated(exact_product(x, weight.T, bias), call.attributes["activation"])]


def _bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound]:
    from ort_ops.operators.mylinear.parts import joined_bounds
    from ort_ops.operators.mylinear.version_2.error_bound import activation_bound

    activation, element_type = call.attributes["activation"], call.element_type
    return [joined_bounds(call, lambda x, w, b: activation_bound(x, w, b, activation, element_type, arithmetic))]


def _error_sizes(call: Call) -> Sequence[tuple[Array, Array]]:
    from ort_ops.operators.mylinear.version_2.error_size import activation_size

    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    return [activation_size(x, weight, bias, call.attributes["activation"], call.element_type)]


def _may_overflow(call: Call) -> bool:
    from ort_ops.operators.mylinear.parts import may_overflow

    return may_overflow(call)


def _samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterable[Call]:
    from ort_ops.operators.mylinear.version_2.samples import draw_calls

    return draw_calls(generator, types)


def _python_kernel() -> Any:
    from ort_ops.operators.mylinear.version_2.numpy_kernel import KERNEL

    return KERNEL


def _library() -> str:
    from ort_ops.native.library import library_path

    return library_path(MYLINEAR_2.name, MYLINEAR_2.since_version)


def _cuda_library() -> str:
    from ort_ops.native.cuda import library_path

    return library_path()


def _describe(node: Any) -> Any:
    from ort_ops.operators.mylinear.version_2.inspection import describe

    return describe(node)


def _chosen_patterns(choices: Any) -> Sequence[Any]:
    from ort_ops.operators.mylinear.patterns.version_2 import chosen_patterns

    return chosen_patterns(choices)


def _lowering() -> Callable[..., Any]:
    from ort_ops.operators.mylinear.patterns.version_2.lowering import lower_node

    return lower_node


KIT = OperatorKit(
    MYLINEAR_2,
    _reference,
    _bound,
    _samples,
    python_kernel=_python_kernel,
    library=_library,
    cuda_library=_cuda_library,
    inspection=("linear", _describe),
    optional_patterns=_chosen_patterns,
    lowering=_lowering,
    rows="X",
    error_sizes=_error_sizes,
    widens=True,
    may_overflow=_may_overflow,
    has_steps=True,
    torch="exporter.operators.mylinear.version_2.kit:KIT",
)
