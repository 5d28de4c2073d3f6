"""The updates of SGD, Adam and AdamW, in the order of operations of ``torch/optim/sgd.py`` and ``adam.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from exporter.torch_ops.kit import find_update
from exporter.training_step.optimizers.arithmetic import (
    Number,
    add,
    add_product,
    add_quotient,
    add_scaled,
    divide,
    lerp,
    number,
    root,
    scale,
    shift,
)


class Rule(Protocol):
    """How one group of parameters is updated.

    Attributes:
        slots: torch's names of the tensors that the optimizer keeps for each parameter.
    """

    @property
    def slots(self) -> tuple[str, ...]: ...

    def scalars(self, step: Tensor, lr: Number) -> dict[str, Number]:
        """Return what all parameters of the group share, in float64.

        Args:
            step: number of this step, the first is 1; int64.
            lr: learning rate.
        """

    def update(
        self, parameter: Tensor, grad: Tensor, slots: tuple[Tensor, ...], scalars: dict[str, Number], is_first: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the next parameter and the next slots.

        Args:
            is_first: whether torch has no slots for this parameter before the first step.
        """


@dataclass(frozen=True)
class SGD:
    """``torch.optim.SGD``."""

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def scalars(self, step: Tensor, lr: Number) -> dict[str, Number]:
        return {"step": step, "-lr": -lr}

    def update(
        self, parameter: Tensor, grad: Tensor, slots: tuple[Tensor, ...], scalars: dict[str, Number], is_first: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.maximize:
            grad = -grad
        if self.weight_decay:
            grad = add_scaled(grad, parameter, number(self.weight_decay))
        if self.momentum:
            buffer = scale(slots[0], number(self.momentum))
            if not self.dampening:
                buffer = add(buffer, grad)
            else:
                buffer = add_scaled(buffer, grad, number(1 - self.dampening))
                if is_first:  # torch begins with the gradient itself, undamped
                    buffer = torch.where(scalars["step"] == 1, grad, buffer)
            slots = (buffer,)
            grad = add_scaled(grad, buffer, number(self.momentum)) if self.nesterov else buffer
        return add_scaled(parameter, grad, scalars["-lr"]), slots


@dataclass(frozen=True)
class Adam:
    """``torch.optim.Adam``, and ``AdamW`` where the weight decay is decoupled from the gradient."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool
    maximize: bool

    @property
    def slots(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, step: Tensor, lr: Number) -> dict[str, Number]:
        steps = step.to(torch.float64)
        correction1, correction2 = (1 - torch.pow(number(beta), steps) for beta in self.betas)
        return {
            "step": step,
            "lr": lr,
            "decay": 1 - lr * number(self.weight_decay),
            "root of correction 2": torch.sqrt(correction2),
            "-step size": -(lr / correction1),
        }

    def update(
        self, parameter: Tensor, grad: Tensor, slots: tuple[Tensor, ...], scalars: dict[str, Number], is_first: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        average, average_of_squares = slots
        if self.maximize:
            grad = -grad
        if self.weight_decay and not self.decoupled:
            grad = add_scaled(grad, parameter, number(self.weight_decay))
        beta1, beta2 = self.betas
        in_one_node = find_update("Adam", parameter.dtype) if 1 - beta1 < 0.5 else None
        if in_one_node is not None:
            constants = (beta1, beta2, self.eps, self.weight_decay if self.decoupled else 0.0)
            tensors = (parameter, grad, average, average_of_squares, scalars["step"], scalars["lr"])
            after, *means = in_one_node(*tensors, *map(number, constants))
            return after, tuple(means)
        if self.weight_decay and self.decoupled:
            parameter = scale(parameter, scalars["decay"])
        average = lerp(average, grad, 1 - beta1)
        average_of_squares = add_product(scale(average_of_squares, number(beta2)), grad, grad, number(1 - beta2))
        denominator = shift(divide(root(average_of_squares), scalars["root of correction 2"]), number(self.eps))
        return add_quotient(parameter, average, denominator, scalars["-step size"]), (average, average_of_squares)
