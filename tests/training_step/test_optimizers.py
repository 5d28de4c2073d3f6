"""An exported step updates as torch's own optimizer does, from every state of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import exporter
from exporter import ExportError, export_training
from exporter.training_step.optimizers.read import read_optimizer
from tests.training_step.stepping import Steps

Make = Callable[[Any], torch.optim.Optimizer]
SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW

OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: SGD(p, lr=0.05),
    "SGD, weight decay": lambda p: SGD(p, lr=0.05, weight_decay=0.1),
    "SGD, momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "SGD, dampening": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.3),
    "SGD, Nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, maximize": lambda p: SGD(p, lr=0.05, momentum=0.9, maximize=True, weight_decay=0.1),
    "Adam": lambda p: Adam(p, lr=0.01),
    "Adam, weight decay": lambda p: Adam(p, lr=0.01, weight_decay=0.1, maximize=True),
    "Adam, decoupled": lambda p: Adam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "AdamW": lambda p: AdamW(p, lr=0.01),
    "AdamW, no decay": lambda p: AdamW(p, lr=0.01, weight_decay=0.0, maximize=True),
    "AdamW, small beta": lambda p: AdamW(p, lr=0.01, betas=(0.4, 0.99), eps=1e-3, weight_decay=0.1),
}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def ulps(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the last place of the largest expected number."""
    unit = torch.finfo(expected.dtype).eps * expected.abs().max().double()
    return float((got.double() - expected.double()).abs().max() / unit)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_torch(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(3, 5, generator=generator).to(dtype))
    optimizer = OPTIMIZERS[name]([parameter])
    for step in range(1, 6):
        read = read_optimizer(optimizer, {"w": parameter})
        group = read.groups[0]
        before = parameter.detach().clone()
        slots = tuple(read.slots[f"w/{slot}"].clone() for slot in group.rule.slots)
        parameter.grad = torch.randn(3, 5, generator=generator).to(dtype)
        scalars = group.rule.scalars(torch.tensor(step), torch.tensor(group.lr, dtype=torch.float64))
        is_first = "w" in read.without_slots
        got, after = group.rule.update(before, parameter.grad, slots, scalars, is_first)
        optimizer.step()
        # torch fuses products with sums, which rounds once where ONNX rounds twice.
        assert ulps(got, parameter.detach()) <= 1
        for slot, value in zip(group.rule.slots, after, strict=True):
            assert ulps(value, optimizer.state[parameter][slot]) <= 1
        assert got.dtype is dtype
    expected = 5 if name.startswith("Adam") else 0
    assert read_optimizer(optimizer, {"w": parameter}).step == expected


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
        for name in (*exported.metadata.parameters, *exported.metadata.optimizer_state):
            owner, _, slot = name.rpartition("/")
            tensor = optimizer.state[parameters[owner]][slot] if owner else parameters[name]
            exported.state[name] = tensor.detach().numpy().copy()


def linear_example() -> exporter.MyLinear:
    torch.manual_seed(0)
    return exporter.MyLinear(2, 1, dtype=torch.float64)


def step_in_torch(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x, target = problem(seed)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), target).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@pytest.mark.parametrize("name", ["SGD, dampening", "AdamW, small beta"])
def test_steps_are_those_of_torch(name: str, tmp_path: Path) -> None:
    model = linear_example()
    optimizer = OPTIMIZERS[name](model.parameters())
    path = tmp_path / "step.onnx"
    export_training(model, nn.functional.mse_loss, optimizer, problem(0), path, inference=False)
    steps_are_equal(path, model, optimizer, 20, ulp=4)


