"""Open the logs of a training by their names, and feed them all; one that fails later does not end the training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from exporter.training.checkpoints.checkpoint import Metrics
from exporter.training.history import EpochRecord
from exporter.training.logs.log import Course, LogError, LogWarning, TrainingLog
from exporter.training.options import LOGS, OptionError
from ort_ops.errors import MylinearError
from ort_ops.files.inputs import first_line
from ort_ops.installation.extras import missing_extra


class Logs:
    """The logs of one training, as a context: they are closed at its end, whatever ends it."""

    def __init__(self, logs: Sequence[TrainingLog] = ()) -> None:
        self._logs = list(logs)

    def begin(self, course: Course) -> None:
        """Begin every log. Raises: LogError, OutputError."""
        for log in self._logs:
            try:
                log.begin(course)
            except MylinearError:
                raise
            except Exception as error:  # of a package that we do not know
                raise LogError(f"cannot begin the log {log.name}: {first_line(error)}") from error

    def step(self, done: int, loss: float) -> None:
        """Take the loss of one step."""
        if self._logs:
            self._each(lambda log: log.step(done, loss))

    def epoch(self, record: EpochRecord) -> None:
        """Take one epoch."""
        self._each(lambda log: log.epoch(record))

    def finish(self, metrics: Metrics, files: Mapping[str, Path]) -> None:
        """Take the final metrics, and the paths of what was written."""
        self._each(lambda log: log.finish(metrics, files))

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        outcome = "finished" if kind is None else "interrupted" if is_stopped else "failed"
        self._each(lambda log: log.close(outcome))

    def _each(self, act: Callable[[TrainingLog], None]) -> None:
        for log in list(self._logs):
            try:
                act(log)
            except Exception as error:  # a full disk, a server that went away: the training is worth more
                self._logs.remove(log)
                warnings.warn(f"the log {log.name} has failed: {first_line(error)}", LogWarning, stacklevel=4)


def open_logs(names: str | Sequence[str], folder: str | Path | None, log_folder: str | Path | None = None) -> Logs:
    """Return the logs of these names, after checking that each can be written.

    Args:
        names: ``tensorboard``, ``mlflow``.
        folder: of the training.
        log_folder: where the logs go instead.

    Raises:
        OptionError: a name is unknown, or there is no folder.
        RequirementError: a package is missing.
        LogError: MLflow does not answer.
        OutputError: a folder cannot be written to.
    """
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in names:
        if name not in LOGS:
            raise OptionError(f"log must be {' or '.join(LOGS)}, got {name}")
    where = log_folder if log_folder is not None else folder
    if names and where is None:
        raise OptionError(f"log {names[0]} needs a folder; name one for the training, or for its logs")
    return Logs([_open(name, Path(where), log_folder is not None) for name in names if where is not None])


def _open(name: str, folder: Path, is_given: bool) -> TrainingLog:
    try:
        if name == "tensorboard":
            from exporter.training.logs.tensorboard_log import TensorBoardLog

            return TensorBoardLog(folder / "tensorboard")
        from exporter.training.logs.mlflow_log import MlflowLog

        return MlflowLog(folder, is_local=is_given)
    except ModuleNotFoundError as error:
        explained = missing_extra(error, f"--log {name}")
        if explained is None:
            raise
        raise explained from error
