"""MYLINEAR as a `TorchKit`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from exporter.operators.mylinear import gradient_checks
from exporter.operators.mylinear.autograd import AUTOGRAD_NODE_NAMES
from exporter.operators.mylinear.functional import linear
from exporter.operators.mylinear.library_op import OP
from exporter.operators.mylinear.module import MyLinear
from exporter.torch_ops.kit import ExampleModule, TorchKit
from exporter.torch_ops.workloads.network import NetworkKit
from ort_ops.operators.mylinear.contract import MYLINEAR


def _examples() -> Iterator[ExampleModule]:
    yield ExampleModule(MyLinear(3, 2), (torch.rand(4, 3),))
    yield ExampleModule(MyLinear(3, 2, bias=False), (torch.rand(4, 3),), "no bias")
    yield ExampleModule(nn.Sequential(MyLinear(3, 5), nn.ReLU(), MyLinear(5, 2)), (torch.rand(4, 6, 3),), "two layers")


def _network() -> NetworkKit:
    from exporter.operators.mylinear.network import NETWORK

    return NETWORK


KIT = TorchKit(
    MYLINEAR,
    OP,
    linear,
    plain=F.linear,
    autograd_nodes=AUTOGRAD_NODE_NAMES,
    examples=_examples,
    network=_network,
    gradient_checks=gradient_checks.gradient_checks,
    advice="use exporter.MyLinear in place of torch.nn.Linear, or exporter.swap_linear(model) for every nn.Linear",
    count_name="num_linear",
)
