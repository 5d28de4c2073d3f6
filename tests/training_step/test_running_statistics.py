"""Running statistics are state of a step, and exporting one changes none of the model's own."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import exporter
import ort_ops


def test_batch_norm_trains_its_running_statistics(tmp_path: Path) -> None:
    """Batch norm writes them without a new version, which is no sign of change then."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3)).double()
    batches = [(torch.rand(7, 4, dtype=torch.float64), torch.randint(0, 3, (7,))) for _ in range(4)]
    before = copy.deepcopy(dict(model.named_buffers()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = torch.nn.CrossEntropyLoss()
    exporter.export_training(model, loss, optimizer, batches[0], tmp_path / "step.onnx")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    trainer = ort_ops.Trainer(tmp_path / "step.onnx")
    assert set(trainer.state()) >= {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for x, y in batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
        trainer.step(x.numpy(), y.numpy())
    state = trainer.state()
    for name, buffer in model.named_buffers():
        np.testing.assert_allclose(state[name], buffer.numpy(), rtol=1e-12, err_msg=name)
    assert not np.allclose(state["1.running_mean"], before["1.running_mean"].numpy())
    trainer.export_inference(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = batches[0][0]
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, model.eval()(x).detach().numpy(), rtol=1e-10, atol=1e-12)
