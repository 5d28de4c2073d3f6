"""What a file of one training step holds, and that it does what torch does."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional as F

import exporter
from exporter import TrainingExport, export_training
from ort_ops.training.file_format import FUNCTION_DOMAIN
from tests.training_step.stepping import Steps


class Rich(nn.Module):
    """Two inputs, N-D, tied, frozen and unused parameters, buffers that change and that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.mixed = exporter.MyLinear(3, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.head = exporter.MyLinear(6, 11, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("scales", torch.rand(6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, ids: Tensor, extra: Tensor) -> Tensor:
        self.calls += 1
        x = self.words(ids) + self.mixed(extra)[:, None]
        return self.head(self.frozen(torch.tanh(x)) * self.scales)


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1) / self.temperature, target.flatten())


def draw(batch: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 11, (batch, 5), generator=generator)
    target = torch.randint(0, 11, (batch, 5), generator=generator)
    return (ids, torch.rand(batch, 3, generator=generator)), target


@dataclass
class Exported:
    model: Rich
    loss: Scaled
    optimizer: torch.optim.Optimizer
    result: TrainingExport
    before: dict[str, Tensor]
    random_state: Tensor


def make(cls: type[torch.optim.Optimizer] = torch.optim.AdamW) -> tuple[Rich, Scaled, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model, loss = Rich(), Scaled()
    return model, loss, cls([*model.parameters(), *loss.parameters()], lr=0.01)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, loss, optimizer = make()
    model.eval()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.random.get_rng_state()
    path = tmp_path_factory.mktemp("rich") / "step.onnx"
    result = export_training(model, loss, optimizer, draw(4, 0), path)
    return Exported(model, loss, optimizer, result, before, random_state)


@pytest.mark.long
def test_the_model_is_left_as_it_was(exported: Exported) -> None:
    assert not any(part.training for part in exported.model.modules())
    assert all(parameter.grad is None for parameter in exported.model.parameters())
    assert not exported.optimizer.state
    torch.testing.assert_close(exported.model.state_dict(), exported.before, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), exported.random_state)


def test_metadata_names_all(exported: Exported) -> None:
    metadata = exported.result.metadata
    assert metadata.parameters == ("words.weight", "mixed.weight", "mixed.bias", "loss.temperature")
    assert metadata.buffers == ("calls",)
    assert (metadata.inputs, metadata.targets) == (("ids", "extra"), ("target",))
    assert set(metadata.optimizer_state) == {f"{p}/{s}" for p in metadata.parameters for s in ("exp_avg", "exp_avg_sq")}
    assert (metadata.step, metadata.lr, metadata.loss) == ("step", "lr", "loss")
    assert metadata.feeds["words.weight/exp_avg/next"] == "words.weight/exp_avg"


def test_what_no_step_changes_is_a_constant_under_its_own_name(exported: Exported) -> None:
    steps = Steps(exported.result.path)
    inputs = {value.name for value in steps.proto.graph.input}
    assert exported.result.constants == (
        *("frozen.weight", "frozen.bias", "unused.weight", "unused.bias"),
        "scales",
    )
    for name in exported.result.constants:
        assert name not in inputs
        np.testing.assert_array_equal(steps.constants[name], exported.model.state_dict()[name].numpy())


def test_steps_at_any_batch_are_those_of_torch(exported: Exported) -> None:
    model, loss = copy.deepcopy((exported.model, exported.loss))
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=0.01)
    unused = model.unused.weight.detach().clone()
    model.train()
    steps = Steps(exported.result.path)
    for seed, batch in enumerate((4, 3, 1)):
        inputs, target = draw(batch, seed)
        got = steps.step(*inputs, target)
        optimizer.zero_grad()
        expected = loss(model(*inputs), target)
        expected.backward()
        optimizer.step()
        np.testing.assert_allclose(got, expected.detach(), rtol=1e-6)
    for name in ("words.weight", "mixed.bias"):
        np.testing.assert_allclose(steps.state[name], model.get_parameter(name).detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(steps.state["loss.temperature"], loss.temperature.detach(), rtol=1e-6)
    assert (steps.state["calls"], steps.state["step"]) == (3, 3)
    assert torch.equal(model.unused.weight, unused)  # torch does not even decay what no gradient reaches


def test_operators_stay_nodes_and_the_result_says_how_many(exported: Exported) -> None:
    assert exported.result.num_nodes["mylinear::MYLINEAR"] == 2
    assert set(exported.result.num_nodes) == {f"mylinear::{name}" for name in ("MYLINEAR", "MYLINEARGRAD", "ADAMSTEP")}
    assert exported.result.num_nodes["mylinear::ADAMSTEP"] == 4  # one for each trained parameter
    assert exported.result.num_trained == 11 * 6 + 3 * 6 + 6 + 1
    text = str(exported.result)
    for part in ("AdamW", "91 numbers in 4 parameters", "2 MYLINEAR,", "2 MYLINEARGRAD", "opset 20"):
        assert part in text


def eval_outputs(steps: Steps, *inputs: Tensor) -> NDArray[Any]:
    """Call the function of the file in a model of its own, with the state of now."""
    function = next(f for f in steps.proto.functions if f.domain == FUNCTION_DOMAIN)
    values = {**steps.constants, **steps.state}
    values |= {name: tensor.numpy() for name, tensor in zip(steps.metadata.inputs, inputs, strict=True)}
    graph = helper.make_graph(
        [helper.make_node(function.name, function.input, function.output, domain=FUNCTION_DOMAIN)],
        "eval",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape)
            for name in function.input
        ],
        [value for value in function.value_info if value.name in function.output],
    )
    model = helper.make_model(graph, functions=steps.proto.functions, opset_imports=steps.proto.opset_import)
    model.ir_version = steps.proto.ir_version
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: values[name] for name in function.input})
    assert len(outputs) == 1
    return outputs[0]  # type: ignore[no-any-return]


