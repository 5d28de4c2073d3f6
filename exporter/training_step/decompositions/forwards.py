"""Forwards that torch's ONNX exporter must not see.

Of some, its translation makes up an output that only a backward reads; others it rounds through float32, or takes
apart into operations that it has no translation for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
FORWARDS = frozenset(
    {
        "_batch_norm_with_update",
        "_batch_norm_with_update_functional",
        "_fused_rms_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
        "mse_loss",
        "native_batch_norm",
        "native_group_norm",
        "nll_loss2d_forward",
        "nll_loss_forward",
    }
)
"""Decomposed by torch's own functions, whatever their dtype."""
OUTSIDE_FLOAT32 = frozenset({"native_layer_norm"})
"""Decomposed unless they are of float32: ONNX's operator has statistics and an epsilon of float32."""


def outside_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decomposition that leaves float32 as it is."""

    def decomposed(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return NotImplemented if x.dtype is torch.float32 else function(x, *args, **kwargs)

    return decomposed


def own_forwards() -> dict[Any, Callable[..., Any]]:
    """Return decompositions of our own."""
    return {
        _aten._trilinear.default: trilinear,
        _aten.cumprod.default: cumprod,
        _aten.hardsigmoid_backward.default: hardsigmoid_backward,
        _aten.native_dropout.default: dropout,
        _aten.prod.default: prod,
        _aten.prod.dim_int: prod_of_dim,
        _aten.std.correction: lambda *args, **kwargs: var_mean(*args, **kwargs)[0].sqrt(),
        _aten.std_mean.correction: lambda *args, **kwargs: _std_mean(*var_mean(*args, **kwargs)),
        _aten.var.correction: lambda *args, **kwargs: var_mean(*args, **kwargs)[0],
        _aten.var_mean.correction: var_mean,
    }


def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Return variance and mean; torch's own function divides by the number of terms in float32."""
    dims = [d % x.dim() for d in dim] if dim else list(range(x.dim()))
    mean = x.mean(dims, keepdim=True)
    centered = x - mean
    count: Any = math.prod(x.shape[d] for d in dims)
    variance = (centered * centered).sum(dims, keepdim=True) / torch.sym_max(
        0, count - (1 if correction is None else correction)
    )
    if keepdim:
        return variance, mean
    return variance.squeeze(dims), mean.squeeze(dims)


def _std_mean(variance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    return variance.sqrt(), mean


def hardsigmoid_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return a sixth of the gradient inside: of float32 in torch's kernel, also for float64."""
    sixth = float(torch.tensor(1 / 6, dtype=torch.float32))
    return torch.where((x > -3.0) & (x < 3.0), grad * sixth, torch.zeros_like(grad))


def dropout(x: Tensor, p: float, train: bool | None = True) -> tuple[Tensor, Tensor]:
    """Keep numbers with a probability of 1 - p: what draws is an operation that draws for nothing else."""
    if train is False:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = _aten.bernoulli.p(x, 1 - p)
    return x * kept * (1 / (1 - p) if p < 1 else 0.0), kept.to(torch.bool)


def prod(x: Tensor, *, dtype: torch.dtype | None = None) -> Any:
    """Return the product of all numbers, by halves: ONNX Runtime 1.17 has no product of float64."""
    return prod_of_dim(x.reshape(-1), 0, dtype=dtype)


def prod_of_dim(x: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Return the products along a dimension, by halves."""
    size = x.shape[dim]
    if not isinstance(size, int) or not size:
        return NotImplemented
    x = x if dtype is None else x.to(dtype)
    while x.shape[dim] > 1:
        half = x.shape[dim] // 2
        product = x.narrow(dim, 0, half) * x.narrow(dim, half, half)
        odd = x.narrow(dim, 2 * half, x.shape[dim] - 2 * half)
        x = torch.cat([product, odd], dim) if odd.shape[dim] else product
    return x if keepdim else x.squeeze(dim)


def cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Return the products of the numbers up to each one, by doubling the distance."""
    size = x.shape[dim]
    if not isinstance(size, int):
        return NotImplemented
    x = x if dtype is None else x.to(dtype)
    distance = 1
    while distance < size:
        later = x.narrow(dim, distance, size - distance) * x.narrow(dim, 0, size - distance)
        x = torch.cat([x.narrow(dim, 0, distance), later], dim)
        distance *= 2
    return x


def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    """Return the sum of products that `torch.nn.Bilinear` and its gradients are."""
    for dims, index in ((expand1, 0), (expand2, 1), (expand3, 2)):
        for dim in dims:
            a, b, c = (t.unsqueeze(dim) if i == index else t for i, t in enumerate((a, b, c)))
    return (a * b * c).sum(list(sumdim))