def test_export_goes_on_from_the_middle_of_a_training_with_groups_and_late_parameters(tmp_path: Path) -> None:
    model = linear_example()
    optimizer = AdamW([{"params": [model.weight], "lr": 0.05}, {"params": [model.bias], "betas": (0.5, 0.9)}], lr=0.01)
    model.bias.requires_grad_(False)
    for seed in range(3):
        step_in_torch(model, optimizer, seed)
    model.bias.requires_grad_(True)  # its own count of steps is now 3 behind
    step_in_torch(model, optimizer, 4)
    path = tmp_path / "step.onnx"
    export_training(model, nn.functional.mse_loss, optimizer, problem(0), path, inference=False)
    exported = Steps(path)
    assert exported.state["step"] == 4
    assert exported.state["lr"].tolist() == [0.05, 0.01]
    np.testing.assert_array_equal(exported.state["weight/exp_avg"], optimizer.state[model.weight]["exp_avg"].numpy())
    steps_are_equal(path, model, optimizer, 5, ulp=4)


def test_learning_rates_are_inputs_one_for_each_group(tmp_path: Path) -> None:
    model = linear_example()
    optimizer = SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.01)
    path = tmp_path / "step.onnx"
    export_training(model, nn.functional.mse_loss, optimizer, problem(0), path, inference=False)
    exported = Steps(path)
    before = {name: value.copy() for name, value in exported.state.items()}
    exported.step(*problem(1), lr=[0.0, 0.5])
    np.testing.assert_array_equal(exported.state["weight"], before["weight"])
    assert exported.state["bias"] != before["bias"]


class Custom(torch.optim.SGD):
    pass


def _tensor_lr(p: Any) -> torch.optim.Optimizer:
    return SGD(p, lr=torch.tensor(0.1))


REFUSED: dict[str, tuple[Make, str]] = {
    "another": (lambda p: torch.optim.RMSprop(p), "must be torch.optim.SGD, Adam or AdamW .*RMSprop"),
    "a subclass": (lambda p: Custom(p, lr=0.1), "got a .*Custom"),
    "amsgrad": (lambda p: AdamW(p, amsgrad=True), "AdamW with amsgrad=True"),
    "fused": (lambda p: Adam(p, fused=True), "Adam with fused=True"),
    "foreach": (lambda p: SGD(p, lr=0.1, foreach=True), "SGD with foreach=True"),
    "differentiable": (lambda p: SGD(p, lr=0.1, differentiable=True), "differentiable=True"),
    "tensor lr": (_tensor_lr, "lr as a tensor"),
    "foreign parameters": (lambda p: SGD([*p, nn.Parameter(torch.zeros(7))], lr=0.1), r"shape \[7\] in group 0"),
    "no optimizer": (lambda p: "SGD", "got 'SGD'"),  # type: ignore[return-value,arg-type]
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_optimizers_are_refused_by_name(what: str, tmp_path: Path) -> None:
    make, message = REFUSED[what]
    model = linear_example()
    with pytest.raises(ExportError, match=message):
        export_training(model, nn.functional.mse_loss, make(model.parameters()), problem(0), tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_hooks_are_refused(tmp_path: Path) -> None:
    model = linear_example()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.raises(ExportError, match="has hooks on its steps"):
        export_training(model, nn.functional.mse_loss, optimizer, problem(0), tmp_path / "step.onnx")
    handle.remove()
    model.weight.register_hook(lambda grad: grad * 2)
    with pytest.raises(ExportError, match="'weight' has hooks on its gradient"):
        export_training(model, nn.functional.mse_loss, optimizer, problem(0), tmp_path / "step.onnx")


def test_groups_of_frozen_parameters_alone_have_nothing_to_train(tmp_path: Path) -> None:
    model = linear_example().requires_grad_(False)
    with pytest.raises(ExportError, match="no parameter that needs a gradient"):
        export_training(model, nn.functional.mse_loss, SGD(model.parameters(), lr=0.1), problem(0), tmp_path / "s.onnx")


def test_options_of_torch_are_all_known() -> None:
    """A new option of torch's optimizers must be read, or refused."""
    known = {"params", "lr", "momentum", "dampening", "nesterov", "betas", "eps", "weight_decay", "maximize"}
    known |= {"decoupled_weight_decay", "amsgrad", "capturable", "differentiable", "fused", "foreach"}
    groups = [make([nn.Parameter(torch.zeros(1))]).param_groups[0] for make in OPTIMIZERS.values()]
    assert set(itertools.chain.from_iterable(groups)) <= known
