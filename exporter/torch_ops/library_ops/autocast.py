"""Cast the inputs of an operator under autocast, as torch casts those of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.torch_ops.torch_private import without_autocast

_DISPATCH_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def cast_tensors(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast as torch does under autocast, so that the cast and not the original is saved for backward.

    Args:
        tensors: the first must be given; its device decides. float64 and what is not floating point stays as it is.
    """
    first: Any = tensors[0]
    device_type = first.device.type
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)

    def cast(tensor: Tensor) -> Tensor:
        is_eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(dtype) if is_eligible and tensor.device.type == device_type else tensor

    return tuple(None if tensor is None else cast(tensor) for tensor in tensors)


def register_autocast(library: torch.library.Library, name: str, op: Callable[..., Any], num_tensors: int) -> None:
    """Let a library op cast its first ``num_tensors`` arguments under autocast, then call itself without it.

    `torch.library.register_autocast` casts to one dtype only, whatever the caller of autocast chose.
    """

    def register(device_type: str, dispatch_key: str) -> None:
        def cast_and_call(*arguments: Any) -> Any:
            tensors: Sequence[Any] = cast_tensors(*arguments[:num_tensors])
            with without_autocast(device_type, dispatch_key):
                return op(*tensors, *arguments[num_tensors:])

        library.impl(name, cast_and_call, dispatch_key)

    for device_type, dispatch_key in _DISPATCH_KEYS.items():
        register(device_type, dispatch_key)
