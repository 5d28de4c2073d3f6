"""Warnings where an operator runs otherwise than one would expect, each once in a process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import onnxruntime

from ort_ops.kernels.choose import Need, refusals
from ort_ops.kernels.providers import BODY, CUDA, Offer
from ort_ops.kernels.refusal import Lack
from ort_ops.native import cuda

_warned: set[tuple[str, ...]] = set()


class FunctionBodyWarning(RuntimeWarning):
    """A model runs by the function body inside it, because no kernel at hand serves its element types."""


class CpuFallbackWarning(RuntimeWarning):
    """An operator runs on the CPU in a session that asks for CUDA, because its CUDA kernel is not available."""


def warn(needs: Sequence[Need], offers: Sequence[Offer], with_cuda: bool) -> None:
    """Warn of operators that run in another way than expected, once in a process."""
    by_operator = {need.op_type: need for need in needs}
    for offer in offers:
        need = by_operator[offer.kit.operator.op_type]
        if offer.provider is BODY:
            _warn_of_body(need)
        if with_cuda and offer.provider is not CUDA:
            _warn_of_cpu(need)


def _warn_of_body(need: Need) -> None:
    # An operator that nobody wrote a kernel for has its body only, and lacks nothing.
    lacking = [r for r in refusals(need) if r.lack is not Lack.NONE_WRITTEN and r.kernel != CUDA.name]
    key = (need.op_type, *sorted(need.types))
    if not lacking or key in _warned:
        return
    _warned.add(key)
    names = sorted(need.types & {name for v in need.kit.operator.variables for name in v.dtypes})
    warnings.warn(
        f"no kernel at hand serves {' and '.join(names) or 'the model'}, so {need.kit.operator.name} runs by the "
        f"function body inside the model ({'; '.join(refusal.short for refusal in lacking)}); kernels='body' says "
        "that this is wanted",
        FunctionBodyWarning,
        stacklevel=_level_of_caller(),
    )


def _warn_of_cpu(need: Need) -> None:
    # Without the provider the session has no CUDA at all, which onnxruntime says itself.
    if cuda.PROVIDER not in onnxruntime.get_available_providers() or ("cuda", need.op_type) in _warned:
        return
    (refusal,) = refusals(need, None, [CUDA.name])
    # Without a model, nobody is known to use an operator that has no CUDA kernel at all.
    if refusal.lack is Lack.NONE_WRITTEN and not need.is_required:
        return
    _warned.add(("cuda", need.op_type))
    warnings.warn(
        f"{need.kit.operator.name} runs on the CPU in this CUDA session, and what it reads and writes is copied, "
        f"because the CUDA kernel is not available: {refusal.detail or refusal.lack.value}; kernels='cpp' says that "
        "this is wanted",
        CpuFallbackWarning,
        stacklevel=_level_of_caller(),
    )


def _level_of_caller() -> int:
    """Return the ``stacklevel``, for a caller that warns, of the nearest frame outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "ort_ops":
        frame, level = frame.f_back, level + 1
    return level
