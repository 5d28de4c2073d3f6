"""MYLINEAR of version 2 as a `TorchKit`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.operators.mylinear.module import MyLinear
from exporter.operators.mylinear.version_2.activations import ACTIVATIONS, activated
from exporter.operators.mylinear.version_2.autograd import AUTOGRAD_NODE_NAMES
from exporter.operators.mylinear.version_2.functional import linear_activation
from exporter.operators.mylinear.version_2.library_op import OP
from exporter.torch_ops.kit import ExampleModule, TorchKit
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2, NONE


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = NONE) -> Tensor:
    return activated(F.linear(x, weight.to(x.dtype), bias), activation)


class _NarrowWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, 3).bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        return linear_activation(x, self.weight)


def _examples() -> Iterator[ExampleModule]:
    for name in ACTIVATIONS:
        yield ExampleModule(MyLinear(3, 2, activation=name), (torch.rand(4, 3),), name)
    layers = nn.Sequential(MyLinear(3, 5, bias=False, activation="gelu"), MyLinear(5, 2))
    yield ExampleModule(layers, (torch.rand(4, 6, 3),), "two layers")
    yield ExampleModule(_NarrowWeight(), (torch.rand(4, 3),), "a bfloat16 weight")


KIT = TorchKit(
    MYLINEAR_2,
    OP,
    linear_activation,
    plain=_plain,
    autograd_nodes=AUTOGRAD_NODE_NAMES,
    examples=_examples,
)
