"""A running training: its network, optimizer, engine, random stream and rows, and the files that it writes."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporter.torch_ops.workloads.network import Architecture, Network
from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, Checkpoint, Metrics, save_checkpoint
from exporter.training.data.dataset import DataError, Dataset
from exporter.training.data.linear_example import LinearExample
from exporter.training.distributed import Processes
from exporter.training.engines.engine import Engine, StepTooLargeError
from exporter.training.engines.torch_engine import TorchEngine
from exporter.training.history import EpochRecord, write_history
from exporter.training.metrics import Rows, evaluate
from exporter.training.networks import column_statistics, network_kit
from exporter.training.options import OptionError, TrainingOptions
from ort_ops.errors import MylinearError
from ort_ops.files.atomic import OutputError, temporary_folder

LOSS_CSV_NAME = "loss.csv"
LOSS_PLOT_NAME = "loss.png"

Problem = Dataset | LinearExample
OnStep = Callable[[int, float], None]

_EXAMPLE_VALIDATION_ROWS = 1000
_EXAMPLE_ROWS = 8  # that an export is tried on
# The usual 1e-8 is 0 in float16, and a step of a parameter without gradient would be 0 / 0.
_ADAMW_EPS = {"float16": 1e-4}


class TrainingError(MylinearError, ArithmeticError):
    """The training diverged; the message names the epoch and what to try."""


def count_steps(problem: Problem, options: TrainingOptions) -> int:
    """Return the number of steps of the whole training, with those before a resume."""
    if isinstance(problem, LinearExample):
        return options.epochs
    rows = problem.rows - problem.count_validation_rows(options.validation)
    return options.epochs * math.ceil(rows / options.batch_size)


class Run:
    """A running training; `start` it first."""

    engine: Engine

    def __init__(
        self,
        problem: Problem,
        options: TrainingOptions,
        device: torch.device,
        processes: Processes,
        folder: Path | None,
    ) -> None:
        self.problem, self.options, self.folder = problem, options, folder
        self.device, self.processes = device, processes
        self.data = problem.describe()
        self.steps_per_epoch = count_steps(problem, options) // options.epochs
        self.epoch = 0
        self.saved_epoch: int | None = None
        self.history: list[EpochRecord] = []
        self.metrics: Metrics = {}
        train_set: Dataset | None
        validation_set: Dataset | None
        if isinstance(problem, Dataset):
            train_set, validation_set = problem.split(options.validation, options.seed)
        else:
            train_set, validation_set = None, problem.fixed_rows(_EXAMPLE_VALIDATION_ROWS, options.seed)
        # One stream for initialization and samples, as in a script that calls torch.manual_seed once.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(options.seed)
            self.network = _build(problem, train_set, options).to(device)
            self.generator = torch.Generator()
            self.generator.set_state(torch.get_rng_state())
        dtype = self.network.dtype
        self.train_rows = None if train_set is None else Rows.of(train_set, dtype, device)
        self.validation_rows = None if validation_set is None else Rows.of(validation_set, dtype, device)
        self.optimizer = _optimizer(self.network, options)
        if train_set is not None:
            self.data = replace(self.data, columns=train_set.table_columns)

    def start(self, resume: Checkpoint | None) -> None:
        """Go on from a checkpoint if there is one, and make the engine."""
        if resume is not None:
            self._restore(resume)
        self.engine = self._make_engine()

    @property
    def checkpoint_path(self) -> Path | None:
        return None if self.folder is None else self.folder / CHECKPOINT_NAME

    def train_epoch(self, on_step: OnStep | None) -> None:
        """Train one epoch and record it. Raises: TrainingError if the loss or a parameter is no longer finite."""
        self.network.train()
        loss_sum, rows = 0.0, 0
        for step, (x, y) in enumerate(self.batches(), start=1):
            value = self._take_step(step, x, y)
            loss_sum, rows = loss_sum + value * len(x), rows + len(x)
            if on_step is not None:
                on_step(self.epoch * self.steps_per_epoch + step, value)
        self.engine.synchronize()
        if not all(parameter.isfinite().all() for parameter in self.network.parameters()):
            raise self._diverged("last step", "the parameters are no longer finite")
        self.history.append(EpochRecord(self.epoch + 1, loss_sum / rows, *self._validate()))
        self.epoch += 1

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the raw rows and targets of each step of an epoch, which continue the random stream."""
        if isinstance(self.problem, LinearExample):
            x, y = self.problem.sample(self.options.batch_size, self.generator, self.network.dtype)
            yield x.to(self.device), y.to(self.device)
            return
        assert self.train_rows is not None
        x, y = self.train_rows.x, self.train_rows.y
        order = torch.randperm(len(x), generator=self.generator).to(self.device)
        for chosen in order.split(self.options.batch_size):
            yield x[chosen], y[chosen]

    def example(self) -> tuple[Tensor, Tensor]:
        """Return a few rows and targets to try an export on, which take nothing from the random stream."""
        if isinstance(self.problem, LinearExample):
            return self.problem.sample(_EXAMPLE_ROWS, torch.Generator(), self.network.dtype)
        assert self.train_rows is not None
        return self.train_rows.x[:_EXAMPLE_ROWS], self.train_rows.y[:_EXAMPLE_ROWS]

    def save(self) -> None:
        """Write the checkpoint, after the last epoch with the final metrics."""
        if self.epoch == self.options.epochs:
            self.metrics = self._final_metrics()
        if self.checkpoint_path is None:
            return
        checkpoint = Checkpoint(
            architecture=self.network.architecture,
            network_state=self.network.state_dict(),
            data=self.data,
            options=self.options,
            epoch=self.epoch,
            optimizer_state=self.optimizer.state_dict(),
            generator_state=self.generator.get_state(),
            history=tuple(self.history),
            metrics=self.metrics,
        )
        save_checkpoint(self.checkpoint_path, checkpoint)
        self.saved_epoch = self.epoch

    def write_curve(self) -> None:
        """Write loss.csv and loss.png, if there is a folder and an epoch to show."""
        if self.folder is None or not self.history:
            return
        from exporter.training.curves import plot_loss_curve

        write_history(self.history, self.folder / LOSS_CSV_NAME)
        plot_loss_curve(self.history, self.folder / LOSS_PLOT_NAME, title=f"Training on {self.problem.name}")

    def write_curve_if_possible(self) -> None:
        """Write them, ignoring errors, where something worse is being reported."""
        with contextlib.suppress(OutputError):
            self.write_curve()

    def _make_engine(self) -> Engine:
        if self.options.engine == "torch":
            return TorchEngine(self.network, self.optimizer, self.processes, self.device)
        # With all of the exporter, which takes a second to import.
        from exporter.training.engines.onnxruntime_engine import OnnxruntimeEngine, export_step, is_too_large

        if is_too_large(self.optimizer, self.network.dtype):
            raise self._step_too_large(1)
        with temporary_folder() as folder:
            path = folder / "step.onnx"
            export_step(self.network, self.optimizer, self.example(), path)
            return OnnxruntimeEngine(self.network, self.optimizer, path)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.network.load_state_dict(dict(checkpoint.network_state))
        groups = self.optimizer.state_dict()["param_groups"]  # they follow from the options
        self.optimizer.load_state_dict({**checkpoint.optimizer_state, "param_groups": groups})
        self.generator.set_state(checkpoint.generator_state)
        self.history = list(checkpoint.history)
        self.epoch = self.saved_epoch = checkpoint.epoch

    def _take_step(self, step: int, x: Tensor, y: Tensor) -> float:
        """Take one step, and return its loss. Raises: TrainingError if it is no longer finite."""
        try:
            value = self.engine.step(x, y)
        except StepTooLargeError as error:
            raise self._step_too_large(step) from error
        if not math.isfinite(value):
            raise self._diverged(f"step {step}", f"the loss is {value}")
        return value

    def _validate(self) -> tuple[float | None, float | None]:
        if self.validation_rows is None:
            return None, None
        loss, metrics = evaluate(self.network, self.validation_rows)
        if not math.isfinite(loss):
            raise self._diverged("last step", f"the loss on the validation rows is {loss}")
        return loss, metrics["accuracy" if self.problem.task == "classification" else "r2"]

    def _final_metrics(self) -> Metrics:
        parts = {"train": self.train_rows, "validation": self.validation_rows}
        return {name: evaluate(self.network, rows)[1] for name, rows in parts.items() if rows is not None}

    def _step_too_large(self, step: int) -> TrainingError:
        return self._diverged(f"step {step}", f"the step is too large for {self.options.dtype}")

    def _diverged(self, where: str, what: str) -> TrainingError:
        advice = [f"lower the learning rate (lr is {self.options.lr:g})"]
        if not self.options.standardize:
            advice.append("standardize the inputs")
        if self.options.dtype in ("float16", "bfloat16"):
            advice.append("train in float32")
        if self.saved_epoch is None:
            kept = "no checkpoint was written yet"
        else:
            kept = f"the checkpoint of epoch {self.saved_epoch} is kept in '{self.checkpoint_path}'"
        return TrainingError(f"epoch {self.epoch + 1}, {where}: {what}; {' or '.join(advice)}; {kept}")


