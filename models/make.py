"""Rebuild the models of this folder: ``python models/make.py linear`` or ``digits_mlp``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from exporter.training.data.dataset import load_digits
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import Problem, train
from exporter.training.options import TrainingOptions, default_options
from exporter.training.trained import export_checkpoint

FOLDER = Path(__file__).parent


def make_linear(path: Path) -> None:
    """Write the model of the linear example, y = 2 x0 + 3 x1 + 4, float64, trained until nothing changes any more."""
    options = TrainingOptions(
        epochs=1000,
        batch_size=64,
        lr=0.1,
        optimizer="sgd",
        weight_decay=0.0,
        hidden=(),
        dtype="float64",
        device="cpu",
        standardize=False,
        checkpoint_interval=1000,
    )
    _make(LinearExample(), options, path, "float64")


def make_digits_mlp(path: Path) -> None:
    """Write a perceptron for scikit-learn's digits, trained in float64 and rounded once to float32.

    Trained in float32, other processors would give other bits, and the rebuilt file could not be compared.
    """
    options = {**vars(default_options("digits")), "dtype": "float64", "device": "cpu", "checkpoint_interval": 40}
    _make(load_digits(), TrainingOptions(**options), path, "float32")


MAKERS: dict[str, Callable[[Path], None]] = {"linear": make_linear, "digits_mlp": make_digits_mlp}


def _make(problem: Problem, options: TrainingOptions, path: Path, dtype: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = train(problem, options, folder=folder)
        assert result.checkpoint is not None
        export_checkpoint(result.checkpoint, path, dtype=dtype)


def main(arguments: list[str]) -> int:
    """Make the named models, and return the exit status."""
    unknown = [name for name in arguments if name not in MAKERS]
    if unknown or not arguments:
        print(f"usage: python models/make.py {' | '.join(MAKERS)}", file=sys.stderr)
        return 2
    for name in arguments:
        MAKERS[name](FOLDER / f"{name}.onnx")
        print(f"wrote {FOLDER / name}.onnx")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
