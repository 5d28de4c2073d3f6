"""MYLINEAR as an `OperatorKit`. Every session imports this module, so it imports little."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.kit import OperatorKit
from ort_ops.operators.mylinear.contract import MYLINEAR

if TYPE_CHECKING:
    import numpy as np

    from ort_ops.numerics.bound import Arithmetic, Array, Bound
    from ort_ops.opdef.call import Call
    from ort_ops.opdef.element_types import ElementType


_PART = 2**22  # weights


def _parts(call: Call) -> Iterator[tuple[Array, Array, Array | None]]:
    """Yield x with the weight and bias of some features at a time: each part becomes float64, and one is enough."""
    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    step = max(1, _PART // max(1, weight.shape[-1]))
    for start in range(0, max(1, len(weight)), step):
        part = slice(start, start + step)
        yield x, weight[part], None if bias is None else bias[part]


def _reference(call: Call) -> Sequence[Array]:
    import numpy as np

    from ort_ops.operators.mylinear.reference import linear_float64

    parts = [linear_float64(*part) for part in _parts(call)]
    return [parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)]


def _bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound]:
    import numpy as np

    from ort_ops.numerics.bound import Bound
    from ort_ops.operators.mylinear.error_bound import linear_bound

    parts = [linear_bound(*part, element_type=call.element_type, arithmetic=arithmetic) for part in _parts(call)]
    if len(parts) == 1:
        return parts
    names = ("error", "above", "below")
    return [Bound(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))]


def _error_sizes(call: Call) -> Sequence[tuple[Array, Array]]:
    from ort_ops.numerics.sums import sum_size

    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    return [sum_size(x, weight.T, call.element_type, bias)]


def _may_overflow(call: Call) -> bool:
    """Return whether the largest numbers would let a partial sum overflow, if they came together."""
    from ort_ops.numerics.sums import largest_finite
    from ort_ops.opdef.element_types import ELEMENT_TYPES

    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    largest = ELEMENT_TYPES[call.element_type.accumulator].largest
    bias_size = 0.0 if bias is None else largest_finite(bias)
    return bool((x.shape[-1] + 1) * 2 * largest_finite(x) * largest_finite(weight) + bias_size >= largest / 2)


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
    may_overflow=_may_overflow,
    torch="exporter.operators.mylinear.kit:KIT",
    bench="exporter.operators.mylinear.bench:KIT",
)
