"""A training that is stopped loses nothing that was saved, and says where it is."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exporter.operators.mylinear import autograd
from exporter.torch_ops.gradients import GradientError
from exporter.training import metrics as evaluation
from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, CheckpointError, load_checkpoint
from exporter.training.data.linear_example import LinearExample
from exporter.training.engines import torch_engine
from exporter.training.loop import TrainingError, TrainingInterrupted, train
from tests.training.support import (
    EXAMPLE,
    SGD,
    assert_same_bits,
    interrupt_at,
    regression,
)


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

    monkeypatch.setattr(torch_engine, "compute_loss", spoiled)
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
