"""What an engine is: it takes the steps of a training, and all else is the training's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class StepTooLargeError(ArithmeticError):
    """The dtype cannot hold what a step multiplies the gradients by."""


class Engine(Protocol):
    """What computes the steps of a training.

    The training's network and optimizer hold the state between `load` and `synchronize`; in between, the engine may
    keep its own.
    """

    @property
    def kernels(self) -> Mapping[str, str]:
        """Name of the kernel by domain and name of each operator, where onnxruntime runs it."""

    def load(self) -> None:
        """Go on from the state that network and optimizer have."""

    def step(self, x: Tensor, y: Tensor) -> float:
        """Take one step, and return the mean loss of the batch before it.

        Args:
            x: raw rows, ``[rows, inputs]``.
            y: targets, ``[rows]`` or ``[rows, outputs]``, in their own units.

        Raises: StepTooLargeError.
        """

    def synchronize(self) -> None:
        """Give network and optimizer the state after the last step."""
