"""The history of a training, one record for each epoch; also as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from ort_ops.files.atomic import write_atomically


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: from 1.
        train_loss: mean over the epoch's rows, each before the step that used it.
        validation_loss: on the same scale, after the epoch; None without validation rows.
        validation_score: accuracy of a classification, R2 of a regression; None without validation rows.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None = None
    validation_score: float | None = None


def write_history(history: Sequence[EpochRecord], path: str | Path) -> None:
    """Write the records as CSV: a header, and a line for each; numbers read back exactly. Raises: OutputError."""
    lines = [",".join(field.name for field in fields(EpochRecord))]
    lines += [",".join("" if value is None else repr(value) for value in astuple(record)) for record in history]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
