"""A training step of layers with activations: the sum, torch's activation and the exact backward, one node for each."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from exporter.operators.mylinear.swap import swap_linear
from exporter.operators.mylinear.version_2.fuse import fuse_activations

from .taught import Taught

ACTIVATIONS = (nn.ReLU(), nn.GELU(), nn.Tanh())


@pytest.mark.long
def test_a_fused_network_trains_as_in_torch_and_evaluates_fused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(module for act in ACTIVATIONS for module in (nn.Linear(6, 6), act)), nn.Linear(6, 3))
    assert len(fuse_activations(model).fused) == len(ACTIVATIONS)
    swap_linear(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = torch.randn(2, 7, 6), torch.randint(0, 3, (2, 7))
    path = tmp_path / "step.onnx"
    taught = Taught(model, nn.CrossEntropyLoss(), optimizer, (x[0], y[0]), path)
    for number in range(2):
        taught.step((x[number],), (y[number],), number)
    assert taught.compared
    proto = onnx.load(path)
    step = [node.op_type for node in proto.graph.node if node.domain == "mylinear"]
    assert (step.count("MYLINEAR"), step.count("MYLINEARGRAD")) == (4, 4)
    (evaluates,) = (function for function in proto.functions if function.domain == "mylinear.training")
    named = [helper.get_attribute_value(a).decode() for node in evaluates.node for a in node.attribute if a.type == 3]
    assert named == ["relu", "gelu", "tanh"]
    versions = {e.version for part in (proto, evaluates) for e in part.opset_import if e.domain == "mylinear"}
    assert versions == {2}
    assert not any(node.attribute for node in proto.graph.node if node.op_type == "MYLINEAR")
