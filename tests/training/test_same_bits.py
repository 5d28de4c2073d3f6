"""The same problem and options give the same bits, and a resume leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exporter.training.checkpoints.checkpoint import load_checkpoint
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import Problem, train
from exporter.training.options import TrainingOptions
from tests.training.support import (
    EXAMPLE,
    SGD,
    SMALL,
    assert_same_bits,
    classification,
    regression,
)

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
