"""`Network`: MYLINEAR layers with ReLU between, which takes raw rows and gives raw targets or logits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.operators.mylinear.module import MyLinear
from ort_ops.opdef.operator import ContractError
from ort_ops.opdef.shapes import format_shape
from ort_ops.operators.mylinear.contract import ELEMENT_TYPES, MYLINEAR

_DTYPES = tuple(element_type.name for element_type in ELEMENT_TYPES)


@dataclass(frozen=True)
class Architecture:
    """What is needed, beside the numbers, to build a `Network`.

    Attributes:
        in_features: columns of a row.
        hidden: out_features of each hidden layer.
        out_features: numbers or classes that are predicted.
        dtype: of inputs, parameters and outputs, such as ``float32``.
        standardizes_inputs: whether rows are standardized first.
        restores_outputs: whether a standardized target is taken back to its own mean and standard deviation.
    """

    in_features: int
    hidden: tuple[int, ...]
    out_features: int
    dtype: str = "float32"
    standardizes_inputs: bool = False
    restores_outputs: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.sizes) < 1:
            raise ValueError(f"the sizes of layers must be 1 or more, got {list(self.sizes)}")
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype must be {MYLINEAR.element_type_rule}, got {self.dtype}")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.in_features, *self.hidden, self.out_features)

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum((a + 1) * b for a, b in pairwise(self.sizes))


class Network(nn.Module):
    """``y = (W_n relu(... W_1 ((x - input_mean) / input_std) + b_1 ...) + b_n) * output_std + output_mean``.

    Args:
        architecture: without ``standardizes_inputs`` or ``restores_outputs``, that part is not computed at all,
            so that a network without hidden layers is one MYLINEAR node.

    >>> Network(Architecture(2, (8,), 1))(torch.zeros(5, 2)).shape
    torch.Size([5, 1])
    """

    input_mean: Tensor | None
    input_std: Tensor | None
    output_mean: Tensor | None
    output_std: Tensor | None

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        dtype: torch.dtype = getattr(torch, architecture.dtype)
        sizes = architecture.sizes
        self.layers = nn.ModuleList(MyLinear(a, b, dtype=dtype) for a, b in pairwise(sizes))
        for name, size, is_present in (
            ("input", architecture.in_features, architecture.standardizes_inputs),
            ("output", architecture.out_features, architecture.restores_outputs),
        ):
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=dtype) if is_present else None)
            self.register_buffer(f"{name}_std", torch.ones(size, dtype=dtype) if is_present else None)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.architecture.dtype)
        return dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out_features]`` for raw rows ``[..., in_features]``. Raises: ContractError."""
        return self.restore(self.standardized(x))

    def standardized(self, x: Tensor) -> Tensor:
        """Return the outputs before they are taken back to the targets' scale, which the loss compares."""
        if x.dim() == 0 or x.shape[-1] != self.architecture.in_features:
            # Said here, because the subtraction would broadcast, or complain in other words.
            rule = f"[..., {self.architecture.in_features}]"
            raise ContractError(MYLINEAR.message("x", rule, format_shape(list(x.shape))))
        if self.input_mean is not None and self.input_std is not None:
            x = (x - self.input_mean) / self.input_std
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.relu(layer(x))
        y: Tensor = last(x)
        return y

    def restore(self, y: Tensor) -> Tensor:
        """Take what `standardized` returns to the targets' scale."""
        if self.output_mean is None or self.output_std is None:
            return y
        return y * self.output_std + self.output_mean

    def standardize_targets(self, y: Tensor) -> Tensor:
        """Return targets on the scale of `standardized`."""
        if self.output_mean is None or self.output_std is None:
            return y
        return (y - self.output_mean) / self.output_std

    def set_statistics(self, name: str, mean: NDArray[Any], std: NDArray[Any]) -> None:
        """Set the buffers of ``input`` or ``output``."""
        getattr(self, f"{name}_mean").copy_(torch.from_numpy(mean))
        getattr(self, f"{name}_std").copy_(torch.from_numpy(std))


def column_statistics(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column; 1 for a constant one, which has nothing to scale.

    >>> column_statistics(np.array([[1.0, 0.1], [3.0, 0.1]]))
    (array([2. , 0.1]), array([1., 1.]))
    """
    is_constant = columns.min(axis=0) == columns.max(axis=0)
    # Rounding can give a constant column a tiny deviation, and a mean beside its value.
    mean = np.where(is_constant, columns[0], columns.mean(axis=0))
    return mean, np.where(is_constant, 1.0, columns.std(axis=0))
