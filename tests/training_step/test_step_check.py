"""Nothing wrong passes the comparison of a step with torch: each fault is made on purpose, and found by its name.

Long because the faults are made on the same few files, which take seconds to make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from exporter import export_training
from exporter.errors import ExportError
from exporter.to_onnx.finish import finish
from exporter.to_onnx.surroundings import prepared
from exporter.training_step import trace as trace_module
from exporter.training_step.check.graph_check import GraphCheck, without_outputs
from exporter.training_step.check.step_check import check_step
from exporter.training_step.network import in_mode, make_network
from exporter.training_step.optimizers.read import read_optimizer
from exporter.training_step.step import StepFile, make_plan, make_step
from ort_ops.training.file_format import GRADIENT

Made = tuple[StepFile, onnx.ModelProto, torch.optim.Optimizer]


def data(dtype: torch.dtype = torch.float64, rows: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, dtype=torch.float64, generator=generator).to(dtype)
    return x, torch.randint(0, 2, (rows,), generator=generator)


def make(
    model: nn.Module,
    loss: Any = functional.cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
    example: tuple[Tensor, Tensor] | None = None,
) -> Made:
    """Return a finished step, the same with its gradients as outputs, and its optimizer."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    network = make_network(model, loss, example or data(), dynamic_batch=True, input_names=None, target_names=None)
    read = read_optimizer(optimizer, network.parameters)
    with prepared(network.module, None), in_mode(network.module, training=True):
        file = make_step(make_plan(trace_module.Program(network), read), 20)
    finish(file.proto, 20, {})
    proto = without_outputs(file.proto, {name + GRADIENT for name in file.metadata.parameters})
    return replace(file, proto=proto), file.proto, optimizer


def classifier(dtype: torch.dtype = torch.float64, *, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Tanh(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).to(dtype)


def check(made: Made, change: Callable[[onnx.GraphProto], object] | None = None) -> None:
    """Compare with torch, after a change of the graph in both forms."""
    file, shown, optimizer = made
    if change is not None:
        for model in (file.proto, shown):
            change(model.graph)
    check_step(file, shown, optimizer)


@pytest.fixture(scope="module")
def adam() -> Made:
    model = classifier()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 3e-3}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
    return make(model, lambda output, target: functional.cross_entropy(output, target) * 0.7, optimizer)


def copied(made: Made) -> Made:
    file, shown, optimizer = made
    protos = [onnx.ModelProto.FromString(model.SerializeToString()) for model in (file.proto, shown)]
    return replace(file, proto=protos[0]), protos[1], optimizer


def set_constants(value: float, new: float) -> Callable[[onnx.GraphProto], None]:
    """Return what replaces constants of a value."""

    def change(graph: onnx.GraphProto) -> None:
        names = {node.name for node in graph.input}
        found = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name not in names and not t.dims}
        same = {name: v for name, v in found.items() if v.dtype.kind == "f" and v == v.dtype.type(value)}
        assert same, value
        for tensor in graph.initializer:
            if tensor.name in same:
                array = np.array(new, same[tensor.name].dtype)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


def instead(output: str, source: str) -> Callable[[onnx.GraphProto], None]:
    """Return what lets an output be another value, and changes nothing else."""

    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for names in (node.input, node.output):
                renamed = [f"{name}/kept" if name == output else name for name in names]
                del names[:]
                names.extend(renamed)
        graph.node.append(onnx.helper.make_node("Identity", [source], [output]))

    return change


def test_a_right_step_passes(adam: Made) -> None:
    check(copied(adam))


@pytest.mark.parametrize(
    ("name", "value", "new"),
    [
        ("loss", 0.7, float(np.float32(0.7))),
        ("next value of '0.weight'", 1e-8, 0.0),
        ("next value of '0.weight'", 1e-8, 1.1e-8),
        ("next value of '0.weight'", 0.1, float(np.float32(0.1))),
        ("next value of '0.weight/exp_avg_sq'", 0.999, float(np.float32(0.999))),
    ],
    ids=["factor of float32", "deleted epsilon", "other epsilon", "weight decay of float32", "beta of float32"],
)
def test_a_wrong_constant_is_found(adam: Made, name: str, value: float, new: float) -> None:
    with pytest.raises(ExportError, match=f"torch's {name} is not what the exported graph gives in float64, on a "):
        check(copied(adam), set_constants(value, new))


