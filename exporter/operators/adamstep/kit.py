"""ADAMSTEP as a `TorchKit`. Its derivative is torch's own; nothing checks it, for no training differentiates a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from exporter.torch_ops.kit import ExampleModule
from exporter.torch_ops.library_ops.define import define_library_op
from ort_ops.operators.adamstep.contract import ADAMSTEP, DOMAIN


def compute(
    parameter: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    lr: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    eps: Tensor,
    weight_decay: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next parameter, exp_avg and exp_avg_sq, in the order of ``torch/optim/adam.py``."""

    def typed(scalar: Tensor) -> Tensor:
        return scalar.to(parameter.dtype)

    steps = step.to(torch.float64)
    root = torch.sqrt(1 - torch.pow(beta2, steps))
    step_size = -(lr / (1 - torch.pow(beta1, steps)))
    exp_avg = exp_avg + typed(1 - beta1) * (grad - exp_avg)
    exp_avg_sq = exp_avg_sq * typed(beta2) + typed(1 - beta2) * grad * grad
    denominator = torch.sqrt(exp_avg_sq) / typed(root) + typed(eps)
    kept = parameter * typed(1 - lr * weight_decay)
    return kept + typed(step_size) * exp_avg / denominator, exp_avg, exp_avg_sq


class AdamStep(nn.Module):
    """One step of AdamW after others that left means of gradients of one and the same size."""

    def forward(self, parameter: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next parameter and the next means."""
        scalars = [torch.full((), value, dtype=torch.float64) for value in (1e-3, 0.9, 0.999, 1e-8, 0.01)]
        step = torch.full((), 3, dtype=torch.int64)
        means = torch.full_like(parameter, 0.125)
        result: tuple[Tensor, Tensor, Tensor] = KIT.function(parameter, grad, means, means, step, *scalars)
        return result


def _examples() -> Iterator[ExampleModule]:
    yield ExampleModule(AdamStep(), (torch.rand(4, 3), torch.rand(4, 3)))


KIT = replace(
    define_library_op(ADAMSTEP, f"{DOMAIN}::adam_step", compute, examples=_examples),
    gradient_checks=lambda: (),
    update="Adam",
)
