"""What an engine is: it takes the steps of a training, and all else is the training's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class StepTooLargeError(ArithmeticError):
    """The dtype cannot hold what a step multiplies the gradients by."""


class Engine(Protocol):
    """What computes the steps of a training.

    It begins with the state of the training's network and optimizer, which may be behind until it is synchronized.
    """

    @property
    def kernels(self) -> Mapping[str, str]:
        """Name of the kernel by domain and name of each operator, where onnxruntime runs it."""

    def step(self, x: Tensor, y: Tensor) -> float:
        """Take one step, and return the mean loss of the batch before it.

        Args:
            x: raw rows, ``[rows, inputs]``.
            y: targets, ``[rows]`` or ``[rows, outputs]``, in their own units.

        Raises: StepTooLargeError.
        """

    def synchronize(self) -> None:
        """Give network and optimizer the state after the last step."""
