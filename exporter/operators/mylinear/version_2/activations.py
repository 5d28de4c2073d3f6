"""The activations in torch: each with the operation in place, its derivative, and what the derivative reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ort_ops.operators.mylinear.version_2.contract import NONE

_aten: Any = torch.ops.aten
_gelu_, _gelu_backward = _aten.gelu_.default, _aten.gelu_backward.default


@dataclass(frozen=True)
class Activation:
    """One activation.

    Attributes:
        apply: torch's own operation; differentiable.
        apply_in_place: the same, over its input.
        gradient: (gradient of the result, what was saved) -> gradient of the sum; as torch's own derivative has it.
        saves_result: whether the derivative reads the result; otherwise it reads the sum.
    """

    apply: Callable[[Tensor], Tensor]
    apply_in_place: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    saves_result: bool


def _relu_gradient(grad: Tensor, result: Tensor) -> Tensor:
    found: Tensor = _aten.threshold_backward.default(grad, result, 0)
    return found


def _silu_gradient(grad: Tensor, total: Tensor) -> Tensor:
    if torch.is_grad_enabled():  # torch's own kernel has no derivative
        sigmoid = torch.sigmoid(total)
        return grad * sigmoid * (1 + total * (1 - sigmoid))
    found: Tensor = _aten.silu_backward.default(grad, total)
    return found


def _gelu(approximate: str) -> Activation:
    return Activation(
        partial(F.gelu, approximate=approximate),
        partial(_gelu_, approximate=approximate),
        partial(_gelu_backward, approximate=approximate),
        saves_result=False,
    )


ACTIVATIONS = MappingProxyType(
    {
        "relu": Activation(torch.relu, torch.relu_, _relu_gradient, saves_result=True),
        "gelu": _gelu("none"),
        "gelu_tanh": _gelu("tanh"),
        "silu": Activation(F.silu, partial(F.silu, inplace=True), _silu_gradient, saves_result=False),
        "sigmoid": Activation(torch.sigmoid, torch.sigmoid_, _aten.sigmoid_backward.default, saves_result=True),
        "tanh": Activation(torch.tanh, torch.tanh_, _aten.tanh_backward.default, saves_result=True),
    }
)
"""By name."""


def activated(total: Tensor, activation: str) -> Tensor:
    """Return the activation of a sum by torch's own operation.

    >>> activated(torch.tensor([-1.0, 2.0]), "relu")
    tensor([0., 2.])
    """
    return total if activation == NONE else ACTIVATIONS[activation].apply(total)
