"""A file of kind ``grad`` and the ``apply`` file beside it: sums of gradients of several runs make one step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ort_ops.errors import ModelError
from ort_ops.files.atomic import OutputError, is_stream
from ort_ops.training.errors import TrainingError
from ort_ops.training.file_format import APPLY, GRAD
from ort_ops.training.given import checked_arrays
from ort_ops.training.memory import Tensor
from ort_ops.training.runner import Runner
from ort_ops.training.storage.training_file import TrainingFile

Array = NDArray[Any]

ACCUMULATED = "accumulated"
"""The name, in a state, of the number of runs that the sums hold."""


class Accumulation:
    """The sessions of both files, and their state. Attributes as `WholeStep`.

    The sums count for the step at which they were begun: once it is done they are worth nothing, whether or not they
    were set to zero since. So a step and the end of its sums are one event.
    """

    def __init__(
        self, file: TrainingFile, options: Callable[[], onnxruntime.SessionOptions], kernels: str, in_place: bool
    ) -> None:
        self.metadata = file.metadata
        self.path = file.path
        self.skeleton = file.skeleton()
        self._grad = Runner(file, options(), kernels, in_place)
        apply_file = _apply_file(file)
        self._apply_metadata = apply_file.metadata
        self.lr_name = apply_file.metadata.lr
        self._apply_skeleton = apply_file.skeleton()
        self._grad_of = {parameter: name for name, parameter in self.metadata.gradients.items()}
        for name in self.metadata.parameters:
            stored = np.empty_like(self._grad.fixed[name].array)
            apply_file.read(name, stored)
            if stored.tobytes() != self._grad.fixed[name].array.tobytes():
                raise ModelError(
                    f"'{apply_file.path}' has another '{name}' than '{file.path}': they are not of one moment; take "
                    "both from one export or one save"
                )
        self._apply = Runner(apply_file, options(), kernels, in_place, self._shared())
        file.check_unchanged()
        apply_file.check_unchanged()
        assert self._apply_metadata.optimizer is not None
        assert self.metadata.accumulate is not None
        self.accumulate = self.metadata.accumulate
        self.groups = len(self._apply_metadata.optimizer.groups)
        self._rate = self._apply.fixed[self._apply_metadata.lr].array
        self.first_rate: Array = self._rate.copy()
        self.given = self._grad.given
        self.kernels = self._grad.kernels | self._apply.kernels
        self.two_buffers = self._grad.two_buffers | self._apply.two_buffers
        self._begun: tuple[int, int] = (self.steps_done, -self.metadata.accumulated)

    @property
    def has_failed(self) -> bool:
        """Whether the last run failed, and `check_usable` has not looked at it."""
        return self._grad.memory.has_failed or self._apply.memory.has_failed

    def check_usable(self) -> None:
        """Raise UnusableError if the state may be a half of a step."""
        self._grad.check_usable()
        self._apply.check_usable()

    @property
    def steps_done(self) -> int:
        """The number of steps that the state has seen, each of several runs."""
        return int(self._apply.memory.current[self._apply_metadata.step].array)

    @property
    def accumulated(self) -> int:
        """The number of runs that the sums hold, of the step that comes next."""
        step, before = self._begun
        return self._grad.memory.num_runs - before if step == self.steps_done else 0

    def step(self, arrays: Sequence[Array], rate: Array | float) -> float:
        """Add the gradients of a batch, do the step if they are enough, and return the loss of the batch.

        Raises: TrainingError, and what a Python kernel raises.
        """
        self._begin()
        if self.accumulated >= self.accumulate:  # Ctrl-C came between the last batch and its step
            self._do_step(self._sums(), self.accumulated)
            self._begin()
        self._rate[...] = rate
        try:
            self._grad.run(arrays)
        except Exception as error:
            raise self._grad.failure(error) from error
        loss = self._grad.read_loss()
        if self.accumulated >= self.accumulate:
            self._do_step(self._sums(), self.accumulated)
        return loss

    def gradients(self) -> dict[str, Array]:
        """Return copies of the sums of gradients, by parameter."""
        self._begin()
        return {parameter: self._grad.memory.current[name].array.copy() for parameter, name in self._grad_of.items()}

    def apply(self, sums: Mapping[str, Array] | None, count: float | None, rate: Array | float) -> None:
        """Do a step by sums of gradients, divided by their number.

        Args:
            sums: by parameter; None for those that were added up here.
            count: what to divide by; None for the number of runs that were added up here.

        Raises: TrainingError for sums that do not fit, or if there are none.
        """
        self._begin()
        divisor = float(self.accumulated if count is None else count)
        if not (math.isfinite(divisor) and divisor > 0):
            what = "no gradients were added up; run step() first, or give some" if count is None else f"got {count!r}"
            raise TrainingError(f"the number of gradients must be positive; {what}")
        current = self._sums()
        if sums is not None:
            arrays = {parameter: current[name].array for parameter, name in self._grad_of.items()}
            checked = checked_arrays(sums, arrays, "gradients", "parameters()")
            current = {name: _copied(checked[parameter]) for parameter, name in self._grad_of.items()}
        self._rate[...] = rate
        self._do_step(current, divisor)

    def _sums(self) -> dict[str, Tensor]:
        return {name: self._grad.memory.current[name] for name in self.metadata.gradients}

    def _do_step(self, sums: Mapping[str, Tensor], divisor: float) -> None:
        """Run the apply file."""
        apply, memory = self._apply, self._apply.memory
        for name, tensor in sums.items():
            memory.bindings[memory.turn].bind_ortvalue_input(name, tensor.value)
        apply.fixed[self._apply_metadata.count].array[...] = divisor
        memory.shorten()
        try:
            apply.run(())
        except Exception as error:
            raise apply.failure(error) from error

    def arrays(self) -> dict[str, Array]:
        """Return the memory of the state of now, but for the learning rate."""
        self._begin()
        apply = {name: tensor.array for name, tensor in self._apply.memory.current.items()}
        grad = {name: tensor.array for name, tensor in self._grad.memory.current.items()}
        return apply | grad | {ACCUMULATED: np.array(self.accumulated)}

    def check_state(self, state: Mapping[str, Array]) -> None:
        """Check what types and shapes do not say. Raises: TrainingError for an impossible number of runs."""
        runs = int(state[ACCUMULATED])
        if not 0 <= runs <= self.accumulate:
            raise TrainingError(f"'{ACCUMULATED}' must be from 0 to {self.accumulate}, got {runs}")

    def put(self, state: Mapping[str, Array]) -> None:
        """Copy a whole state into memory."""
        self._apply.memory.forget_failure()
        self._grad.memory.forget_failure()
        for memory in (self._apply.memory, self._grad.memory):
            for name, tensor in memory.current.items():
                tensor.array[...] = state[name]
        self._begun = self.steps_done, self._grad.memory.num_runs - int(state[ACCUMULATED])

    def save(self, path: str | os.PathLike[str], rate: Array) -> None:
        """Write both files with the state of now, so that a kill at any moment leaves two that belong together.

        The ``apply`` file gets a name that the ``grad`` file of before does not have; that one is replaced in one step.

        Raises: OutputError.
        """
        if is_stream(path):
            raise OutputError(
                f"'{os.fspath(path)}' cannot be written: a training file in two parts needs a regular file"
            )
        target = Path(path)
        stem = target.name.removesuffix(".onnx").removesuffix(".grad")
        names = [f"{stem}.apply.onnx", f"{stem}.apply2.onnx"]
        used = _name_of_apply_file(target)
        name = next(name for name in names if name != used)
        state = self.arrays()
        metadata = self._apply_metadata
        self._apply_skeleton.write(
            target.with_name(name), metadata, {key: state[key] for key in metadata.fed} | {metadata.lr: rate}
        )
        stored = {key: state[key] for key in self.metadata.stored}
        self.skeleton.write(target, replace(self.metadata, apply=name, accumulated=self.accumulated), stored)
        if used in names:
            with suppress(OSError):
                target.with_name(used).unlink()

    def _begin(self) -> None:
        """Set the sums to zero, unless they hold gradients for the step that comes next; use the parameters of now."""
        grad = self._grad
        if self.accumulated <= 0:
            for name in self.metadata.gradients:
                grad.memory.current[name].array.fill(0)
            grad.memory.shorten()
            self._begun = self.steps_done, grad.memory.num_runs
        for name in self.metadata.parameters:
            tensor = self._apply.memory.current[name]
            if tensor is not grad.fixed[name]:
                for binding in grad.memory.bindings:
                    binding.bind_ortvalue_input(name, tensor.value)
                grad.fixed[name] = tensor

    def _shared(self) -> dict[str, Tensor]:
        shared = {name: self._grad.fixed[name] for name in self.metadata.parameters}
        return shared | {name: self._grad.memory.current[name] for name in self.metadata.gradients}


def _apply_file(file: TrainingFile) -> TrainingFile:
    """Read the ``apply`` file of a ``grad`` file, and check that they belong together. Raises: ModelError."""
    name = file.metadata.apply
    if Path(name).name != name or name in (".", ".."):
        raise ModelError(f"'{file.path}' is damaged: its apply file must lie beside it, got '{name}'")
    other = TrainingFile(file.path.with_name(name))
    for what in ("parameters", "gradients", "accumulate"):
        ours, theirs = getattr(file.metadata, what), getattr(other.metadata, what)
        if other.metadata.kind != APPLY or ours != theirs:
            raise ModelError(f"'{other.path}' is not the apply file of '{file.path}': {what} differ; export both again")
    shapes = [{v.name: v.type for v in f.model.graph.input} for f in (file, other)]
    for name in file.metadata.parameters:
        if shapes[0][name] != shapes[1][name]:
            raise ModelError(f"'{other.path}' has another type or shape of '{name}' than '{file.path}'")
    return other


def _name_of_apply_file(path: Path) -> str:
    """Return the name of the apply file of what is at the path now; empty if that is no file of ours."""
    from ort_ops.models.files import look_at_model
    from ort_ops.training.file_format import find_metadata

    try:
        found = find_metadata(look_at_model(path))
    except ModelError:
        return ""
    return found.apply if found is not None and found.kind == GRAD else ""


def _copied(array: Array) -> Tensor:
    tensor = Tensor(array.dtype, array.shape)
    tensor.array[...] = array
    return tensor