def _build(problem: Problem, train_set: Dataset | None, options: TrainingOptions) -> Network:
    is_standardized = options.standardize and train_set is not None
    kit = network_kit()
    architecture: Architecture = kit.architecture(
        len(problem.feature_names),
        options.hidden,
        problem.num_outputs if isinstance(problem, Dataset) else 1,
        options.dtype,
        is_standardized,
        is_standardized and problem.task == "regression",
    )
    _require_memory(architecture)
    network = kit.network(architecture)
    if is_standardized:
        assert train_set is not None
        network.set_statistics("input", *_statistics(train_set, train_set.features, options.dtype))
        if problem.task == "regression":
            network.set_statistics("output", *_statistics(train_set, train_set.targets, options.dtype))
    return network


def _require_memory(architecture: Architecture) -> None:
    """Raise OptionError for a network that does not fit in this machine's memory, where the system would end it."""
    dtype: torch.dtype = getattr(torch, architecture.dtype)
    needed = architecture.num_parameters * dtype.itemsize * 2  # parameters and gradients
    try:
        installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return
    if needed > installed:
        sizes = ",".join(map(str, architecture.hidden)) or "none"
        raise OptionError(
            f"hidden {sizes} makes {architecture.num_parameters} parameters in {architecture.dtype}, which need "
            f"{needed / 2**30:.1f} GiB with their gradients, and this machine has {installed / 2**30:.1f} GiB; "
            "take smaller layers"
        )


def _statistics(
    dataset: Dataset, columns: np.ndarray[tuple[int, int], np.dtype[np.float64]], dtype: str
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return mean and standard deviation, after checking that the dtype can hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = column_statistics(columns)
    held = torch.from_numpy(np.stack([mean, std])).to(getattr(torch, dtype))
    bad = ~held.isfinite().all(0) | (held[1] == 0)
    if bad.any():
        index = int(bad.nonzero()[0])
        what = f"column '{dataset.feature_names[index]}'" if columns is dataset.features else "the target"
        raise DataError(f"{dataset.name}: {what} varies too much or too little for {dtype}; rescale it or use float64")
    return mean, std


def _optimizer(network: Network, options: TrainingOptions) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
        )
    eps = _ADAMW_EPS.get(options.dtype, 1e-8)
    return torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=options.weight_decay, eps=eps)
