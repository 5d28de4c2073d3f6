"""A small training loop that is reproducible from its seed, and whose result does not depend on interruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from exporter.torch_ops.devices import why_not_cuda
from exporter.torch_ops.gradients import check_gradients
from exporter.torch_ops.workloads.network import Architecture, Network, statistics
from exporter.training.checkpoints.checkpoint import Checkpoint, Metrics
from exporter.training.distributed import PeerLostError, Processes
from exporter.training.history import EpochRecord
from exporter.training.logs.log import Course
from exporter.training.logs.open_logs import Logs, open_logs
from exporter.training.networks import network_kit
from exporter.training.options import OptionError, TrainingOptions, default_options
from exporter.training.resume import check_resume
from exporter.training.run import LOSS_CSV_NAME, LOSS_PLOT_NAME, OnStep, Problem, Run, TrainingError
from ort_ops.console.shown import Shown, Table
from ort_ops.files.atomic import make_folder
from ort_ops.files.folder_lock import lock_folder


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during a training.

    Attributes:
        epoch: the one that was interrupted.
        saved_epoch: the last one with a checkpoint; None if there is none yet.
        checkpoint: its file.
    """

    def __init__(self, epoch: int, saved_epoch: int | None, checkpoint: Path | None) -> None:
        super().__init__(f"interrupted in epoch {epoch}")
        self.epoch = epoch
        self.saved_epoch = saved_epoch
        self.checkpoint = checkpoint


@dataclass(frozen=True, repr=False)
class TrainingResult(Shown):
    """The result of `train`.

    Attributes:
        network: on the CPU, in eval mode.
        history: a record for each epoch, also for those before a resume.
        metrics: ``train`` and, with validation rows, ``validation``: ``mse`` and ``r2`` of a regression in the
            targets' own units, ``accuracy`` and ``cross_entropy`` of a classification.
        options: those of the training.
        checkpoint: its file; None without a folder.
        kernels: name of the kernel by domain and name of each operator, where onnxruntime trained; empty for torch.
    """

    network: Network
    history: tuple[EpochRecord, ...]
    metrics: Metrics
    options: TrainingOptions
    checkpoint: Path | None
    kernels: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> list[str | Table]:
        """Return the metrics, and what trained."""
        names = list(dict.fromkeys(name for values in self.metrics.values() for name in values))
        rows = [[name, *(f"{values[name]:.4f}" for values in self.metrics.values())] for name in names]
        told = f"{len(self.history)} epochs by {self.options.engine}"
        by = [f"{name} by the {kernel} kernel" for name, kernel in self.kernels.items()]
        where = [] if self.checkpoint is None else [f"checkpoint {self.checkpoint}"]
        return [", ".join([told, *by]), (["metric", *self.metrics], rows), *where]


def train(
    problem: Problem,
    options: TrainingOptions | None = None,
    *,
    folder: str | Path | None = None,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
    log: str | Sequence[str] = (),
    log_folder: str | Path | None = None,
) -> TrainingResult:
    """Train a network of layers that call a registered operator.

    The same problem, options and number of threads give the same bits on the CPU, whether or not the training was
    resumed on the way. With the engine ``torch`` they are those that ``torch.nn.Linear`` layers would give after
    ``torch.manual_seed(seed)``. With ``onnxruntime`` the initialization and the rows of every step are the same, and
    the steps differ by rounding.

    Where torch.distributed has a process group, its processes train one network: each takes its part of every batch,
    the gradients are summed, and rank 0 alone writes. All numbers are then those of one process, up to the rounding
    of sums: the rows and their order, the losses, the parameters, the history.

    Args:
        problem: rows to learn from, or the linear example.
        options: by default those of `default_options` for the problem.
        folder: where checkpoint, loss.csv and loss.png go; nothing is written without one.
        resume: the checkpoint to go on from; the data and all options that influence the result must be the same, but
            for the device and the engine.
        on_step: called after each step with the steps done, of `count_steps`, and the step's loss.
        log: ``tensorboard``, ``mlflow`` or both: where the losses of each epoch go, the options, the final metrics, and
            the paths of what was written. A resumed training goes on in the same log.
        log_folder: where TensorBoard's files and MLflow's database go: its folders ``tensorboard`` and ``mlruns``. By
            default ``folder``, and for MLflow the server of MLFLOW_TRACKING_URI if that is set.

    Raises:
        DataError: the rows are too few, or too large for the dtype.
        OptionError: the device is not available, or the engine cannot do this.
        ExportError: the step cannot be exported for onnxruntime.
        GradientError: a backward is wrong; nothing has been trained.
        TrainingError: the loss is no longer finite (the last good checkpoint is kept).
        TrainingInterrupted: Ctrl-C (a KeyboardInterrupt; the last checkpoint is kept).
        CheckpointError: it cannot be written, or ``resume`` is of another training.
        FolderInUseError: another training has the folder.
        PeerLostError: another process of this training has ended.
        LogError: MLflow does not answer; RequirementError: a log's package is missing.
        OutputError: the folder or the loss curve cannot be written.
    """
    if options is None:
        options = default_options(problem.name)
    processes = Processes.current()
    check_processes(options, processes)
    device = processes.device(training_device(options))
    if resume is not None:
        check_resume(resume, problem.describe(), options)
    with ExitStack() as stack:
        written = None if folder is None or not processes.is_writer else make_folder(folder)
        if written is not None:
            stack.enter_context(lock_folder(written, "training"))
        logs = stack.enter_context(open_logs(log, folder, log_folder) if processes.is_writer else Logs())
        run = Run(problem, options, device, processes, written)
        check_network_gradients(run.network.architecture, device)
        run.start(resume)
        logs.begin(_course(run))
        _train_all_epochs(run, on_step, logs)
        logs.finish(run.metrics, _files(run))
    network = run.network.cpu().eval()
    return TrainingResult(
        network, tuple(run.history), run.metrics, options, run.checkpoint_path, dict(run.engine.kernels)
    )


