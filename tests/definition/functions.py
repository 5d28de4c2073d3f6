"""Functions of torch that tests make operators of: what a user writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.definition.operator import TorchOperator
from ort_ops import Float

DOMAIN = "tests.definition"
Defined = Callable[..., TorchOperator]
X, W = torch.linspace(-1.9, 2.05, 12).reshape(3, 4), torch.tensor([0.51, -1.03, 1.97, 1.46])


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, w = ctx.saved_tensors
    kept = grad.unsqueeze(-1) * (x * w > ctx.attributes["floor"]).to(x.dtype)
    return kept * w, (kept * x).sum(tuple(range(x.dim() - 1)))


def kernel(x, w, *, floor):  # type: ignore[no-untyped-def]  # it has the annotations of the function
    return np.maximum(x * w, x.dtype.type(floor)).sum(-1)


def floor_sum(x: Float, w: Float, *, floor: float = 0.1) -> Float:
    return torch.clamp(x * w, min=floor).sum(-1)


def scale(x: Float, *, factor: float = 2.0) -> Float:
    return x * factor
