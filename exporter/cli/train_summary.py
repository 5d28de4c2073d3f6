"""Print what `mylinear train` says before and after a training."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ort_ops.console.counts import counted

if TYPE_CHECKING:
    from exporter.training.checkpoints.checkpoint import Checkpoint
    from exporter.training.data.dataset import Dataset
    from exporter.training.data.linear_example import LinearExample
    from exporter.training.loop import TrainingResult
    from exporter.training.options import TrainingOptions
    from exporter.training.run import Problem

_METRIC_NAMES = {"mse": "mean squared error", "r2": "R2", "accuracy": "accuracy", "cross_entropy": "cross-entropy"}


def print_plan(problem: Problem, options: TrainingOptions, checkpoint: Checkpoint | None) -> None:
    """Print the data, the network, and the epoch to start from."""
    from exporter.training.data.dataset import Dataset

    outputs = 1
    if isinstance(problem, Dataset):
        outputs = problem.num_outputs
        what = f"{outputs} classes" if problem.task == "classification" else "regression"
        print(
            f"data      {problem.name}: {counted(problem.rows, 'row')}, "
            f"{counted(len(problem.feature_names), 'feature')}, {what}"
        )
        _print_columns(problem)
    else:
        print(f"data      {problem.name}: {problem.describe().fingerprint}, a fresh sample each step")
    sizes = " -> ".join(map(str, (len(problem.feature_names), *options.hidden, outputs)))
    print(f"network   {sizes}, {options.dtype}")
    if options.engine == "onnxruntime":
        import onnxruntime

        print(f"engine    onnxruntime {onnxruntime.__version__}")
    if checkpoint is not None:
        before = "" if checkpoint.options.engine == options.engine else f", which {checkpoint.options.engine} trained"
        print(f"resuming  after epoch {checkpoint.epoch} of {options.epochs}{before}")
    sys.stdout.flush()


def _print_columns(problem: Dataset) -> None:
    """Print how columns that are not plain numbers are used."""
    for column in problem.columns:
        if column.categories is not None:
            print(f"column    {column.name}: {len(column.categories)} categories, an input each")
    if problem.fill is not None:
        count = problem.count_missing()
        print(f"missing   {count} numbers, in their place the {problem.fill} of the column in the rows to train on")


def print_result(problem: Problem, result: TrainingResult, folder: Path) -> None:
    """Print how good the network is, what was written, and the next command."""
    from exporter.training.data.linear_example import LinearExample
    from exporter.training.run import LOSS_CSV_NAME, LOSS_PLOT_NAME

    print("gradients checked against finite differences before training: right")
    if isinstance(problem, LinearExample):
        _print_learned(problem, result)
    else:
        parts = result.metrics
        print(f"{'':24}{''.join(f'{part:>12}' for part in parts)}")
        for name in parts["train"]:
            print(f"{_METRIC_NAMES[name]:24}{''.join(f'{parts[part][name]:12.4f}' for part in parts)}")
    if result.kernels:
        operators = (f"{name.rpartition(':')[2]} by {kernel}" for name, kernel in result.kernels.items())
        print(f"kernels   {', '.join(operators)}")
    print(f"wrote     {result.checkpoint}, {folder / LOSS_CSV_NAME}, {folder / LOSS_PLOT_NAME}")
    print(f"next      mylinear export {shlex.quote(str(result.checkpoint))} model.onnx")


def _print_learned(problem: LinearExample, result: TrainingResult) -> None:
    """Print the learned weights beside the true ones."""
    layer = result.network.layers[0]
    learned = [*layer.get_parameter("weight").flatten().tolist(), *layer.get_parameter("bias").tolist()]
    true = [*problem.weight, problem.bias]
    print(f"{'':10}{'weight x0':>12}{'weight x1':>12}{'bias':>12}")
    print(f"{'learned':10}{''.join(f'{value:12.6f}' for value in learned)}")
    print(f"{'true':10}{''.join(f'{value:12g}' for value in true)}")
    print(f"largest error {max(abs(a - b) for a, b in zip(learned, true, strict=True)):.3g}")
