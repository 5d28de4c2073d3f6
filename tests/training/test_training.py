"""Training: right numbers, the same bits again, resumed without a trace, and stopped without a loss."""

from __future__ import annotations

import csv
import errno
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.operators.mylinear import autograd
from exporter.operators.mylinear.network import Architecture, make_network
from exporter.torch_ops.gradients import GradientError
from exporter.training import metrics as evaluation
from exporter.training import run as training_run
from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, CheckpointError, load_checkpoint, load_network
from exporter.training.data.dataset import DataError, Dataset, load_diabetes, load_digits
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import Problem, TrainingError, TrainingInterrupted, TrainingResult, train
from exporter.training.options import DEFAULTS, OptionError, TrainingOptions, default_options

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


# The linear example


def test_the_linear_preset_is_a_plain_loop_to_the_last_bit() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(300):
        x = torch.rand(2, dtype=torch.float64)
        optimizer.zero_grad()
        F.mse_loss(layer(x), 2 * x[:1] + 3 * x[1:] + 4).backward()
        optimizer.step()
    result = train(LinearExample())
    assert_same_bits(result.network.layers[0], layer)
    assert result.network.architecture == Architecture(2, (), 1, "float64")
    y = result.network(torch.tensor([[3.0, 2.0]], dtype=torch.float64)).item()
    assert y == pytest.approx(15.964110066067608, abs=1e-12)


def test_the_linear_example_s_300_steps_come_as_near_as_they_should() -> None:
    errors = sorted(largest_error(train(LinearExample(), replace(EXAMPLE, seed=seed))) for seed in range(6))
    assert errors[-1] < 0.05
    assert 0.005 < errors[3] < 0.03


def test_the_linear_example_converges_with_larger_batches_and_rate_and_no_decay() -> None:
    options = replace(EXAMPLE, epochs=1000, batch_size=64, lr=0.1, weight_decay=0.0)
    assert largest_error(train(LinearExample(), options)) < 1e-12


# Real data


