"""Measure how good a network is on given rows: by the loss, and by metrics in the targets' own units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.torch_ops.workloads.network import Network
from exporter.training.data.dataset import DataError, Dataset

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Rows:
    """A dataset as tensors, on the device and in the dtype of a network."""

    dataset: Dataset
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, dataset: Dataset, dtype: torch.dtype, device: torch.device | str = "cpu") -> Rows:
        """Convert the dataset. Raises: DataError if the dtype cannot hold its numbers."""
        x, y = torch.from_numpy(dataset.features).to(dtype), torch.from_numpy(dataset.targets)
        if dataset.task == "regression":
            y = y.to(dtype)
        if not (x.isfinite().all() and y.isfinite().all()):
            name = str(dtype).removeprefix("torch.")
            raise DataError(f"{dataset.name} holds numbers that are too large for {name}; rescale them or use float64")
        return cls(dataset, x.to(device), y.to(device))


def compute_loss(network: Network, standardized: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy for classes, or the mean squared error on the standardized scale.

    float16 and bfloat16 are widened to float32 first.

    Args:
        standardized: the result of `Network.standardized`, ``[rows, outputs]``.
        y: ``[rows]``, int64, or ``[rows, outputs]`` in the targets' own units.
    """
    if y.dtype == torch.int64:
        return F.cross_entropy(_widened(standardized), y)
    return F.mse_loss(_widened(standardized), _widened(network.standardize_targets(y)))


def evaluate(network: Network, rows: Rows) -> tuple[float, dict[str, float]]:
    """Return the loss, and the metrics.

    Returns: ``mse`` and ``r2`` for a regression (R2 is NaN where all targets are the same), ``accuracy`` and
        ``cross_entropy`` for a classification.
    """
    dataset = rows.dataset
    network.eval()
    loss_sum = squares = correct = 0.0
    with torch.no_grad():
        for x, y in zip(rows.x.split(_ROWS_AT_ONCE), rows.y.split(_ROWS_AT_ONCE), strict=True):
            standardized = network.standardized(x)
            loss_sum += compute_loss(network, standardized, y).item() * len(x)
            if dataset.task == "classification":
                correct += (standardized.argmax(1) == y).sum().item()
            else:
                squares += (network.restore(standardized).double() - y.double()).square().sum().item()
    loss = loss_sum / dataset.rows
    if dataset.task == "classification":
        return loss, {"accuracy": correct / dataset.rows, "cross_entropy": loss}
    spread = float(np.square(dataset.targets - dataset.targets.mean(axis=0)).sum())
    return loss, {"mse": squares / dataset.targets.size, "r2": 1 - squares / spread if spread > 0 else math.nan}


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
