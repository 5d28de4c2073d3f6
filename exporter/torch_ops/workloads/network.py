"""Networks of layers that call one operator: what `mylinear train` needs to know of them.

A `TorchKit` names its `NetworkKit`; the layers and what a checkpoint keeps of them are the operator's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ort_ops.opdef.operator import Operator
from ort_ops.opdef.shapes import format_shape


class Architecture(Protocol):
    """What is needed, beside the numbers, to build a network: a frozen dataclass, whose fields a checkpoint keeps."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Numbers that each hidden layer gives."""

    @property
    def dtype(self) -> str:
        """Of inputs, parameters and outputs, such as ``float32``."""

    @property
    def standardizes_inputs(self) -> bool:
        """Whether rows are standardized first."""

    @property
    def restores_outputs(self) -> bool:
        """Whether a standardized target is taken back to its own mean and standard deviation."""

    @property
    def num_inputs(self) -> int:
        """Columns of a row."""

    @property
    def num_outputs(self) -> int:
        """Numbers or classes that are predicted."""

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""

    def parameter_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of each learned tensor in the network's state, in its order."""


class Network(nn.Module):
    """``y = (L_n(relu(... L_1((x - input_mean) / input_std) ...))) * output_std + output_mean``.

    Without ``standardizes_inputs`` or ``restores_outputs``, that part is not computed at all, so that a network
    without hidden layers is one node of the operator.

    Args:
        architecture: of the network.
        layers: the last one gives the outputs; the others are followed by ReLU.
        operator: that the layers call; its first input is the network's.
    """

    input_mean: Tensor | None
    input_std: Tensor | None
    output_mean: Tensor | None
    output_std: Tensor | None

    def __init__(self, architecture: Architecture, layers: Iterable[nn.Module], operator: Operator) -> None:
        super().__init__()
        self.architecture = architecture
        self.operator = operator
        self.layers = nn.ModuleList(layers)
        for name, size, is_present in statistics(architecture):
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=self.dtype) if is_present else None)
            self.register_buffer(f"{name}_std", torch.ones(size, dtype=self.dtype) if is_present else None)

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs, parameters and outputs."""
        dtype: torch.dtype = getattr(torch, self.architecture.dtype)
        return dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., outputs]`` for raw rows ``[..., inputs]``. Raises: ContractError."""
        return self.restore(self.standardized(x))

    def standardized(self, x: Tensor) -> Tensor:
        """Return the outputs before they are taken back to the targets' scale, which the loss compares."""
        if x.dim() == 0 or x.shape[-1] != self.architecture.num_inputs:
            # Said here, because the subtraction would broadcast, or complain in other words.
            rule = f"[..., {self.architecture.num_inputs}]"
            raise self.operator.error(self.operator.inputs[0].argument, rule, format_shape(list(x.shape)))
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


def statistics(architecture: Architecture) -> tuple[tuple[str, int, bool], ...]:
    """Return what may be standardized: its name, how many numbers it has, and whether it is."""
    return (
        ("input", architecture.num_inputs, architecture.standardizes_inputs),
        ("output", architecture.num_outputs, architecture.restores_outputs),
    )


@dataclass(frozen=True)
class NetworkKit:
    """How to build the network of an operator.

    Attributes:
        architecture: the dataclass; made of the numbers of inputs, of each hidden layer and of outputs, and of dtype,
            standardizes_inputs and restores_outputs, in this order. Raises ValueError for sizes below 1 and for a
            dtype that the operator does not take.
        network: makes the network, which draws its parameters from torch's random stream.
    """

    architecture: type[Any]
    network: Callable[[Any], Network]
