"""A file of kind ``step``: each run is a whole step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ort_ops.training.errors import TrainingError
from ort_ops.training.loop import Loop
from ort_ops.training.runner import Runner
from ort_ops.training.storage.training_file import TrainingFile

Array = NDArray[Any]


class WholeStep:
    """The session of a training file whose runs are whole steps, and its state.

    Attributes:
        metadata: of the file.
        given: the inputs that the user gives.
        groups: the number of the optimizer's groups.
        first_rate: the learning rate that the file has.
        lr_name: the input of the learning rate.
        skeleton: the file without its state.
        kernels: as in `ort_ops.InferenceSession`.
        two_buffers: the states that are not overwritten in place, each with the reason.
    """

    def __init__(
        self, file: TrainingFile, options: Callable[[], onnxruntime.SessionOptions], kernels: str, in_place: bool
    ) -> None:
        self.metadata = file.metadata
        self.lr_name = file.metadata.lr
        self.skeleton = file.skeleton()
        self._options, self._kernels = options, kernels
        self._runner = Runner(file, options(), kernels, in_place)
        file.check_unchanged()
        assert self.metadata.optimizer is not None
        self.groups = len(self.metadata.optimizer.groups)
        self._rate = self._runner.fixed[self.lr_name].array
        self.first_rate: Array = self._rate.copy()
        self.given = self._runner.given
        self.kernels = dict(self._runner.kernels)
        self.two_buffers = dict(self._runner.two_buffers)
        self._loop: Loop | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the last run failed, and `check_usable` has not looked at it."""
        return self._runner.memory.has_failed

    def check_usable(self) -> None:
        """Raise UnusableError if the state may be a half of a step."""
        self._runner.check_usable()

    @property
    def steps_done(self) -> int:
        """The number of steps that the state has seen."""
        return int(self._runner.memory.current[self.metadata.step].array)

    def step(self, arrays: Sequence[Array], rate: Array | float) -> float:
        """Run one step, and return its loss. Raises: TrainingError, and what a Python kernel raises."""
        self._rate[...] = rate
        self._runner.memory.shorten()
        try:
            self._runner.run(arrays)
        except Exception as error:
            raise self._runner.failure(error) from error
        return self._runner.read_loss()

    def run_loop(self, arrays: Sequence[Array], rates: Array, check_finite: bool) -> Array:
        """Run a step for each row of the arrays, in one call, and return the losses. Raises: as `step`."""
        if self._loop is None:
            self._loop = Loop(
                self.skeleton, self.metadata, self._options(), self._kernels, self._runner.has_python_kernels
            )
        runner = self._runner
        losses, tensors = self._loop.run(runner.memory.current, arrays, rates)
        if check_finite and not np.isfinite(losses).all():
            first = int(np.argmin(np.isfinite(losses)))
            raise TrainingError(
                f"the loss of step {self.steps_done + first + 1} is {losses[first]}; the state is that of before these "
                f"{len(losses)} steps: use a smaller learning rate"
            )
        runner.memory = runner.make_memory(tensors)
        return losses

    def arrays(self) -> dict[str, Array]:
        """Return the memory of the state of now, but for the learning rate."""
        return {name: tensor.array for name, tensor in self._runner.memory.current.items()}

    def check_state(self, state: Mapping[str, Array]) -> None:
        """Check what types and shapes do not say: nothing here."""

    def put(self, state: Mapping[str, Array]) -> None:
        """Copy a whole state into memory."""
        self._runner.memory.forget_failure()
        for name, array in self.arrays().items():
            array[...] = state[name]

    def save(self, path: str | os.PathLike[str], rate: Array) -> None:
        """Write the file with the state of now. Raises: OutputError."""
        self.skeleton.write(path, self.metadata, self.arrays() | {self.lr_name: rate})
