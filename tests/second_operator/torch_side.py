"""SCALED_CLIP in PyTorch: library op with a backward of its own, module, and what the exporter asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from exporter.torch_ops.kit import ExampleModule, TorchKit

from .operator import SCALED_CLIP


@torch.library.custom_op("example_ops::scaled_clip", mutates_args=())
def scaled_clip_op(x: Tensor, count: Tensor, shift: Tensor | None, alpha: float) -> tuple[Tensor, Tensor]:
    """Compute Y and MASK; float16 in float32, rounded once."""
    _check(x, count, shift)
    wide = x.float() if x.dtype == torch.float16 else x
    y = wide * alpha
    y = (y if shift is None else y + shift.to(wide.dtype)).to(x.dtype)
    return y, torch.where(y > 0, count, torch.zeros_like(count))


@scaled_clip_op.register_fake
def _fake(x: Tensor, count: Tensor, shift: Tensor | None, alpha: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=count.dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, _, shift, ctx.alpha = inputs
    ctx.has_shift = shift is not None


def _backward(ctx: Any, grad: Tensor, grad_mask: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return alpha G for X, and the sum of G over the leading dimensions for SHIFT."""
    rows = math.prod(grad.shape[:-1])
    grad_shift = grad.reshape(rows, grad.shape[-1]).sum(0) if ctx.has_shift and ctx.needs_input_grad[2] else None
    return grad * ctx.alpha if ctx.needs_input_grad[0] else None, None, grad_shift, None


scaled_clip_op.register_autograd(_backward, setup_context=_setup_context)


def _check(x: Tensor, count: Tensor, shift: Tensor | None) -> None:
    tensors = (x, count, shift)
    SCALED_CLIP.check_arguments(
        [None if t is None else [*t.shape] for t in tensors],
        [None if t is None else str(t.dtype).removeprefix("torch.") for t in tensors],
    )


def scaled_clip(x: Tensor, count: Tensor, shift: Tensor | None = None, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return Y and MASK. Raises: ContractError if a shape or dtype breaks the contract."""
    y, mask = torch.ops.example_ops.scaled_clip(x, count, shift, alpha)
    return y, mask


class ScaledClip(nn.Module):
    """Scale and shift, as a layer; ``count`` is a buffer, ``shift`` a parameter."""

    def __init__(self, features: int, alpha: float = 1.0, count: int = 1, *, with_mask: bool = False) -> None:
        super().__init__()
        self.alpha, self.with_mask = alpha, with_mask
        self.shift = nn.Parameter(torch.linspace(-1, 1, features))
        self.register_buffer("count", torch.tensor(count))

    def forward(self, x: Tensor) -> Any:
        """Return Y, and MASK where it was asked for."""
        y, mask = scaled_clip(x, self.count, self.shift, alpha=self.alpha)
        return (y, mask) if self.with_mask else y


def _plain(x: Tensor, count: Tensor, shift: Tensor | None = None, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    y = x * alpha if shift is None else x * alpha + shift
    return y, torch.where(y > 0, count, torch.zeros_like(count))


def _examples() -> Iterator[ExampleModule]:
    yield ExampleModule(ScaledClip(3), (torch.rand(2, 3),), "y alone")
    yield ExampleModule(ScaledClip(4, alpha=-0.5, count=7, with_mask=True), (torch.rand(5, 4),), "y and mask")


KIT = TorchKit(
    SCALED_CLIP,
    "example_ops::scaled_clip",
    scaled_clip,
    plain=_plain,
    autograd_nodes=frozenset({"GeneratedBackwardFor_example_ops_scaled_clip_defaultBackward"}),
    examples=_examples,
)