def test_digits_reach_95_percent_on_rows_kept_apart(tmp_path: Path) -> None:
    digits = load_digits()
    result = train(digits, replace(default_options("digits"), hidden=(64, 32), epochs=8), folder=tmp_path)
    assert result.metrics["validation"]["accuracy"] >= 0.95
    network = load_network(tmp_path / CHECKPOINT_NAME)
    _, validation = digits.split(0.2, seed=0)
    assert validation is not None
    logits = network(torch.from_numpy(validation.features).float())
    accuracy = float((logits.argmax(1).numpy() == validation.targets).mean())
    assert accuracy == pytest.approx(result.metrics["validation"]["accuracy"])
    expected = F.cross_entropy(logits, torch.from_numpy(validation.targets)).item()
    assert result.metrics["validation"]["cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_diabetes_reaches_a_sensible_r2_in_its_own_units() -> None:
    diabetes = load_diabetes()
    result = train(diabetes)
    assert result.metrics["validation"]["r2"] > 0.4
    _, validation = diabetes.split(0.2, seed=0)
    assert validation is not None
    predicted = result.network(torch.from_numpy(validation.features).float()).detach().double().numpy()
    mse = float(((predicted - validation.targets) ** 2).mean())
    assert result.metrics["validation"]["mse"] == pytest.approx(mse, rel=1e-6)
    assert result.metrics["validation"]["r2"] == pytest.approx(1 - mse / validation.targets.var(), rel=1e-6)


def test_training_is_bit_for_bit_that_of_torchs_own_layers() -> None:
    data = classification()
    result = train(data, SMALL)
    torch.manual_seed(SMALL.seed)
    layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=SMALL.lr, weight_decay=SMALL.weight_decay)
    rows, _ = data.split(SMALL.validation, SMALL.seed)
    x, y = torch.from_numpy(rows.features).float(), torch.from_numpy(rows.targets)
    x = (x - result.network.get_buffer("input_mean")) / result.network.get_buffer("input_std")
    for _ in range(SMALL.epochs):
        for chosen in torch.randperm(len(x)).split(SMALL.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(layers(x[chosen]), y[chosen]).backward()
            optimizer.step()
    for ours, theirs in zip(result.network.layers, (layers[0], layers[2]), strict=True):
        assert_same_bits(ours, theirs)


def test_the_statistics_are_those_of_the_training_rows_alone() -> None:
    data = regression()
    network = train(data, replace(SMALL, dtype="float64")).network
    rows, _ = data.split(SMALL.validation, SMALL.seed)
    np.testing.assert_array_equal(network.get_buffer("input_mean").numpy(), rows.features.mean(axis=0))
    np.testing.assert_array_equal(network.get_buffer("output_std").numpy(), rows.targets.std(axis=0))


def test_without_validation_rows_there_are_no_validation_figures(tmp_path: Path) -> None:
    result = train(regression(), replace(SMALL, validation=0.0), folder=tmp_path)
    assert list(result.metrics) == ["train"]
    assert result.history[-1].validation_loss is None
    assert (tmp_path / "loss.csv").read_text().splitlines()[1].endswith(",,")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_dtype_learns_with_every_optimizer(dtype: str, optimizer: str) -> None:
    result = train(classification(), replace(SMALL, dtype=dtype, optimizer=optimizer, epochs=8, lr=0.03))
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss
    assert {value.dtype for value in result.network.state_dict().values()} == {getattr(torch, dtype)}


def test_several_targets_are_learned_together() -> None:
    data = regression()
    both = replace(data, targets=np.hstack([data.targets, -1000 * data.targets]))
    result = train(both, replace(SMALL, epochs=40))
    assert result.network.architecture.num_outputs == 2
    assert result.metrics["validation"]["r2"] > 0.8


def test_a_network_is_exported_as_these_operators_only() -> None:
    network = make_network(Architecture(3, (4, 4), 2, standardizes_inputs=True, restores_outputs=True)).eval()
    graph = torch.export.export(network, (torch.rand(5, 3),)).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    linear = "mylinear.linear.default"
    hidden = [linear, "aten.relu.default"] * 2
    expected = ["aten.sub.Tensor", "aten.div.Tensor", *hidden, linear, "aten.mul.Tensor", "aten.add.Tensor"]
    assert called == expected
    plain = torch.export.export(make_network(Architecture(2, (), 1)).eval(), (torch.rand(5, 2),)).graph
    assert [str(node.target) for node in plain.nodes if node.op == "call_function"] == [linear]


# The same bits again

PROBLEMS: dict[str, tuple[Callable[[], Problem], TrainingOptions]] = {
    "regression, sgd": (regression, SGD),
    "classification, adamw": (classification, SMALL),
    "linear": (LinearExample, replace(EXAMPLE, epochs=20, checkpoint_interval=10)),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS)


@each_problem
def test_a_seed_gives_the_same_bits_and_another_seed_others(problem: str) -> None:
    make, options = PROBLEMS[problem]
    first, again = train(make(), options), train(make(), options)
    other = train(make(), replace(options, seed=1))
    assert_same_bits(first.network, again.network)
    assert first.history == again.history
    assert not torch.equal(
        first.network.layers[0].get_parameter("weight"), other.network.layers[0].get_parameter("weight")
    )


def test_training_neither_uses_nor_moves_torchs_global_random_stream() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(regression(), SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same_bits(first.network, train(regression(), SMALL).network)


@each_problem
def test_half_a_training_and_a_resume_give_the_bits_of_a_whole_one(problem: str, tmp_path: Path) -> None:
    make, options = PROBLEMS[problem]
    whole = train(make(), options, folder=tmp_path / "whole")
    half = replace(options, epochs=options.epochs // 2)
    train(make(), half, folder=tmp_path / "parts")
    resumed = train(
        make(), options, folder=tmp_path / "parts", resume=load_checkpoint(tmp_path / "parts/checkpoint.pt")
    )
    assert_same_bits(resumed.network, whole.network)
    assert resumed.history == whole.history
    assert resumed.metrics == whole.metrics
    for name in ("loss.csv", "loss.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# Stopped on the way


def test_an_interrupt_keeps_the_last_checkpoint_from_which_the_same_bits_come(tmp_path: Path) -> None:
    whole = train(regression(), SGD)
    with pytest.raises(TrainingInterrupted) as caught:
        train(regression(), SGD, folder=tmp_path, on_step=interrupt_at(18))  # five steps an epoch
    assert isinstance(caught.value, KeyboardInterrupt)
    assert (caught.value.epoch, caught.value.saved_epoch) == (4, 3)
    assert caught.value.checkpoint == tmp_path / CHECKPOINT_NAME
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert (checkpoint.epoch, len(checkpoint.history), checkpoint.metrics) == (3, 3, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "loss.csv", "loss.png"]
    assert_same_bits(train(regression(), SGD, folder=tmp_path, resume=checkpoint).network, whole.network)


def test_an_interrupt_before_the_first_checkpoint_says_that_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted) as caught:
        train(regression(), SGD, folder=tmp_path, on_step=interrupt_at(2))
    assert (caught.value.epoch, caught.value.saved_epoch) == (1, None)
    assert list(tmp_path.iterdir()) == []


def test_the_linear_example_is_saved_at_its_interval_and_at_its_end(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted) as caught:
        train(LinearExample(), EXAMPLE, folder=tmp_path, on_step=interrupt_at(120))
    assert caught.value.saved_epoch == 100
    train(LinearExample(), replace(EXAMPLE, epochs=7), folder=tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME).epoch == 7


def test_a_loss_that_diverges_stops_with_epoch_and_advice() -> None:
    with pytest.raises(
        TrainingError, match=r"epoch \d+, .*(nan|inf|finite).* lower the learning rate \(lr is 1e\+06\)"
    ):
        train(regression(), replace(SGD, lr=1e6))
    with pytest.raises(TrainingError, match="or standardize the inputs; no checkpoint was written yet"):
        train(regression(), replace(SGD, standardize=False, lr=100.0))
    with pytest.raises(TrainingError, match="or train in float32"):
        train(regression(), replace(SGD, lr=1e6, dtype="float16"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    compute_loss = evaluation.compute_loss

    def spoiled(network: nn.Module, standardized: Tensor, y: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return compute_loss(network, standardized, y) * (bad if steps == 13 else 1)

    monkeypatch.setattr(training_run, "compute_loss", spoiled)
    with pytest.raises(TrainingError, match=rf"epoch 3, step 3: the loss is {bad}; .* epoch 2 is kept in '.*point.pt'"):
        train(regression(), SGD, folder=tmp_path)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert checkpoint.epoch == 2
    assert all(value.isfinite().all() for value in checkpoint.network_state.values())
    assert len((tmp_path / "loss.csv").read_text().splitlines()) == 3


def test_parameters_that_the_last_step_spoiled_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.SGD.step
    steps = 0

    def spoil(self: torch.optim.SGD, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        result = step(self, *args)
        if steps == 10:
            self.param_groups[0]["params"][0].data[0, 0] = math.inf
        return result

    monkeypatch.setattr(torch.optim.SGD, "step", spoil)
    with pytest.raises(TrainingError, match="epoch 2, last step: the parameters are no longer finite"):
        train(regression(), SGD, folder=tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME).epoch == 1


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file = os.replace
    written = 0

    def fill_up(source: str, target: str) -> None:
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", fill_up)
    with pytest.raises(CheckpointError, match=r"checkpoint.pt' cannot be written: No space left on device; free some"):
        train(regression(), SGD, folder=tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME).epoch == 2
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_NAME]


@pytest.mark.parametrize("argument", [0, 1, 2], ids=["x", "weight", "bias"])
def test_gradients_are_checked_before_anything_is_trained(
    argument: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = autograd.linear_gradients

    def wrong(*args: Any) -> tuple[Tensor | None, ...]:
        gradients = list(right(*args))
        chosen = gradients[argument]
        gradients[argument] = None if chosen is None else chosen * 1.01
        return tuple(gradients)

    monkeypatch.setattr(autograd.PlainLinearF, "backward", staticmethod(wrong))
    steps: list[int] = []
    with pytest.raises(GradientError, match="is wrong"):
        train(regression(), SGD, folder=tmp_path, on_step=lambda done, loss: steps.append(done))
    assert steps == []
    assert list(tmp_path.iterdir()) == []


# Resuming something else


def test_a_resume_with_other_options_or_data_is_refused_by_name(tmp_path: Path) -> None:
    train(regression(), replace(SGD, epochs=2), folder=tmp_path)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    changed = regression()
    changed.features[0, 0] += 1
    renamed = replace(regression(), feature_names=("a", "b", "d"))
    cases: list[tuple[Problem, TrainingOptions, str]] = [
        (regression(), replace(SGD, hidden=(5, 5)), "cannot resume: hidden was 5 and is 5,5;"),
        (regression(), replace(SGD, lr=0.5, seed=3), "lr was 0.01 and is 0.5; seed was 0 and is 3;"),
        (regression(), replace(SGD, dtype="float64"), "dtype was float32 and is float64"),
        (regression(30), SGD, "the number of rows of the data was 40 and is 30"),
        (renamed, SGD, "the columns of the data was a,b,c and is a,b,d"),
        (classification(), SGD, "the task of the data was regression and is classification"),
        (changed, SGD, "the values of 'rows' have changed"),
        (LinearExample(), SGD, "the columns of the data"),
        (regression(), replace(SGD, epochs=2), "nothing to resume: 2 epochs are done and 2 are wanted"),
    ]
    for problem, options, message in cases:
        with pytest.raises(CheckpointError, match=message):
            train(problem, options, folder=tmp_path, resume=checkpoint)
    train(regression(), SGD, folder=tmp_path, resume=checkpoint)


# Options and limits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"batch_size": -1}, "batch_size must be 1 or more"),
        ({"lr": 0.0}, "lr must be a number above 0"),
        ({"lr": math.nan}, "lr must be a number above 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay must be a number, 0 or more"),
        ({"validation": 1.0}, "validation must be at least 0 and below 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"optimizer": "adam"}, "optimizer must be sgd or adamw, got adam"),
        ({"dtype": "int8"}, "dtype must be float64 or float32 or float16 or bfloat16"),
        ({"hidden": (4, 0)}, "hidden must be sizes of 1 or more"),
        ({"hidden": (2**31,)}, r"hidden must be sizes of 1 or more, and below 2\*\*31"),
        ({"batch_size": 10**20}, r"batch_size must be below 2\*\*63"),
        ({"checkpoint_interval": 0}, "checkpoint_interval must be 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(SMALL, **change)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(OptionError, match=r"device cuda:99 is not available here.*; use cpu or auto"):
        train(regression(), replace(SMALL, device="cuda:99"))
    for device in ("tpu", "meta"):
        with pytest.raises(OptionError, match=f"device {device} is not available here; use cpu or auto"):
            train(regression(), replace(SMALL, device=device))


def test_a_network_that_no_memory_can_hold_is_refused() -> None:
    with pytest.raises(OptionError, match=r"hidden 2000000000,2000000000 makes \d+ parameters in .* take smaller"):
        train(regression(), replace(SMALL, hidden=(2 * 10**9, 2 * 10**9)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_what_cuda_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        OptionError, match=r"device cuda is not available here: torch \S+ was built without it; install"
    ):
        train(regression(), replace(SMALL, device="cuda"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(OptionError, match=r"built for CUDA 13\.0, finds no device; .* driver knows; use cpu or auto"):
        train(regression(), replace(SMALL, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_on_cuda_comes_near_that_on_the_cpu_and_its_checkpoint_loads_anywhere(tmp_path: Path) -> None:
    options = replace(SMALL, dtype="float64", device="auto")
    on_cuda = train(regression(), options, folder=tmp_path)
    on_cpu = train(regression(), replace(options, device="cpu"))
    for a, b in zip(on_cuda.network.parameters(), on_cpu.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert_same_bits(load_network(tmp_path / CHECKPOINT_NAME), on_cuda.network)
    more = replace(options, epochs=8, device="cpu")
    assert (
        train(regression(), more, resume=load_checkpoint(tmp_path / CHECKPOINT_NAME)).history[5] == on_cuda.history[5]
    )


@pytest.mark.parametrize("factor", [1e39, 1e-50])
def test_numbers_that_the_dtype_cannot_hold_are_refused_with_the_column(factor: float) -> None:
    data = regression()
    data.features[:, 1] *= factor
    with pytest.raises(DataError, match=r"rows: column 'b' varies too .* for float32; rescale it or use float64"):
        train(data, SMALL)
    train(data, replace(SMALL, dtype="float64", epochs=1))
    with pytest.raises(DataError, match="the target varies too"):
        train(replace(regression(), targets=regression().targets * 1e39), SMALL)


def test_without_standardization_too_large_numbers_are_refused_as_well() -> None:
    data = regression()
    data.features[3, 1] = 1e39
    with pytest.raises(DataError, match="rows holds numbers that are too large for float32"):
        train(data, replace(SMALL, standardize=False))


def test_the_loss_curve_is_written_exactly_as_csv_and_as_a_picture(tmp_path: Path) -> None:
    result = train(regression(), SMALL, folder=tmp_path)
    with open(tmp_path / "loss.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert [int(record["epoch"]) for record in records] == list(range(1, 7))
    assert [float(record["train_loss"]) for record in records] == [r.train_loss for r in result.history]
    assert [float(record["validation_score"]) for record in records] == [r.validation_score for r in result.history]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(regression(), SMALL).checkpoint is None
    assert list(tmp_path.iterdir()) == []
