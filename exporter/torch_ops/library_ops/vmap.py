"""What batch rules of operators are made of: ``in_dims`` says where each argument is batched, None for nowhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def batch_first(tensor: Tensor, dim: int | None, batch_size: int) -> Tensor:
    """Return the tensor with the batch as dimension 0; the same for each sample where it has none."""
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def loop(function: Callable[..., Any], batch_size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> Any:
    """Call a function once for each sample, and stack the results along dimension 0.

    Returns: a tensor, or a tuple of them where the function returns one.
    Raises: ValueError for a batch of no samples, which says nothing of the results' shapes.
    """
    if batch_size == 0:
        raise ValueError("vmap of an operator without a batch rule needs at least 1 sample, got 0")
    pairs = list(zip(arguments, in_dims, strict=True))
    results = [function(*(sample_of(argument, dim, i) for argument, dim in pairs)) for i in range(batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return tuple(torch.stack(list(values)) for values in zip(*results, strict=True))


def sample_of(argument: Any, dim: int | None, index: int) -> Any:
    """Return one sample of an argument."""
    return argument if dim is None else cast("Tensor", argument).select(dim, index)
