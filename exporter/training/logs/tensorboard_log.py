"""Log a training for TensorBoard, by torch's writer, which needs the package tensorboard.

All points have the number of steps done as their x: one axis, on which a resumed training declares the steps that it
will take again void (``purge_step``), as TensorBoard has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.training.checkpoints.checkpoint import Metrics
from exporter.training.history import EpochRecord
from exporter.training.logs.log import Course, TrainingLog
from ort_ops.files.atomic import make_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLog(TrainingLog):
    """Event files in a folder. Raises: OutputError if it cannot be written to."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        import torch.utils.tensorboard  # noqa: F401  # here, so that the module can be imported without the package

        self._folder = make_folder(folder)
        self._writer: SummaryWriter | None = None

    def begin(self, course: Course) -> None:
        """Begin, or go on; an older training in the same folder is void."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._course = course
        done = len(course.history) * course.steps_per_epoch
        goes_on = done > 0 and any(self._folder.glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(self._folder), purge_step=done + 1 if goes_on else 0)
        for summary in hparams(course.parameters(), {"loss/train": 0.0})[:2]:
            self._writer._get_file_writer().add_summary(summary)
        self._writer.flush()
        for record in () if goes_on else course.history:
            self.epoch(record)

    def step(self, done: int, loss: float) -> None:
        if self._writer is not None and self._course.steps_per_epoch > 1:
            self._writer.add_scalar("loss/step", loss, done)

    def epoch(self, record: EpochRecord) -> None:
        assert self._writer is not None
        done = record.epoch * self._course.steps_per_epoch
        for name, value in {**self._course.scalars(record), "epoch": record.epoch}.items():
            self._writer.add_scalar(name, value, done)
        self._writer.flush()

    def finish(self, metrics: Metrics, files: Mapping[str, Path]) -> None:
        assert self._writer is not None
        done = self._course.options.epochs * self._course.steps_per_epoch
        for part, values in metrics.items():
            for name, value in values.items():
                self._writer.add_scalar(f"final/{part}/{name}", value, done)
        text = "\n".join(f"- {name}: `{path}`" for name, path in files.items())
        self._writer.add_text("files", text, done)

    def close(self, outcome: str) -> None:
        if self._writer is not None:
            self._writer.close()
