"""What torch's kernels for the CPU compute in an optimizer's update, written in operations that ONNX has.

Each function does the operations of one kernel in the kernel's order, and rounds where it rounds: numbers of float16
and bfloat16 are computed in float32 and rounded once, at the end. Only where a kernel fuses a product and a sum into
one rounding does ONNX round twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Number = Tensor
"""A scalar in float64, as Python's floats are; a kernel takes it in the type that it computes in."""


def number(value: float) -> Number:
    """Return a constant of float64, which no exporter rounds to float32."""
    return torch.full((), value, dtype=torch.float64)


def _computed(like: Tensor, compute: Callable[..., Tensor], *values: Tensor) -> Tensor:
    dtype = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
    return compute(*(value.to(dtype) for value in values)).to(like.dtype)


def add(a: Tensor, b: Tensor) -> Tensor:
    """``a.add(b)``."""
    return _computed(a, torch.add, a, b)


def add_scaled(a: Tensor, b: Tensor, alpha: Number) -> Tensor:
    """``a.add(b, alpha=alpha)``."""
    return _computed(a, lambda a, b, alpha: a + alpha * b, a, b, alpha)


def scale(a: Tensor, factor: Number) -> Tensor:
    """``a.mul(factor)``."""
    return _computed(a, lambda a, factor: a * factor, a, factor)


def divide(a: Tensor, divisor: Number) -> Tensor:
    """``a / divisor``."""
    return _computed(a, lambda a, divisor: a / divisor, a, divisor)


def shift(a: Tensor, more: Number) -> Tensor:
    """``a.add(more)``."""
    return _computed(a, lambda a, more: a + more, a, more)


def root(a: Tensor) -> Tensor:
    """``a.sqrt()``."""
    return _computed(a, torch.sqrt, a)


def lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start.lerp(end, weight)``; torch measures from the nearer end."""
    if weight < 0.5:
        return _computed(start, lambda start, end, w: start + w * (end - start), start, end, number(weight))
    return _computed(start, lambda start, end, w: end - (end - start) * (1 - w), start, end, number(weight))


def add_product(a: Tensor, b: Tensor, c: Tensor, value: Number) -> Tensor:
    """``a.addcmul(b, c, value=value)``."""
    return _computed(a, lambda a, b, c, value: a + value * b * c, a, b, c, value)


def add_quotient(a: Tensor, b: Tensor, c: Tensor, value: Number) -> Tensor:
    """``a.addcdiv(b, c, value=value)``."""
    return _computed(a, lambda a, b, c, value: a + value * b / c, a, b, c, value)
