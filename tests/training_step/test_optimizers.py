"""An exported step updates as torch's own optimizer does, from every state of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import exporter
from exporter import export_training

Make = Callable[[Any], torch.optim.Optimizer]


class Steps:
    """A file of one step, run by onnxruntime; its state begins as the file has it."""

    def __init__(self, path: Path) -> None:
        proto = onnx.load(path)
        self.metadata = json.loads(next(p.value for p in proto.metadata_props if p.key == "mylinear.training"))
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        self.state = {name: stored[name] for name in self.metadata["feeds"].values()}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def step(self, *tensors: Tensor, lr: Any = None) -> Any:
        names = [*self.metadata["inputs"], *self.metadata["targets"]]
        feed = {**self.state, **{name: t.numpy() for name, t in zip(names, tensors, strict=True)}}
        if lr is not None:
            feed[self.metadata["lr"]] = np.array(lr, np.float64)
        outputs = [output.name for output in self.session.get_outputs()]
        results = dict(zip(outputs, self.session.run(outputs, feed), strict=True))
        self.state = {name: results[output] for output, name in self.metadata["feeds"].items()}
        return results[self.metadata["loss"]]


def problem(seed: int, batch: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, 2, dtype=torch.float64, generator=generator)
    return x, x @ torch.tensor([[2.0], [3.0]], dtype=torch.float64) + 4


def steps_are_equal(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, count: int, ulp: int) -> None:
    """Do the same steps in both, each from torch's state, and compare all parameters after each."""
    exported = Steps(path)
    parameters = dict(model.named_parameters())
    for seed in range(count):
        x, target = problem(seed, batch=5 + seed % 3)
        exported.step(x, target)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for name, parameter in parameters.items():
            np.testing.assert_array_max_ulp(exported.state[name], parameter.detach().numpy(), ulp)
        for name in exported.state:
            owner, _, slot = name.rpartition("/")
            tensor = optimizer.state[parameters[owner]][slot] if owner else parameters.get(name)
            if tensor is not None:
                exported.state[name] = tensor.detach().numpy().copy()
    assert exported.state[exported.metadata["step"]] == count


OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "SGD, dampening": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.3),
    "SGD, Nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.4, 0.99), eps=1e-8, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = exporter.MyLinear(2, 1, dtype=torch.float64)
    optimizer = OPTIMIZERS[name](model.parameters())
    path = tmp_path / "step.onnx"
    export_training(model, nn.functional.mse_loss, optimizer, problem(0), path, inference=False)
    steps_are_equal(path, model, optimizer, 20, ulp=4)
