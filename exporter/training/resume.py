"""Check that a training may go on from a checkpoint: only if it is the same training."""

from __future__ import annotations

from dataclasses import asdict, fields

from exporter.training.checkpoints.checkpoint import Checkpoint, CheckpointError
from exporter.training.data.dataset import DataDescription
from exporter.training.options import TrainingOptions
from ort_ops.files.inputs import MAX_SHOWN_NAMES, shown_names

_MAY_DIFFER = frozenset({"epochs", "device", "checkpoint_interval", "engine"})


def check_resume(checkpoint: Checkpoint, data: DataDescription, options: TrainingOptions) -> None:
    """Raise CheckpointError if the checkpoint is of another training, or has nothing left to do."""
    wanted = asdict(options)
    differences = [
        f"{field.name} was {_text(before)} and is {_text(wanted[field.name])}"
        for field in fields(options)
        if field.name not in _MAY_DIFFER and (before := getattr(checkpoint.options, field.name)) != wanted[field.name]
    ]
    was = checkpoint.data
    for what, before, now in (
        ("the task", was.task, data.task),
        ("the number of rows", was.rows, data.rows),
        ("the columns", was.feature_names, data.feature_names),
        ("the classes", was.class_names, data.class_names),
        ("the filling of missing values", was.fill, data.fill),
    ):
        if before != now:
            differences.append(f"{what} of the data was {_text(before)} and is {_text(now)}")
    if was.fingerprint != data.fingerprint and not differences:
        differences.append(f"the values of '{data.name}' have changed since ('{was.name}' then)")
    if differences:
        raise CheckpointError(
            f"cannot resume: {'; '.join(differences)}; use what the checkpoint was trained with, or train anew"
        )
    if checkpoint.epoch >= options.epochs:
        raise CheckpointError(
            f"nothing to resume: {checkpoint.epoch} epochs are done and {options.epochs} are wanted; "
            f"ask for more than {checkpoint.epoch} epochs"
        )


def _text(value: object) -> str:
    if isinstance(value, tuple | list):
        names = [str(item) for item in value]
        return (",".join(names) if len(names) <= MAX_SHOWN_NAMES else shown_names(names)) or "none"
    return "none" if value is None else str(value)
