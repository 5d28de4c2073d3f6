"""Training in onnxruntime: torch's steps within the bound, the same bits after any stop, and clear refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint
from exporter.training.compare_engines import compare_engines
from exporter.training.data.dataset import load_diabetes, load_digits
from exporter.training.data.linear_example import LinearExample
from exporter.training.distributed import Processes
from exporter.training.engines import onnxruntime_engine
from exporter.training.loop import TrainingInterrupted, check_processes, train
from exporter.training.options import OptionError, TrainingOptions, default_options
from exporter.training.run import Problem, Run, TrainingError
from tests.training.support import (
    EXAMPLE,
    SGD,
    SMALL,
    classification,
    exported_once,
    interrupt_at,
    largest_error,
    regression,
)

__all__ = ["exported_once"]

ROOT = Path(__file__).parents[2]
ORT_SGD, ORT_ADAMW, ORT_EXAMPLE = (replace(options, engine="onnxruntime") for options in (SGD, SMALL, EXAMPLE))


def assert_same_training(first: Path, second: Path) -> None:
    """Compare all that a finished training leaves: parameters, optimizer, random stream, history, metrics, curves."""
    a, b = (load_checkpoint(folder / CHECKPOINT_NAME) for folder in (first, second))
    assert [*tensors(a)] == [*tensors(b)]
    assert all(torch.equal(*pair) for pair in zip(tensors(a).values(), tensors(b).values(), strict=True))
    assert (a.epoch, a.history, a.metrics, a.options) == (b.epoch, b.history, b.metrics, b.options)
    for name in ("loss.csv", "loss.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    found = {**checkpoint.network_state, "generator": checkpoint.generator_state}
    for index, slots in checkpoint.optimizer_state["state"].items():
        found |= {f"{index}/{slot}": value for slot, value in slots.items()}
    return found


# The same steps as torch


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "options", "steps"),
    [
        # The last batch of an epoch is smaller: 32 rows by 7.
        (regression, replace(SGD, dtype="float64", momentum=0.0), 10),
        (classification, SMALL, 10),
        (load_digits, default_options("digits"), 1),
        (load_diabetes, replace(default_options("diabetes", "sgd"), dtype="float64"), 4),
    ],
    ids=["regression", "classification", "digits", "diabetes"],
)
def test_each_step_is_that_of_torch_within_the_bound(
    make: Callable[[], Problem], options: TrainingOptions, steps: int
) -> None:
    compared = compare_engines(make(), options, max_steps=steps)
    assert compared.steps == steps
    assert compared.is_within_bound
    assert compared.errors
    assert all(error.is_proof for error in compared.errors.values())


def test_a_step_that_is_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnxruntime_engine.OnnxruntimeEngine.state

    def wrong(self: onnxruntime_engine.OnnxruntimeEngine) -> dict[str, Any]:
        return {name: array + array.dtype.type(1e-5) for name, array in right(self).items()}

    monkeypatch.setattr(onnxruntime_engine.OnnxruntimeEngine, "state", wrong)
    compared = compare_engines(LinearExample(), EXAMPLE, max_steps=1)
    assert not compared.is_within_bound


def test_the_linear_example_is_that_of_torch_in_all_of_its_steps() -> None:
    compared = compare_engines(LinearExample(), EXAMPLE)
    assert compared.steps == 300
    assert compared.is_within_bound
    alone = train(LinearExample(), ORT_EXAMPLE)
    assert len(alone.history) == 300
    assert largest_error(alone) < 0.05
    for name, parameter in alone.network.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), compared.parameters[name])
    assert set(alone.kernels.values()) <= {"cpp", "python", "body"}
    assert alone.kernels


# Stops


def test_an_interrupt_keeps_the_last_checkpoint_from_which_the_same_bits_come(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(classification(), ORT_ADAMW, folder=tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TrainingInterrupted) as caught:
        train(classification(), ORT_ADAMW, folder=tmp_path / "parts", on_step=interrupt_at(18))
    assert (caught.value.epoch, caught.value.saved_epoch) == (4, 3)
    checkpoint = load_checkpoint(tmp_path / "parts" / CHECKPOINT_NAME)
    train(classification(), ORT_ADAMW, folder=tmp_path / "parts", resume=checkpoint)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.long
def test_a_training_that_was_killed_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from exporter.training.loop import train\n"
        "from tests.training.test_onnxruntime_engine import ORT_SGD, regression\n"
        "kill = lambda done, loss: os.kill(os.getpid(), signal.SIGKILL) if done == 18 else None\n"
        f"train(regression(), ORT_SGD, folder={str(tmp_path / 'parts')!r}, on_step=kill)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    checkpoint = load_checkpoint(tmp_path / "parts" / CHECKPOINT_NAME)
    assert checkpoint.epoch == 3
    train(regression(), ORT_SGD, folder=tmp_path / "parts", resume=checkpoint)
    train(regression(), ORT_SGD, folder=tmp_path / "whole")
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.long
def test_a_checkpoint_gives_the_other_engine_the_whole_state(tmp_path: Path) -> None:
    train(classification(), replace(ORT_ADAMW, epochs=2), folder=tmp_path)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert checkpoint.options.engine == "onnxruntime"
    states = []
    for options in (SMALL, ORT_ADAMW):
        run = Run(classification(), options, torch.device("cpu"), Processes(), None)
        run.start(checkpoint)
        states.append(onnxruntime_engine.torch_state(run.network, run.optimizer))
    assert isinstance(run.engine, onnxruntime_engine.OnnxruntimeEngine)
    states.append(run.engine.state())
    assert states[0]["step"] == 10
    assert states[0].keys() == states[1].keys()
    assert states[2].keys() - states[0].keys() == {"lr"}
    assert states[0].keys() - states[2].keys() == {"network.input_mean", "network.input_std"}  # constants there
    for name, value in states[0].items():
        assert all(np.array_equal(value, other[name]) for other in states[1:] if name in other), name
    run.optimizer.state_dict()["state"][0]["exp_avg"] += 1
    run.engine.load()
    loaded, theirs = run.engine.state(), onnxruntime_engine.torch_state(run.network, run.optimizer)
    assert not np.array_equal(loaded["network.layers.0.weight/exp_avg"], states[2]["network.layers.0.weight/exp_avg"])
    assert all(np.array_equal(loaded[name], theirs[name]) for name in loaded.keys() & theirs.keys())


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda"}, "trains on the CPU, got device cuda; use device cpu, or engine torch"),
        ({"dtype": "bfloat16"}, "cannot train in bfloat16, .* use dtype float32, or engine torch"),
        ({"engine": "jax"}, "engine must be torch or onnxruntime, got jax"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(ORT_SGD, **change)


def test_several_processes_are_refused() -> None:
    with pytest.raises(OptionError, match=r"trains in one process, got 2; .* without torchrun, or use engine torch"):
        check_processes(ORT_SGD, Processes(1, 2))
    check_processes(SGD, Processes(1, 2))


@pytest.mark.parametrize("options", [replace(SGD, lr=1e6), replace(SGD, lr=1e300)], ids=["loss", "step"])
def test_a_training_that_diverges_says_the_same_as_in_torch(options: TrainingOptions) -> None:
    messages = []
    for engine in ("torch", "onnxruntime"):
        with pytest.raises(TrainingError) as caught:
            train(regression(), replace(options, engine=engine))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
