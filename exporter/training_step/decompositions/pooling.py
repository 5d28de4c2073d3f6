"""The gradients of poolings, over the last ``rank`` dimensions.

The gradient of a maximum goes to where the maximum was. An average along one dimension is a product with a matrix,
whose rows have 1 / n in the n places of a window, and its gradient one with the transposed matrix; averages over
several dimensions are such products one after the other. Windows that lie side by side need no matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def pooling_backwards() -> dict[Any, Callable[..., Any]]:
    """Return the decompositions."""
    return {
        _aten.avg_pool2d_backward.default: partial(avg_pool_backward, 2),
        _aten.avg_pool3d_backward.default: partial(avg_pool_backward, 3),
        _aten._adaptive_avg_pool2d_backward.default: partial(adaptive_avg_pool_backward, 2),
        _aten._adaptive_avg_pool3d_backward.default: partial(adaptive_avg_pool_backward, 3),
        _aten.max_pool2d_with_indices_backward.default: partial(max_pool_backward, 2),
        _aten.max_pool3d_with_indices_backward.default: partial(max_pool_backward, 3),
        _aten.adaptive_max_pool2d_backward.default: partial(adaptive_max_pool_backward, 2),
        _aten.adaptive_max_pool3d_backward.default: partial(adaptive_max_pool_backward, 3),
    }


def avg_pool_backward(
    rank: int,
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the gradient of the input of ``avg_pool2d`` and ``avg_pool3d``."""
    kernel, padding = _each(kernel_size, rank), _each(padding, rank)
    stride = _each(stride, rank) if stride else kernel
    sizes, windows = x.shape[-rank:], grad.shape[-rank:]
    if (
        not any(padding)
        and kernel == stride
        and all(n * k == s for n, k, s in zip(windows, kernel, sizes, strict=True))
    ):
        return _spread(grad / float(divisor_override or math.prod(kernel)), kernel)
    for i, (size, count) in enumerate(zip(sizes, windows, strict=True)):
        first = torch.arange(count, device=grad.device) * stride[i] - padding[i]
        if divisor_override is not None:
            length = None
        elif count_include_pad:
            length = (first + kernel[i]).clamp(max=size + padding[i]) - first
        else:
            length = (first + kernel[i]).clamp(max=size) - first.clamp(min=0)
        grad = _product(grad, i - rank, _matrix(first, first + kernel[i], length, size, grad.dtype))
    return grad if divisor_override is None else grad / float(divisor_override)


def adaptive_avg_pool_backward(rank: int, grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the input of an adaptive average over the last two or three dimensions."""
    sizes, windows = x.shape[-rank:], grad.shape[-rank:]
    if all(size % count == 0 for size, count in zip(sizes, windows, strict=True)):
        kernel = [size // count for size, count in zip(sizes, windows, strict=True)]
        return _spread(grad / float(math.prod(kernel)), kernel)
    for i, (size, count) in enumerate(zip(sizes, windows, strict=True)):
        index = torch.arange(count, device=grad.device)
        first = (index * size) // count
        end = ((index + 1) * size + count - 1) // count
        grad = _product(grad, i - rank, _matrix(first, end, end - first, size, grad.dtype))
    return grad


def max_pool_backward(
    rank: int,
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Return the gradient of the input of ``max_pool2d`` and ``max_pool3d``."""
    return adaptive_max_pool_backward(rank, grad, x, indices)


def adaptive_max_pool_backward(rank: int, grad: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    """Add up the gradient of each window where its maximum was: ``indices`` within the pooled dimensions."""
    flat = torch.zeros_like(x).flatten(-rank)
    return flat.scatter_add(-1, indices.flatten(-rank), grad.flatten(-rank)).reshape(x.shape)


def _each(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * rank if len(values) == 1 else list(values)


def _spread(grad: Tensor, kernel: Sequence[int]) -> Tensor:
    """Repeat each number ``kernel`` times along the last dimensions."""
    for i, times in enumerate(kernel):
        dim = grad.dim() - len(kernel) + i
        shape = list(grad.shape)
        wide = grad.unsqueeze(dim + 1).expand(*shape[: dim + 1], times, *shape[dim + 1 :])
        grad = wide.reshape(*shape[:dim], shape[dim] * times, *shape[dim + 1 :])
    return grad


def _matrix(first: Tensor, end: Tensor, length: Tensor | None, size: int, dtype: torch.dtype) -> Tensor:
    """Return the averages as a matrix ``[windows, size]``: 1 / length from first to end, or 1 for no length."""
    place = torch.arange(size, device=first.device)
    inside = (place >= first[:, None]) & (place < end[:, None])
    matrix = inside.to(dtype)
    return matrix if length is None else matrix / length[:, None].to(dtype)


def _product(grad: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """Multiply one dimension of windows by the matrix, which makes it one of the input."""
    return (grad.movedim(dim, -1) @ matrix).movedim(-1, dim)
