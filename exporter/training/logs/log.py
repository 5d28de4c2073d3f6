"""What a log of a training must do: take its course epoch by epoch, and go on where a resumed training goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from exporter.training.checkpoints.checkpoint import Metrics
from exporter.training.history import EpochRecord
from exporter.training.options import TrainingOptions
from ort_ops.errors import MylinearError


class LogError(MylinearError, RuntimeError):
    """A log cannot be begun; the message says why and what to do."""


class LogWarning(UserWarning):
    """A log failed during a training, which goes on without it."""


@dataclass(frozen=True)
class Course:
    """What is known of a training before its first step.

    Attributes:
        name: of the problem.
        score: name of the validation score, ``accuracy`` or ``r2``.
        steps_per_epoch: steps of each epoch.
        history: the epochs before a resume.
        kernels: name of the kernel by operator, where onnxruntime trains.
    """

    name: str
    options: TrainingOptions
    score: str
    steps_per_epoch: int
    history: tuple[EpochRecord, ...] = ()
    kernels: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> dict[str, int | float | str | bool]:
        """Return what a log shows as hyperparameters: the data, all options, and the kernels."""
        options = asdict(self.options) | {"hidden": ",".join(map(str, self.options.hidden)) or "none"}
        kernels = {"kernels": ", ".join(f"{name} {kernel}" for name, kernel in self.kernels.items())}
        return {"data": self.name, **options, **(kernels if self.kernels else {})}

    def scalars(self, record: EpochRecord) -> dict[str, float]:
        """Return the numbers of an epoch by the names that logs give them."""
        values = {
            "loss/train": record.train_loss,
            "loss/validation": record.validation_loss,
            f"{self.score}/validation": record.validation_score,
            "learning_rate": self.options.lr,
        }
        return {name: value for name, value in values.items() if value is not None}


class TrainingLog(ABC):
    """One log; `begin` it before the first step."""

    name: str

    @abstractmethod
    def begin(self, course: Course) -> None:
        """Begin, or go on after the epochs of the course's history, which are in the log then, each once."""

    def step(self, done: int, loss: float) -> None:  # noqa: B027  # a log need not have steps
        """Take the loss of one step, where that costs next to nothing."""

    @abstractmethod
    def epoch(self, record: EpochRecord) -> None:
        """Take one epoch, so that a killed training leaves it readable."""

    @abstractmethod
    def finish(self, metrics: Metrics, files: Mapping[str, Path]) -> None:
        """Take the final metrics, and the paths of what was written."""

    @abstractmethod
    def close(self, outcome: str) -> None:
        """End the log; the outcome is ``finished``, ``interrupted`` or ``failed``."""
