"""MYLINEARGRAD as a `TorchKit`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from exporter.operators.mylineargrad.functional import linear_backward
from exporter.operators.mylineargrad.library_op import ARGUMENTS, OP, gradients
from exporter.torch_ops.kit import ExampleModule, TorchKit
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD


class LinearBackward(nn.Module):
    """Some of the gradients of a linear layer, of x and an upstream gradient."""

    def __init__(self, in_features: int, out_features: int, mask: tuple[bool, bool, bool]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(out_features, in_features))
        self.mask = mask

    def forward(self, grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Return those that the mask wants."""
        found = linear_backward(grad, x, self.weight, self.mask)
        return tuple(value for value, is_wanted in zip(found, self.mask, strict=True) if is_wanted)


def _plain(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return gradients(grad, x, weight, (True, True, True))


def _examples() -> Iterator[ExampleModule]:
    yield ExampleModule(LinearBackward(3, 2, (True, True, True)), (torch.rand(4, 2), torch.rand(4, 3)))
    args = (torch.rand(4, 6, 2), torch.rand(4, 6, 3))
    yield ExampleModule(LinearBackward(3, 2, (False, True, False)), args, "of the weight alone")
    yield ExampleModule(LinearBackward(3, 2, (True, False, True)), args, "of x and bias")


KIT = TorchKit(
    MYLINEARGRAD,
    OP,
    linear_backward,
    arguments=ARGUMENTS,
    plain=_plain,
    autograd_nodes=frozenset({"LinearBackwardFBackward"}),
    examples=_examples,
)