def _course(run: Run) -> Course:
    return Course(
        run.problem.name,
        run.options,
        "accuracy" if run.problem.task == "classification" else "r2",
        run.steps_per_epoch,
        tuple(run.history),
        dict(run.engine.kernels),
    )


def _files(run: Run) -> dict[str, Path]:
    """Return the paths of what a training wrote, by what they are."""
    if run.folder is None or run.checkpoint_path is None:
        return {}
    files = {"checkpoint": run.checkpoint_path}
    files |= {"loss_table": run.folder / LOSS_CSV_NAME, "loss_curve": run.folder / LOSS_PLOT_NAME}
    return {name: path.resolve() for name, path in files.items()}


def _train_all_epochs(run: Run, on_step: OnStep | None, logs: Logs) -> None:
    """Train the remaining epochs, with checkpoints between them and the loss curve at the end."""
    options = run.options

    def step(done: int, loss: float) -> None:
        logs.step(done, loss)
        if on_step is not None:
            on_step(done, loss)

    try:
        while run.epoch < options.epochs:
            run.train_epoch(step)
            logs.epoch(run.history[-1])  # before the checkpoint: a resume then misses none
            if run.epoch % options.checkpoint_interval == 0 or run.epoch == options.epochs:
                run.save()
    except KeyboardInterrupt as error:
        run.write_curve_if_possible()
        raise TrainingInterrupted(run.epoch + 1, run.saved_epoch, run.checkpoint_path) from error
    except (TrainingError, PeerLostError):
        run.write_curve_if_possible()
        raise
    run.write_curve()


def check_network_gradients(architecture: Architecture, device: torch.device | str = "cpu") -> None:
    """Check the gradients of a small network of the same build, in float64, on two rows. Raises: GradientError."""
    kit = network_kit()
    small: Architecture = kit.architecture(
        min(architecture.num_inputs, 3),
        tuple(min(size, 3) for size in architecture.hidden[:3]),
        min(architecture.num_outputs, 2),
        "float64",
        architecture.standardizes_inputs,
        architecture.restores_outputs,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = kit.network(small)
        for name, size, is_present in statistics(small):
            if is_present:
                network.set_statistics(name, np.linspace(-0.5, 0.5, size), np.linspace(0.5, 1.5, size))
        check_gradients(network.to(device), torch.rand(2, small.num_inputs, dtype=torch.float64).to(device))


def check_processes(options: TrainingOptions, processes: Processes) -> None:
    """Raise OptionError for several processes, if the engine trains in one alone."""
    if options.engine == "onnxruntime" and processes.count > 1:
        raise OptionError(
            f"engine onnxruntime trains in one process, got {processes.count}; start it without torchrun, or use "
            "engine torch"
        )


def training_device(options: TrainingOptions) -> torch.device:
    """Return the device of a training. Raises: OptionError if it is not available."""
    return select_device("cpu" if options.engine == "onnxruntime" else options.device)


def select_device(name: str) -> torch.device:
    """Return the device; for ``auto``, CUDA if there is one. Raises: OptionError if it is not available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # raises for meta, which holds no numbers
    except Exception as error:  # torch raises half a dozen types for an unknown or a missing device
        reason = why_not_cuda() if name.startswith("cuda") else None
        why = "" if reason is None else f": {reason}"
        raise OptionError(f"device {name} is not available here{why}; use cpu or auto") from error
    return device
