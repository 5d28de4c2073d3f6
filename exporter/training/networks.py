"""Find the network to train, which an operator brings, and standardize its data."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from exporter.torch_ops.kit import torch_kits
from exporter.torch_ops.workloads.network import NetworkKit
from ort_ops.opdef.operator import ContractError


@cache
def network_kit() -> NetworkKit:
    """Return the network of the first registered operator that has one. Raises: ContractError if none has."""
    for kit in torch_kits():
        if kit.network is not None:
            return kit.network()
    raise ContractError("no registered operator has a network to train; name a NetworkKit in TorchKit.network")


def column_statistics(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column; 1 for a constant one, which has nothing to scale.

    >>> column_statistics(np.array([[1.0, 0.1], [3.0, 0.1]]))
    (array([2. , 0.1]), array([1., 1.]))
    """
    is_constant = columns.min(axis=0) == columns.max(axis=0)
    # Rounding can give a constant column a tiny deviation, and a mean that differs from its value.
    mean = np.where(is_constant, columns[0], columns.mean(axis=0))
    return mean, np.where(is_constant, 1.0, columns.std(axis=0))
