"""Training gives right numbers, on the linear example and on real data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exporter.operators.mylinear.network import Architecture, make_network
from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, load_network
from exporter.training.data.dataset import load_diabetes, load_digits
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import train
from exporter.training.options import default_options
from tests.training.support import (
    EXAMPLE,
    SMALL,
    assert_same_bits,
    classification,
    largest_error,
    regression,
)


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