def swap_slots(graph: onnx.GraphProto) -> None:
    pair = {"0.weight/exp_avg": "0.weight/exp_avg_sq", "0.weight/exp_avg_sq": "0.weight/exp_avg"}
    for node in graph.node:
        names = [pair.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(names)


def count_in_a_list(graph: onnx.GraphProto) -> None:
    """Give the number of steps a dimension."""
    instead("step/next", "step/next/kept")(graph)
    node = graph.node[-1]
    node.op_type = "Unsqueeze"
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    node.input.append("first")


def swap_rates(graph: onnx.GraphProto) -> None:
    """Give each group the learning rate of the other."""
    indices = [t for t in graph.initializer if t.data_type == 7 and numpy_helper.to_array(t).tolist() in (0, 1)]
    gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] == "lr"]
    assert len(gathers) == 2, [t.name for t in indices]
    first, second = (node.input[1] for node in gathers)
    gathers[0].input[1], gathers[1].input[1] = second, first


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (swap_slots, "0.weight"),
        (swap_rates, "0.weight"),
        (instead("2.bias/exp_avg/next", "2.bias/exp_avg"), "2.bias/exp_avg"),
        (instead("step/next", "step"), "step"),
        (count_in_a_list, "step"),
        (instead("0.weight/next", "0.weight/exp_avg"), "0.weight"),
        (instead("2.bias/exp_avg/next", "2.bias/exp_avg_sq/next"), "2.bias/exp_avg"),
    ],
    ids=[
        "swapped slots",
        "swapped rates",
        "slot not updated",
        "step not counted",
        "step in a list",
        "wrong input",
        "outputs swapped",
    ],
)
def test_a_wrong_state_is_found(adam: Made, change: Any, name: str) -> None:
    with pytest.raises(ExportError, match=f"torch's next value of '{name}' is not what"):
        check(copied(adam), change)


