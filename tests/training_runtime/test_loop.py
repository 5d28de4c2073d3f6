"""Many steps in one call have the bits of as many calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops import Trainer, TrainingError
from tests.training_runtime.accumulating import accumulating_models
from tests.training_runtime.hand_made import draw_batches, save_step, step_model
from tests.training_runtime.random_steps import random_model
from tests.training_runtime.test_in_place import BATCHES
from tests.training_runtime.test_trainer import assert_same_state

COUNT = 12
BATCHES_OF_LAYERS = draw_batches(COUNT)
X = np.stack([x for x, _ in BATCHES_OF_LAYERS])
Y = np.stack([y for _, y in BATCHES_OF_LAYERS])


@pytest.fixture
def step_file(tmp_path: Path) -> Path:
    return save_step(tmp_path)


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_loop_has_the_bits_of_single_steps(tmp_path: Path, operator: bool, in_place: bool) -> None:
    onnx.save(step_model(operator=operator), tmp_path / "step.onnx")
    single, loop = (Trainer(tmp_path / "step.onnx", threads=1, in_place=in_place) for _ in range(2))
    for _ in range(2):
        losses = single.run(BATCHES_OF_LAYERS, lr=0.05)
        got = loop.run_loop(X, target=Y, lr=0.05)
        assert got.tolist() == losses
        assert got.dtype == np.float64
        assert_same_state(loop.state(), single.state())
        assert single.step(X[0], Y[0]) == loop.step(X[0], Y[0])
    assert_same_state(loop.state(), single.state())


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_in_a_loop(tmp_path: Path, seed: int) -> None:
    onnx.save(random_model(seed), tmp_path / "step.onnx")
    single, loop = (Trainer(tmp_path / "step.onnx", threads=1) for _ in range(2))
    losses = single.run(BATCHES)
    assert loop.run_loop(np.stack([x for (x,) in BATCHES])).tolist() == losses
    assert_same_state(loop.state(), single.state())


def test_learning_rates_of_a_loop(tmp_path: Path) -> None:
    rates = np.linspace(0.1, 0.01, COUNT)
    onnx.save(step_model(groups=2), tmp_path / "step.onnx")
    for given, by_step in (
        (np.stack([rates, rates / 2], axis=1), [[r, r / 2] for r in rates]),
        ([0.1, 0.2], [[0.1, 0.2]] * COUNT),
        (None, [None] * COUNT),
        (0.125, [0.125] * COUNT),
    ):
        single, loop = (Trainer(tmp_path / "step.onnx", threads=1) for _ in range(2))
        losses = [single.step(*b, lr=lr) for b, lr in zip(BATCHES_OF_LAYERS, by_step, strict=True)]  # type: ignore[arg-type]
        assert loop.run_loop(X, Y, lr=given).tolist() == losses  # type: ignore[arg-type]


def test_what_a_loop_refuses(step_file: Path, tmp_path: Path) -> None:
    trainer = Trainer(step_file, threads=1)
    before = trainer.state()
    bad = X.copy()
    bad[3] = np.inf
    for given, message in (
        ((X, Y[:-1]), r"'target' must have shape \[12, batch, 2\], got \[11, 5, 2\]"),
        ((X[0], Y[0]), r"'x' must have shape \[5, batch, 3\], got \[5, 3\]"),
        ((X[:0], Y[:0]), "a step or more, got 0"),
        ((X, Y[:, :2]), "with batch = 5 as 'x' has"),
        ((X.astype(np.float32), Y), "'x' must be float64, got float32"),
        ((bad, Y), r"the loss of step [45] is nan; the state is that of before these 12 steps"),
    ):
        with pytest.raises(TrainingError, match=message):
            trainer.run_loop(*given)
        assert_same_state(trainer.state(), before)
    with pytest.raises(TrainingError, match="the learning rate must be"):
        trainer.run_loop(X, Y, lr=np.ones(11))
    grad, apply = accumulating_models()
    onnx.save(grad, tmp_path / "a.grad.onnx")
    onnx.save(apply, tmp_path / "step.apply.onnx")
    with pytest.raises(TrainingError, match="this one accumulates gradients, so use run"):
        Trainer(tmp_path / "a.grad.onnx").run_loop(X, Y)
