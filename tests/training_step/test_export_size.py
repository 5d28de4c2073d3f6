"""Large states lie beside the file, and deep models are exported in linear time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

import exporter
from exporter import export_training
from exporter.training_step import graphs
from tests.training_step.stepping import Steps


def test_a_large_state_lies_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_NBYTES_INSIDE", 2**12)
    model = exporter.MyLinear(40, 40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    example = torch.rand(3, 40), torch.rand(3, 40)
    path = tmp_path / "step.onnx"
    export_training(model, F.mse_loss, optimizer, example, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step.onnx", "step.onnx.data"]
    assert path.stat().st_size < model.weight.nbytes * 2
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(stored["weight"], model.weight.detach().numpy())
    optimizer.zero_grad()
    loss = F.mse_loss(model(example[0]), example[1])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    steps = Steps(path)
    np.testing.assert_allclose(steps.step(*example), loss.detach(), rtol=1e-6)
    np.testing.assert_allclose(steps.state["weight"], model.weight.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_deep_models_are_exported_in_linear_time(tmp_path: Path) -> None:
    """``pytest -m slow tests/training_step/test_export_size.py``: the second has 2,800 nodes."""

    def seconds(layers: int) -> float:
        model = nn.Sequential(*[part for _ in range(layers) for part in (exporter.MyLinear(4, 4), nn.Tanh())])
        optimizer = torch.optim.AdamW(model.parameters())
        example = torch.rand(4, 4), torch.rand(4, 4)
        begin = time.process_time()
        export_training(model, F.mse_loss, optimizer, example, tmp_path / "step.onnx")
        return time.process_time() - begin

    seconds(1)
    assert seconds(80) < 5 * seconds(20)