class Scaled(nn.Module):
    """Rows over their largest number, as a quantization has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = classifier(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(1, keepdim=True) + 2e-8
        output: Tensor = self.layers(x / scale)
        return output


@pytest.fixture(scope="module")
def float32() -> Made:
    model = Scaled()
    return make(model, optimizer=torch.optim.Adam(model.parameters()), example=data(torch.float32))


def as_in_step(number: int) -> Callable[[onnx.GraphProto], None]:
    """Return what lets Adam correct its averages as in this step, always."""

    def change(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array(number), "always"))
        nodes = [node for node in graph.node if len(node.input) == 10]
        assert len(nodes) == 4
        for node in nodes:
            node.input[4] = "always"

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_constants(1e-8, 0.0), "next value of 'layers.0.weight' .* on a batch of 7"),
        (set_constants(2e-8, 0.0), "loss .* on a batch of 7, in the middle of a training"),
        (as_in_step(10**6), "next value of 'layers.0.weight' .* on a batch of 4"),
        (as_in_step(1), "next value of 'layers.0.weight' .* on a batch of 7, in the middle of a training"),
    ],
    ids=["epsilon of Adam", "epsilon of the model", "no bias correction", "wrong power of a beta"],
)
def test_a_fault_that_few_numbers_show_is_found_in_float32(float32: Made, change: Any, message: str) -> None:
    with pytest.raises(ExportError, match=f"torch's {message}"):
        check(copied(float32), change)


def fix_batch(graph: onnx.GraphProto) -> None:
    """Let the graph take a batch of 4 alone, as some operations are recorded."""
    for node in graph.node:
        names = ["x/fixed" if name == "x" else name for name in node.input]
        del node.input[:]
        node.input.extend(names)
    graph.initializer.append(numpy_helper.from_array(np.array([4, 3]), "size"))
    nodes = [onnx.helper.make_node("Reshape", ["x", "size"], ["x/fixed"]), *graph.node]
    copies = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(copies.node)


def test_a_fixed_batch_is_found(adam: Made) -> None:
    with pytest.raises(ExportError, match="onnxruntime does not run the file on a batch of 7, in the middle of a"):
        check(copied(adam), fix_batch)


def test_a_made_up_total_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    table = trace_module.decompositions
    nll = torch.ops.aten.nll_loss_forward.default
    monkeypatch.setattr(trace_module, "decompositions", lambda: {k: f for k, f in table().items() if k is not nll})
    with pytest.raises(ExportError, match=r"torch's gradient of '0\.weight' is not .* on a batch of 4: 12 of 12"):
        check(make(classifier()))


def test_a_batch_norm_s_made_up_statistics_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    table = trace_module.decompositions
    left_out = ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional")
    monkeypatch.setattr(
        trace_module,
        "decompositions",
        lambda: {k: f for k, f in table().items() if k.__name__.partition(".")[0] not in left_out},
    )
    with pytest.raises(ExportError, match=r"torch's gradient of '0\.weight'|does not pass onnx.checker"):
        check(make(classifier(torch.float32, norm=True), example=data(torch.float32)))


@pytest.fixture(scope="module")
def normalized() -> Made:
    model = classifier(torch.float32, norm=True)
    return make(model, optimizer=torch.optim.Adam(model.parameters()), example=data(torch.float32))


def test_a_gradient_that_is_zero_but_for_rounding_passes(normalized: Made) -> None:
    check(copied(normalized))


def test_buffers_that_are_not_updated_are_found(normalized: Made) -> None:
    with pytest.raises(ExportError, match=r"torch's next value of '1\.running_var' is not what"):
        check(copied(normalized), instead("1.running_var/next", "1.running_var"))
    file = normalized[0]
    plan = replace(file.plan, constants={**file.plan.constants, "1.running_mean": torch.zeros(4)})
    with pytest.raises(ExportError, match=r"torch changes '1\.running_mean' in a step, and the exported step holds it"):
        check((replace(file, plan=plan), *normalized[1:]))


def test_a_factor_of_the_example_s_batch_is_found() -> None:
    def fixed(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target, reduction="sum") / 4

    made = make(classifier(), fixed)
    made[0].plan.program.network.module.loss = functional.cross_entropy
    with pytest.raises(ExportError, match=r"torch's loss is not what .* on a batch of 7, in the middle of a training"):
        check(made)


def test_a_quantity_without_a_bound_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 a number is off by 64 after 1e9 was added to it, and nothing is left of the numbers themselves."""

    def drown(output: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss((output + 1e9) - 1e9, functional.one_hot(target, 2).to(output.dtype))

    with pytest.raises(ExportError, match=r"the loss cannot be compared with torch: rounding errors may be larger"):
        check(make(classifier(torch.float32), drown, example=data(torch.float32)))


def test_a_loss_that_is_no_number_is_no_proof(adam: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    module = adam[0].plan.program.network.module
    monkeypatch.setattr(module, "loss", lambda output, target: functional.cross_entropy(output, target) * torch.nan)
    with pytest.raises(ExportError, match=r"the loss cannot be compared with torch: .* or it is not a number"):
        check(copied(adam), set_constants(0.7, float("nan")))


@pytest.mark.long
def test_dropout_is_compared_without_chance_and_draws_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.4), nn.Linear(4, 2)).double()
    before = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    export_training(model, functional.cross_entropy, optimizer, data(), tmp_path / "step.onnx")
    assert any(node.op_type == "RandomUniformLike" for node in onnx.load(tmp_path / "step.onnx").graph.node)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before[1], strict=True))
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())


def test_other_random_numbers_are_refused_by_name() -> None:
    class Noisy(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + torch.randn_like(input)[:, :2]

    with pytest.raises(ExportError, match="the model draws random numbers by randn_like, so that a step"):
        check(make(Noisy(3, 2).double()))


def test_a_runtime_that_computes_something_else_is_found(adam: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    right = GraphCheck.trial

    def trial(self: Any, what: str, feed: Any, expected: Any, *, proves: bool) -> None:
        for session, _ in self._sessions:
            run = session.run
            session.run = lambda n, f, run=run: [value * (1 + 1e-9) for value in run(n, f)]
        right(self, what, feed, expected, proves=proves)

    monkeypatch.setattr(GraphCheck, "trial", trial)
    with pytest.raises(ExportError, match="onnxruntime's loss is not what the exported graph gives in float64, on a"):
        check(copied(adam))
