"""Export the network of a checkpoint, with its columns, classes and metrics as metadata."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from exporter.to_onnx.export import ExportResult, export
from exporter.torch_ops.workloads.network import Network
from exporter.training.checkpoints.checkpoint import Checkpoint, load_checkpoint
from exporter.training.networks import network_kit
from ort_ops.prediction.columns import to_json
from ort_ops.prediction.metadata import CLASSES_KEY, COLUMNS_KEY, FEATURES_KEY


def export_checkpoint(
    checkpoint: str | Path,
    path: str | Path,
    *,
    engine: str = "dynamo",
    opset: int | None = None,
    dtype: str | None = None,
    target: str | None = None,
    target_python: str | Path | None = None,
    weight_dtype: str | None = None,
) -> ExportResult:
    """Export the network in a checkpoint, raw rows in, raw targets or logits out.

    Args:
        checkpoint: written by `mylinear train`.
        path, engine, opset, target, target_python, weight_dtype: as in `exporter.export`.
        dtype: element type of the exported model; by default that of the training.

    Raises: CheckpointError, ExportError, ContractError.
    """
    trained = load_checkpoint(checkpoint)
    network = convert(trained, dtype or trained.architecture.dtype)
    return export(
        network,
        example_rows(network),
        path,
        engine=engine,
        opset=opset,
        target=target,
        target_python=target_python,
        weight_dtype=weight_dtype,
        metadata=metadata(trained),
    )


def convert(checkpoint: Checkpoint, dtype: str) -> Network:
    """Build the checkpoint's network in another dtype, each number rounded once."""
    network = network_kit().network(replace(checkpoint.architecture, dtype=dtype))
    network.load_state_dict(dict(checkpoint.network_state))
    return network.eval()


def example_rows(network: Network) -> torch.Tensor:
    """Return two rows between the smallest and largest that standardisation expects."""
    rows = torch.linspace(-1, 1, 2 * network.architecture.num_inputs, dtype=torch.float64)
    rows = rows.reshape(2, -1)
    if network.input_mean is not None and network.input_std is not None:
        rows = rows * network.input_std.double() + network.input_mean.double()
    return rows.to(network.dtype)


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the model's metadata: columns and classes, what it was trained on, and how good it is."""
    entries = {
        "mylinear.data": checkpoint.data.name,
        "mylinear.task": checkpoint.data.task,
        FEATURES_KEY: json.dumps(list(checkpoint.data.feature_names)),
    }
    if not all(column.is_plain for column in checkpoint.data.columns):
        entries[COLUMNS_KEY] = to_json(checkpoint.data.columns)
    if checkpoint.data.class_names is not None:
        entries[CLASSES_KEY] = json.dumps(list(checkpoint.data.class_names))
    for part, values in checkpoint.metrics.items():
        entries |= {f"mylinear.{part}.{name}": f"{value:.6g}" for name, value in values.items()}
    return entries
