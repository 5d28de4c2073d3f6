"""What a training is resumed with, its options and their limits."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, CheckpointError, load_checkpoint, load_network
from exporter.training.data.dataset import DataError
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import Problem, train
from exporter.training.options import OptionError, TrainingOptions
from tests.training.support import (
    SGD,
    SMALL,
    assert_same_bits,
    classification,
    regression,
)


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
