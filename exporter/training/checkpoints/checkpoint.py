"""Checkpoints: one file with everything that a resumed training or an export needs."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from exporter.torch_ops.workloads.network import Architecture, Network
from exporter.training.checkpoints.checks import (
    check_data,
    check_generator_state,
    check_history,
    check_metrics,
    check_network_state,
    check_optimizer_state,
)
from exporter.training.checkpoints.typed_fields import convert, from_fields
from exporter.training.data.dataset import DataDescription
from exporter.training.history import EpochRecord
from exporter.training.networks import network_kit
from exporter.training.options import TrainingOptions
from ort_ops.errors import MylinearError
from ort_ops.files.atomic import OutputError, write_atomically
from ort_ops.files.inputs import InputError, first_line, input_path, open_input

CHECKPOINT_NAME = "checkpoint.pt"
FORMAT = "mylinear checkpoint"
FORMAT_VERSION = 3
_READABLE_VERSIONS = (1, 2, 3)  # version 1 had no columns, and version 2 no engine but torch

Metrics = Mapping[str, Mapping[str, float]]


class CheckpointError(MylinearError, ValueError):
    """A checkpoint cannot be written, read, or continued from."""


@dataclass(frozen=True)
class Checkpoint:
    """A training between two epochs.

    Attributes:
        architecture: of the network.
        network_state: its ``state_dict``; the standardization is in it.
        data: description of the training data.
        options: of the training.
        epoch: how many epochs are done.
        optimizer_state: the optimizer's ``state_dict``; when read back, without what follows from the options.
        generator_state: of the one random stream for initialization, order of rows and samples.
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
        network = network_kit().network(self.architecture)
        network.load_state_dict(dict(self.network_state))
        return network.eval()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; a failure leaves the old file.

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
    """Read a checkpoint onto the CPU, without executing anything in the file.

    Raises: CheckpointError if it is missing, not a checkpoint, damaged, or of another format version.
    """
    try:
        path = input_path(path, what="checkpoint")
    except InputError as error:
        raise CheckpointError(str(error)) from error
    content = _load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is not a checkpoint of `mylinear train`")
    version = content.get("format_version")
    if type(version) is not int or version not in _READABLE_VERSIONS:
        readable = f"{', '.join(map(str, _READABLE_VERSIONS[:-1]))} and {_READABLE_VERSIONS[-1]}"
        raise CheckpointError(
            f"checkpoint '{path}' has format version {version!r:.40}, and this version of ort-mylinear reads "
            f"{readable}; train again, or use the version that wrote it"
        )
    try:
        return _checked(content)
    except KeyError as error:
        raise CheckpointError(f"checkpoint '{path}' is damaged: it lacks {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint '{path}' is damaged: {first_line(error)}") from error


def _checked(content: dict[str, Any]) -> Checkpoint:
    """Make a checkpoint from the content of a file. Raises: KeyError, TypeError, ValueError, RuntimeError."""
    architecture: Architecture = from_fields(network_kit().architecture, content["architecture"])
    options = from_fields(TrainingOptions, content["options"])
    epoch = convert("epoch", content["epoch"], int)
    checkpoint = Checkpoint(
        architecture=architecture,
        network_state=check_network_state(content["network_state"], architecture),
        data=from_fields(DataDescription, _with_columns(content["data"])),
        options=options,
        epoch=epoch,
        optimizer_state=check_optimizer_state(content["optimizer_state"], architecture, options),
        generator_state=check_generator_state(content["generator_state"]),
        history=check_history(content["history"], epoch),
        metrics=check_metrics(content["metrics"]),
    )
    check_data(checkpoint.data, architecture, options)
    return checkpoint


def _with_columns(data: Any) -> Any:
    """Convert a description of format version 1, which had plain columns only, to the current one."""
    if not isinstance(data, dict) or "columns" in data:
        return data
    names = data.get("feature_names")
    return {**data, "columns": [{"name": name} for name in names] if isinstance(names, list | tuple) else []}


def load_network(path: str | Path) -> Network:
    """Rebuild the trained network from its checkpoint alone, on the CPU and in eval mode. Raises: CheckpointError."""
    return load_checkpoint(path).network()


def _load(path: Path) -> Any:
    advice = f"the checkpoint in it, such as {CHECKPOINT_NAME}"
    try:
        with open_input(
            path, what="checkpoint", folder_advice=advice, missing_advice="make one with `mylinear train`"
        ) as file:
            _check_archive(path, file)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about archives that are something else
                return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(str(error)) from error
    except pickle.UnpicklingError as error:  # torch advises to execute the content of the file
        raise CheckpointError(
            f"'{path}' is not a checkpoint of `mylinear train`, or is damaged: it holds more than plain data, "
            "and nothing in it was executed"
        ) from error
    except Exception as error:  # zipfile and torch report damage in a dozen ways
        raise CheckpointError(
            f"'{path}' is not a checkpoint of `mylinear train`, or is damaged: {first_line(error)}"
        ) from error


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Check the archive's sizes, and its checksums, which torch does not check."""
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"'{path}' is not a checkpoint of `mylinear train`, or is damaged")
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    claimed = sum(member.file_size for member in members)
    if not is_stored or claimed > os.fstat(file.fileno()).st_size:
        raise CheckpointError(
            f"'{path}' is not a checkpoint of `mylinear train`, or is damaged: it claims {claimed} bytes"
        )
    damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"checkpoint '{path}' is damaged: the checksum of '{damaged}' is wrong")
    file.seek(0)
