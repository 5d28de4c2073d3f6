"""Everything of torch's own that is used here under a private name.

Where a name is missing a public one serves, slower, with the same results; tests hide them. A predicate then gives the
answer that leads there: transforms may be active, autocast may be on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch._subclasses.fake_tensor
import torch.utils._python_dispatch
from torch.autograd import Function, forward_ad

are_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
"""Whether the call stands within a transform of ``torch.func``."""
is_any_autocast_enabled: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
"""Whether autocast is on for any kind of device."""
is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
"""Whether TorchScript's tracer is at work."""
CAN_GO_BELOW_AUTOGRAD: bool = hasattr(torch._C, "_AutoDispatchBelowAutograd")


def below_autograd() -> AbstractContextManager[Any]:
    """Let library ops run without their Autograd kernel."""
    return torch._C._AutoDispatchBelowAutograd() if CAN_GO_BELOW_AUTOGRAD else nullcontext()


def fast_apply(function: type[Function]) -> Callable[..., Any]:
    """Return ``function.apply`` without its Python wrapper, which binds the signature anew on each call.

    It must not be called where transforms are active.
    """
    found: Callable[..., Any] = getattr(super(Function, function), "apply", function.apply)
    return found


def forward_mode_depth() -> int | None:
    """Return how many torch.func transforms of forward mode are nested here; None where torch does not say."""
    try:
        stack = torch._C._functorch.get_interpreter_stack()
        return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack or ())
    except AttributeError:
        return None


def forward_mode_level() -> int:
    """Return the level of torch.autograd.forward_ad, -1 outside of one; 0 where torch does not say."""
    return getattr(forward_ad, "_current_level", 0)


def without_modes() -> AbstractContextManager[Any]:
    """Leave every mode of tracing, so that what is computed within is no part of a trace."""
    leave = getattr(torch.utils._python_dispatch, "_disable_current_modes", nullcontext)
    found: AbstractContextManager[Any] = leave()
    return found


DATA_DEPENDENT: tuple[type[Exception], ...] = (
    NotImplementedError,
    *(
        kind
        for name in ("DataDependentOutputException", "DynamicOutputShapeException", "UnsupportedFakeTensorException")
        if (kind := getattr(torch._subclasses.fake_tensor, name, None)) is not None
    ),
)
"""What torch raises for sizes that depend on the numbers of a tensor."""


def without_autocast(device_type: str, dispatch_key: str) -> AbstractContextManager[Any]:
    """Switch autocast off for one kind of device; in an exported graph it leaves no trace."""
    if hasattr(torch._C, "_ExcludeDispatchKeyGuard"):
        keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, dispatch_key))
        return torch._C._ExcludeDispatchKeyGuard(keys)
    return torch.autocast(device_type, enabled=False)
