"""Train in onnxruntime: run the steps of a training file, and keep their state."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ort_ops.files.inputs import first_line
from ort_ops.training.errors import TrainingError, UnusableError
from ort_ops.training.file_format import STEP
from ort_ops.training.given import learning_rates
from ort_ops.training.runner import Runner
from ort_ops.training.training_file import TrainingFile

Array = NDArray[Any]

_trainers: weakref.WeakSet[Trainer] = weakref.WeakSet()


class Trainer:
    """A training file that `exporter.export_training` wrote, and its state, in plain onnxruntime.

    Args:
        path: of the file; the state starts with what is stored there.
        sess_options: as onnxruntime takes them; by default its own, with memory given back after each step.
        kernels: as in `ort_ops.InferenceSession`.
        threads: how many onnxruntime may use within a node; by default one for each core.
        in_place: whether to overwrite states for which a check of the graph proves that this is safe. It saves memory;
            but a step that fails inside onnxruntime may leave them half updated, and then the trainer refuses to go on.

    Attributes:
        kernels: name of the kernel by domain and name of each operator, as `ort_ops.InferenceSession` has it.
        two_buffers: the states that are not overwritten in place, each with the reason.

    Only the constructor and `export_inference` import onnx; nothing imports torch. Several threads may use one
    trainer: each call waits for the others. A trainer does not survive ``fork``: open the file in the new process.

    Raises: ModelError for a file that is no training file, or damaged; ContractError, KernelError, TrainingError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sess_options: onnxruntime.SessionOptions | None = None,
        *,
        kernels: str = "auto",
        threads: int | None = None,
        in_place: bool = True,
    ) -> None:
        options = onnxruntime.SessionOptions() if sess_options is None else sess_options
        if sess_options is None:
            options.enable_cpu_mem_arena = False
        if threads is not None:
            options.intra_op_num_threads = threads
        file = TrainingFile(path)
        self._metadata = file.metadata
        if self._metadata.kind != STEP:
            raise TrainingError(f"'{path}' is a training file of kind '{self._metadata.kind}', which has no whole step")
        self._skeleton = file.skeleton()
        self._runner = Runner(file, options, kernels, in_place)
        file.check_unchanged()
        assert self._metadata.optimizer is not None
        self._groups = len(self._metadata.optimizer.groups)
        self._rate = self._runner.fixed[self._metadata.lr].array
        self._lr: Array = self._rate.copy()
        self._lock = threading.Lock()
        self._is_forked = False
        _trainers.add(self)

    @property
    def kernels(self) -> dict[str, str]:
        """Name of the kernel by domain and name of each operator."""
        return dict(self._runner.kernels)

    @property
    def two_buffers(self) -> dict[str, str]:
        """The states that are not overwritten in place, each with the reason."""
        return dict(self._runner.two_buffers)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what a step takes, in order: the inputs, then the targets."""
        return self._metadata.given

    @property
    def lr(self) -> float | Array:
        """The learning rate of steps that are given none; one for each group if there are several."""
        return float(self._lr) if self._groups == 1 else self._lr.copy()

    @lr.setter
    def lr(self, value: float | Array) -> None:
        self._lr = learning_rates(value, self._groups)

    @property
    def steps_done(self) -> int:
        """The number of steps that the state has seen, also those before it was saved."""
        with self._lock:
            self._check_usable()
            return int(self._runner.memory.current[self._metadata.step].array)

    def step(self, *given: Any, lr: float | Array | None = None, **named: Any) -> float:
        """Train one step and return its loss, which was computed before the update.

        Args:
            given: inputs and targets in order, as arrays of the file's dtypes and shapes; or by name.
            lr: for this step alone; by default `lr`.

        Raises: TrainingError for arrays that do not fit, before anything is changed, and for a failure in onnxruntime;
            what a Python kernel raises.
        """
        with self._lock:
            return self._step(self._runner.given.arrays(given, named), lr)

    def run(
        self,
        batches: Iterable[Any],
        steps: int | None = None,
        *,
        lr: float | Array | Callable[[int], float | Array] | None = None,
        on_step: Callable[[int, float], object] | None = None,
        check_finite: bool = True,
    ) -> list[float]:
        """Train a step for each batch, and return the losses.

        Ctrl-C, or an exception of ``batches``, leaves the state of the last whole step.

        Args:
            batches: each a tuple of inputs and targets in order, or a dictionary by name.
            steps: how many at most; by default as many as there are batches.
            lr: for these steps; a function is called with the number of each step, from `steps_done` on.
            on_step: called after each step with `steps_done` and the loss.
            check_finite: whether to stop where a loss is infinite or no number.

        Raises: as `step`; TrainingError also for a loss that is not finite, after its step.
        """
        losses: list[float] = []
        done = self.steps_done
        if steps is not None and steps <= 0:
            return losses
        for batch in batches:
            rate = lr(done) if callable(lr) else lr
            given, named = ((), batch) if isinstance(batch, Mapping) else (batch, {})
            loss = self.step(*given, lr=rate, **named)
            losses.append(loss)
            done += 1
            if check_finite and not math.isfinite(loss):
                raise TrainingError(
                    f"the loss of step {done} is {loss}; the state is that after this step: go on from an earlier file "
                    "with a smaller learning rate"
                )
            if on_step is not None:
                on_step(done, loss)
            if steps is not None and len(losses) >= steps:
                break
        return losses

    def state(self) -> dict[str, Array]:
        """Return copies of parameters, buffers, the optimizer's state, the number of steps and the learning rate."""
        with self._lock:
            return {name: array.copy() for name, array in self._arrays().items()}

    def parameters(self) -> dict[str, Array]:
        """Return copies of the trained parameters by name."""
        with self._lock:
            arrays = self._arrays()
            return {name: arrays[name].copy() for name in self._metadata.parameters}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put a state in place of the one of now; also after a failure.

        Args:
            state: as `state` returns it: all names, each with its dtype and shape.

        Raises: TrainingError, before anything is changed.
        """
        with self._lock:
            self._check_process()
            memory = self._runner.memory
            arrays = {name: tensor.array for name, tensor in memory.current.items()} | {self._metadata.lr: self._lr}
            new = _checked_state(state, arrays)
            new[self._metadata.lr] = learning_rates(new[self._metadata.lr], self._groups)
            self._put(new)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the training file with the state of now, from which `Trainer` goes on with the same bits.

        The file is complete or not there at all, whenever the process ends; one that was there is replaced.

        Raises: OutputError.
        """
        with self._lock:
            self._skeleton.write(path, self._metadata, self._arrays())

    def _step(self, arrays: list[Array], lr: float | Array | None) -> float:
        if self._is_forked or self._runner.memory.has_failed:
            self._check_usable()
        if type(lr) is float and self._groups == 1 and 0.0 <= lr < math.inf:
            self._rate[()] = lr
        else:
            self._rate[...] = self._lr if lr is None else learning_rates(lr, self._groups)
        try:
            self._runner.run(arrays)
        except Exception as error:
            raise self._failure(error) from error
        return self._runner.read_loss()

    def _arrays(self) -> dict[str, Array]:
        """Return the memory of the state of now, in the file's order."""
        self._check_usable()
        found = {name: tensor.array for name, tensor in self._runner.memory.current.items()}
        return found | {self._metadata.lr: self._lr}

    def _put(self, state: Mapping[str, Array]) -> None:
        """Copy a state that was checked into memory."""
        memory = self._runner.memory
        memory.forget_failure()
        for name, tensor in memory.current.items():
            tensor.array[...] = state[name]
        self._lr = state[self._metadata.lr]

    def _failure(self, error: Exception) -> Exception:
        """Return the error to raise for one of a run, after deciding whether the state is whole."""
        memory = self._runner.memory
        if not memory.has_in_place:
            memory.forget_failure()
        if not type(error).__module__.startswith("onnxruntime"):
            return error
        what = f"the step failed in onnxruntime: {first_line(error)}"
        if not memory.has_failed:
            return TrainingError(f"{what}; the state is that of the step before")
        return UnusableError(f"{what}; {_HALF}")

    def _check_usable(self) -> None:
        self._check_process()
        memory = self._runner.memory
        if memory.has_failed:
            if memory.has_in_place:
                raise UnusableError(f"a step failed in onnxruntime; {_HALF}")
            memory.forget_failure()

    def _check_process(self) -> None:
        if self._is_forked:
            raise UnusableError("this trainer was opened before the process was forked; open the file in this process")


_HALF = (
    "the state may be half updated: load_state() one that is whole, or open the last file; in_place=False keeps the "
    "state of the step before"
)


def _checked_state(state: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of a state, each of the type and shape of one that is there. Raises: TrainingError."""
    missing, extra = [name for name in arrays if name not in state], [name for name in state if name not in arrays]
    if missing or extra:
        problem = f"'{missing[0]}' is missing" if missing else f"'{extra[0]}' is unknown"
        raise TrainingError(f"the state must have the names of state(); {problem}")
    new = {}
    for name, old in arrays.items():
        array = np.asarray(state[name])
        if (array.dtype, array.shape) != (old.dtype, old.shape):
            raise TrainingError(
                f"'{name}' of the state must be {old.dtype} {[*old.shape]}, got {array.dtype} {[*array.shape]}"
            )
        new[name] = array
    return new


def _after_fork() -> None:
    for trainer in list(_trainers):
        trainer._is_forked = True
        trainer._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
