"""What cannot be exported as gradients is refused in one line that names it, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import exporter
from exporter import ExportError, export_gradients
from exporter.training_step.gradients.differentiate import Differentiated


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = exporter.MyLinear(3, 2), exporter.MyLinear(3, 2)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x: Tensor, ids: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.first(x) + self.second(x) * self.scale, ids * 2, (x.detach() * z).sum()


class Calls(nn.Module):
    """A model that is a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Counting(Calls):
    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return (x * self.calls).sum()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 5


def twice_differentiated(x: Tensor) -> Tensor:
    x.requires_grad_(True)
    return torch.autograd.grad(torch.tanh(x).sum(), x, create_graph=True)[0]


SEVERAL = torch.rand(4, 3), torch.arange(4), torch.rand(4, 3)


def refused(model: Any, args: Any, options: Mapping[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export_gradients(model, args, folder / "it.onnx", **options)
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"has several outputs \(y0, y1, y2\); say by of which"),
        ({"of": "y3"}, r"of must name outputs of the model \(y0, y1, y2\), got 'y3'"),
        ({"of": []}, r"of must be a name, or distinct names, got \[\]"),
        ({"of": "y1"}, "output 'y1' is int64, which has no gradient"),
        ({"of": "y0"}, r"output 'y0' must be one number to have a gradient, got \[4, 2\]; seed='sum'"),
        ({"of": "y0", "seed": "ones"}, "seed must be scalar, sum or cotangent, got 'ones'"),
        ({"of": "y2", "wrt": "weights"}, r"wrt must name inputs \(x, ids, z\) or parameters \(first.weight, .*got 'we"),
        ({"of": "y2", "wrt": ["z", "z"]}, "wrt must be a name, or distinct names"),
        ({"of": "y2", "wrt": "ids"}, "input 'ids' is int64, which has no gradient; leave it out of wrt"),
        ({"of": "y2", "wrt": "scale"}, "'scale' in wrt is a buffer"),
        ({"of": "y2", "wrt": "second.weight"}, "is the same parameter as 'first.weight'; name that one"),
        ({"of": "y2"}, "'y2' does not depend on 'x' in a way that torch differentiates; leave it out of wrt"),
        ({"of": "y2", "wrt": "x"}, r"output 'y2' depends on nothing in wrt \(x\)"),
        ({"of": ["y0", "y2"], "seed": "sum", "wrt": "x"}, r"output 'y2' depends on nothing in wrt \(x\)"),
        ({"of": "y2", "output_names": ["a", "b"]}, "output_names must be 3 names, got 2"),
        ({"of": "a", "output_names": ["a", "b", "x"]}, "output_names must differ from inputs .*, got 'x'"),
        ({"of": "y2", "input_names": ["a", "b", "scale"]}, "input_names must differ from the model's own .*'scale'"),
        ({"of": "y2", "dynamic_shapes": {"x": {0: "my rows"}}}, "names of dimensions that Python could have"),
        ({"of": "y2", "dynamic_shapes": {"x": {2: "b"}}}, "dynamic_shapes of 'x' must be dimensions 0 to 1"),
        ({"of": "y2", "opset": 30}, "opset must be 18 to 25"),
    ],
)
def test_what_is_asked_for_is_checked(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(Several(), SEVERAL, options, message, tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Calls(lambda x: (x.reshape(4, 3) * x).sum()), "the model fixes the size of the batch; .*dynamic_shapes={}"),
        (Calls(lambda x: (x * torch.randn_like(x)).sum()), "draws random numbers by randn_like in eval mode"),
        (Calls(lambda x: F.dropout(x).sum()), "draws random numbers by .*give a dropout training=self.training"),
        (Calls(lambda x: Doubled.apply(x).sum()), "a backward of its own, Doubled"),
        (
            Calls(lambda x: twice_differentiated(x).sum()),
            "it return what it differentiates instead, such as the energy",
        ),
        (Calls(lambda x: None), "the model must return tensors"),
        (Counting(torch.sum), "the model changes its buffer 'calls' in each call"),
    ],
    ids=["fixed batch", "random", "dropout", "own backward", "own gradient", "nothing", "counting"],
)
def test_models_are_checked(model: Any, message: str, tmp_path: Path) -> None:
    refused(model, torch.rand(4, 3), {}, message, tmp_path)


@pytest.mark.parametrize(
    ("model", "args", "path", "message"),
    [
        (torch.rand(4, 3), nn.Identity(), None, r"got a torch.Tensor; the call is export_gradients\(model, args, path"),
        (nn.Identity(), torch.rand(0, 3), None, "at least one entry in dimension 0 of 'x', got 0"),
        (nn.Identity(), np.zeros((4, 3)), None, "args must be tensors, got a numpy.ndarray"),
        (nn.Identity(), torch.arange(3), None, "has no floating-point input to differentiate by; name parameters"),
        (nn.Identity(), "it.onnx", torch.rand(4, 3), "path must be the name of a file, got a torch.Tensor; the call"),
    ],
    ids=["swapped", "no rows", "NumPy", "integers", "path"],
)
def test_arguments_are_checked(model: Any, args: Any, path: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_gradients(model, args, tmp_path / "it.onnx" if path is None else path)
    assert not list(tmp_path.iterdir())


def _a_little_off(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "x/grad": found["x/grad"] * 1.00001}


def _at_one_batch_alone(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "x/grad": found["x/grad"] * (4 / found["x/grad"].shape[0])}


def _zero(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "0.weight/grad": torch.zeros_like(found["0.weight/grad"])}


def _other_output(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "y": found["y"] + 1e-4}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_a_little_off, "gradient of 'x' is not what the exported graph gives in float64, on a batch of 4"),
        (_at_one_batch_alone, "gradient of 'x' is not what the exported graph gives in float64, on a batch of 7"),
        (_zero, "gradient of '0.weight' is not what the exported graph gives"),
        (_other_output, "output 'y' is not what the exported graph gives"),
    ],
)
def test_a_wrong_graph_is_caught_before_it_is_written(
    broken: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Differentiated.__call__
    monkeypatch.setattr(Differentiated, "__call__", lambda self, values: broken(dict(right(self, values))))
    torch.manual_seed(0)
    model = nn.Sequential(exporter.MyLinear(3, 4), nn.Tanh(), exporter.MyLinear(4, 1))
    refused(model, torch.rand(4, 3), {"wrt": ["x", "0.weight"], "seed": "sum"}, message, tmp_path)