def test_the_file_has_the_model_in_eval_mode_as_a_function(exported: Exported) -> None:
    steps = Steps(exported.result.path)
    steps.step(*draw(3, 7)[0], draw(3, 7)[1])
    model = copy.deepcopy(exported.model)
    with torch.no_grad():
        for name in steps.metadata.parameters[:-1]:
            model.get_parameter(name).copy_(torch.from_numpy(steps.state[name]))
    inputs, _ = draw(6, 1)
    got = eval_outputs(steps, *inputs)
    np.testing.assert_allclose(got, model.eval()(*inputs).detach(), rtol=1e-5, atol=1e-6)


def test_equal_weights_stay_apart_in_eval_mode(tmp_path: Path) -> None:
    """Constants that are equal at first are not merged: training makes them differ."""
    model = nn.Sequential(exporter.MyLinear(2, 2), nn.Tanh(), exporter.MyLinear(2, 2))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(0.5)
            layer.bias.zero_()
    x = torch.rand(3, 2)
    path = tmp_path / "step.onnx"
    export_training(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), (x, torch.rand(3, 2)), path)
    steps = Steps(path)
    steps.state["2.weight"] = np.array([[1, 2], [3, 4]], np.float32)
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        np.testing.assert_allclose(eval_outputs(steps, x), model(x), rtol=1e-6)


@pytest.mark.long
def test_accumulated_gradients_update_by_their_mean(tmp_path: Path) -> None:
    model, loss, optimizer = make(torch.optim.SGD)
    result = export_training(model, loss, optimizer, draw(4, 0), tmp_path / "step.onnx", accumulate=2, inference=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step.apply.onnx", "step.grad.onnx"]
    assert result.apply_path is not None
    grad, apply = Steps(result.path), Steps(result.apply_path)
    assert (grad.metadata.apply, grad.metadata.accumulate) == ("step.apply.onnx", 2)
    model.train()
    for seed in (1, 2):
        inputs, target = draw(4, seed)
        got = grad.step(*inputs, target)
        value = loss(model(*inputs), target)
        np.testing.assert_allclose(got, value.detach(), rtol=1e-6)
        (value / 2).backward()
    optimizer.step()
    sums = {name: grad.state[name] for name in apply.metadata.gradients}
    apply.run(**sums, count=2.0)
    for name in ("words.weight", "mixed.weight"):
        np.testing.assert_allclose(apply.state[name], model.get_parameter(name).detach(), rtol=1e-5, atol=1e-7)
    assert (apply.state["step"], grad.state["calls"]) == (1, 2)


class Taken(nn.Module):
    """Parameters that are called as a training file calls its own values."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("step", "lr", "loss", "target"):
            self.register_parameter(name, nn.Parameter(torch.rand(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.step + self.lr * self.loss + self.target


def test_names_that_the_model_has_get_a_number_and_dropout_draws_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "step.onnx"
    model = Taken()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def noisy(y: Tensor, target: Tensor) -> Tensor:
        return F.dropout(y - target, 0.5).square().sum()

    example = torch.rand(64, 2), torch.rand(64, 2)
    export_training(model, noisy, optimizer, example, path, inference=False)
    steps = Steps(path)
    assert (steps.metadata.step, steps.metadata.lr, steps.metadata.loss) == ("step_1", "lr_1", "loss_1")
    assert steps.metadata.targets == ("target_1",)
    assert len({float(steps.step(*example)) for _ in range(4)}) > 1


class Structured(nn.Module):
    """A dict in, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = exporter.MyLinear(3, 2)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out": self.layer(batch["x"]) + batch["shift"]}


def test_structures_no_target_and_a_batch_of_one(tmp_path: Path) -> None:
    model = Structured()
    batch = {"x": torch.rand(1, 3), "shift": torch.rand(2)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "step.onnx"
    export_training(
        model, lambda y: y["out"].square().mean(), optimizer, ((batch,), ()), path, opset=18, inference=False
    )
    steps = Steps(path)
    assert steps.metadata.given == ("batch_x", "batch_shift")
    batch["x"] = torch.rand(6, 3)
    np.testing.assert_allclose(steps.step(*batch.values()), model(batch)["out"].square().mean().detach(), rtol=1e-6)
