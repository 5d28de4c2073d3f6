"""The network that `mylinear train` trains: layers of `MyLinear` with ReLU between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from exporter.operators.mylinear.module import MyLinear
from exporter.torch_ops.workloads.network import Network, NetworkKit
from ort_ops.operators.mylinear.contract import ELEMENT_TYPES, MYLINEAR

_DTYPES = tuple(element_type.name for element_type in ELEMENT_TYPES)


@dataclass(frozen=True)
class Architecture:
    """Everything but the parameters that is needed to build a network.

    Attributes:
        in_features: columns of a row.
        hidden: out_features of each hidden layer.
        out_features: numbers or classes that are predicted.
        dtype: of inputs, parameters and outputs, such as ``float32``.
        standardizes_inputs: whether rows are standardized first.
        restores_outputs: whether a standardized target gets its own mean and standard deviation back.
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
        """Numbers that the first layer takes, and that each layer gives."""
        return (self.in_features, *self.hidden, self.out_features)

    @property
    def num_inputs(self) -> int:
        """Columns of a row."""
        return self.in_features

    @property
    def num_outputs(self) -> int:
        """Numbers or classes that are predicted."""
        return self.out_features

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum((a + 1) * b for a, b in pairwise(self.sizes))

    def parameter_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of each learned tensor in the network's state, in its order."""
        for index, (in_features, out_features) in enumerate(pairwise(self.sizes)):
            yield f"layers.{index}.weight", (out_features, in_features)
            yield f"layers.{index}.bias", (out_features,)


def make_network(architecture: Architecture) -> Network:
    """Make a network, with parameters drawn from torch's random stream.

    >>> make_network(Architecture(2, (8,), 1))(torch.zeros(5, 2)).shape
    torch.Size([5, 1])
    """
    dtype: torch.dtype = getattr(torch, architecture.dtype)
    layers = (MyLinear(a, b, dtype=dtype) for a, b in pairwise(architecture.sizes))
    return Network(architecture, layers, MYLINEAR)


NETWORK = NetworkKit(Architecture, make_network)
