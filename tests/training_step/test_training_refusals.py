"""What cannot be exported as a training step is refused in one line that says what is wrong, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import exporter
from exporter import ExportError, export_training
from exporter.training_step.trace import Program


def one_layer() -> tuple[nn.Module, torch.optim.Optimizer, tuple[Tensor, Tensor]]:
    model = exporter.MyLinear(3, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), (torch.rand(4, 3), torch.rand(4, 3))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.rand(4, 3), "must be a pair .*, got a torch.Tensor"),
        ((torch.rand(4, 3),), "must be a pair .*, got 1 entries"),
        ((np.zeros((4, 3)), torch.rand(4, 3)), "numpy.ndarray; torch.from_numpy"),
        ((torch.rand(4, 3), np.zeros((4, 3))), "targets must be tensors"),
    ],
    ids=["tensor", "one entry", "NumPy input", "NumPy target"],
)
def test_examples_are_checked(example: Any, message: str, tmp_path: Path) -> None:
    model, optimizer, _ = one_layer()
    with pytest.raises(ExportError, match=message):
        export_training(model, F.mse_loss, optimizer, example, tmp_path / "step.onnx")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y, t: (y - t) ** 2, r"one floating-point number in a tensor, got torch.float32 of \[4, 3\]"),
        (lambda y, t: None, "got a NoneType"),
        (lambda y, t: (y > t).sum(), "got torch.int64"),
        (lambda y, t: (y.detach() - t).mean(), "depends on no parameter"),
        ("mse", "loss must be a module or a function"),
        (lambda y, t: y.mean() if y.sum() > 0 else t.mean(), "torch.export cannot take the model with its loss"),
        (lambda y, t: (y.reshape(4, 3) - t).mean(), "fixes the size of the batch"),
    ],
    ids=["no number", "nothing", "integer", "detached", "text", "branch", "fixed batch"],
)
def test_losses_are_checked(loss: Any, message: str, tmp_path: Path) -> None:
    model, optimizer, example = one_layer()
    with pytest.raises(ExportError, match=message) as caught:
        export_training(model, loss, optimizer, example, tmp_path / "step.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_arguments_are_checked(tmp_path: Path) -> None:
    model, optimizer, example = one_layer()
    path = tmp_path / "step.onnx"
    with pytest.raises(ExportError, match=r"model must be a torch\.nn\.Module, got"):
        export_training(F.relu, F.mse_loss, optimizer, example, path)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="path must be the name of a file"):
        export_training(model, F.mse_loss, optimizer, path, example)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="accumulate must be"):
        export_training(model, F.mse_loss, optimizer, example, path, accumulate=0)
    with pytest.raises(ExportError, match="input_names must be 1 names"):
        export_training(model, F.mse_loss, optimizer, example, path, input_names=["a", "b"])
    with pytest.raises(ExportError, match=r"must differ .* got 'weight'"):
        export_training(model, F.mse_loss, optimizer, example, path, target_names=["weight"])
    with pytest.raises(ExportError, match="opset must be"):
        export_training(model, F.mse_loss, optimizer, example, path, opset=3)


def test_sparse_gradients_are_refused(tmp_path: Path) -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ExportError, match="gradient of 'weight' is sparse"):
        export_training(model, F.mse_loss, optimizer, (torch.tensor([1, 2]), torch.rand(2, 3)), tmp_path / "step.onnx")


def test_an_operation_without_translation_is_named(tmp_path: Path) -> None:
    model, optimizer, example = one_layer()
    with pytest.raises(ExportError, match=r"linalg_inv.*; write that operation in others"):
        export_training(
            model,
            lambda y, t: torch.linalg.inv(y.T @ t).sum(),
            optimizer,
            example,
            tmp_path / "s.onnx",
            inference=False,
        )


class Rounded(torch.autograd.Function):
    """Rounding with a gradient that passes: a backward that is not that of the forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.detach().round()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def test_a_backward_that_an_export_would_lose_is_refused(tmp_path: Path) -> None:
    model, optimizer, example = one_layer()

    def loss(y: Tensor, target: Tensor) -> Tensor:
        rounded: Tensor = Rounded.apply(y)  # type: ignore[no-untyped-call]
        return (rounded - target).square().mean()

    with pytest.raises(ExportError, match="a backward of its own, Rounded"):
        export_training(model, loss, optimizer, example, tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_hooks_on_the_backward_of_a_module_are_refused(tmp_path: Path) -> None:
    model, optimizer, example = one_layer()
    model.register_full_backward_hook(lambda *_: None)
    with pytest.raises(ExportError, match=r"module '' \(MyLinear\) has hooks on its backward"):
        export_training(model, F.mse_loss, optimizer, example, tmp_path / "step.onnx")


def test_a_gradient_that_the_graph_lacks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a parameter must not become a constant."""
    model, optimizer, example = one_layer()
    own = Program.gradients

    def lossy(self: Program, values: Any, wrt: list[str]) -> Any:
        loss, grads, buffers = own(self, values, wrt)
        return loss, {"bias": grads["bias"]}, buffers

    monkeypatch.setattr(Program, "gradients", lossy)
    with pytest.raises(ExportError, match="a gradient reaches 'weight' in torch or"):
        export_training(model, F.mse_loss, optimizer, example, tmp_path / "step.onnx")
