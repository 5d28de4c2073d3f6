"""Checkpoints: everything that a training needs to go on, and an export to begin, in one file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporter.data import DataDescription
from exporter.history import EpochRecord
from exporter.network import Architecture, Network
from exporter.options import TrainingOptions
from ort_ops.errors import MylinearError
from ort_ops.files import OutputError, write_atomically

CHECKPOINT_NAME = "checkpoint.pt"
FORMAT = "mylinear checkpoint"
FORMAT_VERSION = 1

Metrics = Mapping[str, Mapping[str, float]]


class CheckpointError(MylinearError, ValueError):
    """A checkpoint that cannot be written, read, or continued from."""


@dataclass(frozen=True)
class Checkpoint:
    """A training between two epochs.

    Attributes:
        architecture: of the network.
        network_state: its ``state_dict``; the standardization is in it.
        data: what it was trained on.
        options: how.
        epoch: how many epochs are done.
        optimizer_state: the optimizer's ``state_dict``.
        generator_state: of the random stream, which initialization, order of rows and samples share.
        history: a record for each epoch done.
        metrics: of the finished training, ``{"train": {"accuracy": ...}, "validation": {...}}``; empty before.
    """

    architecture: Architecture
    network_state: Mapping[str, Tensor]
    data: DataDescription
    options: TrainingOptions
    epoch: int
    optimizer_state: Mapping[str, Any]
    generator_state: Tensor
    history: tuple[EpochRecord, ...]
    metrics: Metrics = field(default_factory=dict)

    def network(self) -> Network:
        """Build the network, on the CPU and in eval mode."""
        network = Network(self.architecture)
        network.load_state_dict(dict(self.network_state))
        return network.eval()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; a failure leaves what was there before.

    Raises: CheckpointError if the folder is missing or read-only, or the disk is full.
    """
    buffer = io.BytesIO()
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": asdict(checkpoint.architecture),
        "network_state": dict(checkpoint.network_state),
        "data": asdict(checkpoint.data),
        "options": asdict(checkpoint.options),
        "epoch": checkpoint.epoch,
        "optimizer_state": dict(checkpoint.optimizer_state),
        "generator_state": checkpoint.generator_state,
        "history": [astuple(record) for record in checkpoint.history],
        "metrics": {name: dict(values) for name, values in checkpoint.metrics.items()},
    }
    torch.save(content, buffer)
    try:
        write_atomically(path, buffer.getvalue())
    except OutputError as error:
        raise CheckpointError(f"checkpoint {error}") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, onto the CPU; nothing in the file is executed.

    Raises: CheckpointError if it is missing, no checkpoint, damaged, or of another format version.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is not a checkpoint of `mylinear train`")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint '{path}' has format version {version}, and this version of ort-mylinear reads "
            f"{FORMAT_VERSION}; train again, or use the version that wrote it"
        )
    try:
        checkpoint = Checkpoint(
            architecture=Architecture(**content["architecture"]),
            network_state=content["network_state"],
            data=DataDescription(**content["data"]),
            options=TrainingOptions(**content["options"]),
            epoch=content["epoch"],
            optimizer_state=content["optimizer_state"],
            generator_state=content["generator_state"],
            history=tuple(EpochRecord(*record) for record in content["history"]),
            metrics=content["metrics"],
        )
        checkpoint.network()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint '{path}' is damaged: {error}") from error
    return checkpoint


def load_network(path: str | Path) -> Network:
    """Rebuild the trained network from its checkpoint alone, on the CPU and in eval mode. Raises: CheckpointError."""
    return load_checkpoint(path).network()


def _load(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise CheckpointError(f"'{path}' is not a checkpoint of `mylinear train`, or is damaged")
            # torch does not check the sums that it writes.
            damaged = zipfile.ZipFile(file).testzip()
            if damaged is not None:
                raise CheckpointError(f"checkpoint '{path}' is damaged: the checksum of '{damaged}' is wrong")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint '{path}'; make one with `mylinear train`") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"'{path}' is a folder; name the checkpoint in it, such as {CHECKPOINT_NAME}") from error
    except OSError as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile and torch report damage in a dozen ways
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"'{path}' is not a checkpoint of `mylinear train`, or is damaged: {first_line}"
        ) from error
