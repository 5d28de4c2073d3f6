"""Layers that onnxruntime has no float64 kernel for are exported in other operators, as exactly as torch computes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import exporter

pytestmark = pytest.mark.filterwarnings("ignore::exporter.errors.NoOperatorWarning")


class Activations(nn.Module):
    """Call all of them on the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.LeakyReLU(0.03), nn.PReLU(), nn.ELU(0.7), nn.SELU(), nn.GELU(), nn.Mish(), nn.Hardsigmoid()]
        )
        self.layers.extend([nn.Hardswish(), nn.Softplus(), nn.Softplus(2.5, 4.0)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (*(layer(x) for layer in self.layers), torch.erf(x), torch.linalg.vector_norm(x, dim=-1))


class Windows(nn.Module):
    """Convolutions and averages of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 6, (2, 3), groups=2, dilation=(2, 1), bias=False)
        self.transposed = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.line = nn.Conv1d(4, 2, 3)
        self.average = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transposed(self.grouped(self.first(x)))
        x = functional.avg_pool1d(self.line(self.average(x).flatten(2)), 2)
        return x.flatten(1)


def test_activations(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.linspace(-9, 9, 60, dtype=torch.float64).reshape(4, 15)
    exporter.export(Activations().double(), x, tmp_path / "model.onnx")


def test_windows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    exporter.export(Windows().double(), torch.randn(2, 2, 9, 8, dtype=torch.float64), tmp_path / "model.onnx")


class ErrorFunctions(nn.Module):
    """Functions that are sums or products of several operators in the graph, near 0 and far from it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.erf(x), functional.elu(x), functional.softplus(x)


def test_accuracy_is_relative_also_near_zero(tmp_path: Path) -> None:
    sizes = np.concatenate([np.geomspace(1e-100, 1e-3, 200), np.linspace(0.001, 7, 3000), [30.0, 1e4]])
    x = np.concatenate([-sizes, [0.0], sizes])
    exporter.export(ErrorFunctions(), torch.from_numpy(x), tmp_path / "model.onnx", dynamic_shapes={})
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    results = session.run(None, {"x": x})
    exact = (
        [math.erf(v) for v in x],
        [v if v > 0 else math.expm1(v) for v in x],
        [v if v > 20 else max(v, 0) + math.log1p(math.exp(-abs(v))) for v in x],
    )
    for name, got, expected in zip(("erf", "elu", "softplus"), results, exact, strict=True):
        wanted = np.array(expected)
        error = np.abs(got - wanted) / np.maximum(np.abs(wanted), np.finfo(np.float64).tiny)
        assert error.max() <= 8 * 2.0**-53, (name, x[error.argmax()], error.max() * 2**53)
