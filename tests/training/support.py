"""Small problems and options, for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from exporter.torch_ops.workloads.network import Network
from exporter.training import compare_engines
from exporter.training.data.dataset import Dataset
from exporter.training.engines import onnxruntime_engine
from exporter.training.loop import TrainingResult
from exporter.training.options import DEFAULTS, TrainingOptions

SMALL = TrainingOptions(epochs=6, batch_size=7, lr=0.01, hidden=(5,), device="cpu")
SGD = replace(SMALL, optimizer="sgd")
EXAMPLE = replace(DEFAULTS["linear"], device="cpu")


def regression(rows: int = 40) -> Dataset:
    rng = np.random.default_rng(5)
    x = rng.normal(50, 10, (rows, 3))
    return Dataset("rows", "regression", x, x @ [[1.0], [-2.0], [0.5]] + rng.normal(0, 1, (rows, 1)), ("a", "b", "c"))


def classification(rows: int = 40) -> Dataset:
    x = regression(rows).features
    return Dataset("rows", "classification", x, (x[:, 0] > x[:, 1]).astype(np.int64), ("a", "b", "c"), ("no", "yes"))


def assert_same_bits(a: nn.Module, b: nn.Module) -> None:
    states = a.state_dict(), b.state_dict()
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def interrupt_at(step: int) -> Callable[[int, float], None]:
    def on_step(done: int, loss: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def largest_error(result: TrainingResult) -> float:
    layer = result.network.layers[0]
    learned = torch.cat([layer.get_parameter("weight").flatten(), layer.get_parameter("bias")])
    return float((learned.detach() - torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)).abs().max())


_exports: dict[tuple[Any, ...], bytes] = {}


@pytest.fixture(autouse=True)
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export once for all tests what is the same in every bit; an export takes seconds."""
    export_step = onnxruntime_engine.export_step

    def export(network: Network, optimizer: torch.optim.Optimizer, example: Any, path: Path) -> None:
        (group,) = optimizer.param_groups
        options = [(name, value) for name, value in group.items() if name != "params"]
        state = onnxruntime_engine.torch_state(network, optimizer)
        key = (type(optimizer), str(options), str(network), *(value.tobytes() for value in state.values()))
        key += tuple(tensor.numpy().tobytes() for tensor in example)
        if key not in _exports:
            export_step(network, optimizer, example, path)
            _exports[key] = path.read_bytes()
        path.write_bytes(_exports[key])

    for module in (onnxruntime_engine, compare_engines):
        monkeypatch.setattr(module, "export_step", export)
