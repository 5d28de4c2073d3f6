"""Train in onnxruntime: run the steps of a training file, and keep their state.

Long because it is the whole public face, with what each call promises; the work is done in the files beside it.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from ort_ops.errors import ModelError
from ort_ops.exclusive import exclusive, new_lock
from ort_ops.training.accumulation import Accumulation
from ort_ops.training.errors import TrainingError, UnusableError
from ort_ops.training.file_format import APPLY, GRAD, STEP
from ort_ops.training.given import checked_arrays
from ort_ops.training.rates import Rate, Rates
from ort_ops.training.storage import safetensors_file
from ort_ops.training.storage.training_file import TrainingFile
from ort_ops.training.whole_step import WholeStep

Array = NDArray[Any]

_trainers: weakref.WeakSet[Trainer] = weakref.WeakSet()


class Trainer:
    """A training file that `exporter.export_training` wrote, and its state, in plain onnxruntime.

    Args:
        path: of the file; of the ``.grad.onnx`` file where gradients accumulate, with the ``.apply.onnx`` file beside
            it. The state starts with what is stored there.
        sess_options: as onnxruntime takes them; by default its own, but memory is given back after each step.
        kernels: as in `ort_ops.InferenceSession`.
        threads: how many onnxruntime may use within a node; by default one for each core.
        in_place: whether to overwrite states for which a check of the graph proves that this is safe. It saves memory;
            but a step that fails inside onnxruntime may leave them half updated, and then the trainer refuses to go on.

    Attributes:
        kernels: name of the kernel by domain and name of each operator, as `ort_ops.InferenceSession` has it.
        two_buffers: the states that are not overwritten in place, each with the reason.
        inputs: names of what a step takes, in order: the inputs, then the targets.

    Several threads may use one trainer: each call waits for the others. A call from within another one, as from a
    Python kernel, is a BusyError. A trainer does not survive ``fork``: open the
    file in the new process. No step imports anything, and nothing imports torch.

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
        def options() -> onnxruntime.SessionOptions:
            found = onnxruntime.SessionOptions() if sess_options is None else sess_options
            if sess_options is None:
                found.enable_cpu_mem_arena = False
            if threads is not None:
                found.intra_op_num_threads = threads
            return found

        file = TrainingFile(path)
        kind = file.metadata.kind
        if kind not in (STEP, GRAD):
            advice = "open the grad file that names it" if kind == APPLY else "run it with ort_ops.InferenceSession"
            raise ModelError(f"'{path}' is a training file of kind '{kind}', which has no whole step; {advice}")
        make = WholeStep if kind == STEP else Accumulation
        self._engine: WholeStep | Accumulation = make(file, options, kernels, in_place)
        self.kernels = self._engine.kernels
        self.two_buffers = self._engine.two_buffers
        self.inputs = self._engine.metadata.given
        self._rates = Rates(self._engine.first_rate, self._engine.groups)
        self._lock = new_lock()
        self._is_forked = self._is_torn = False
        _trainers.add(self)

    @property
    def lr(self) -> Rate:
        """The learning rate of steps that are given none; one for each group if there are several."""
        rates = self._rates.array
        return float(rates) if rates.ndim == 0 else rates.copy()

    @lr.setter
    def lr(self, value: Rate) -> None:
        self._rates.array = self._rates.check(value)

    @property
    @exclusive
    def steps_done(self) -> int:
        """The number of steps that the state has seen, also those before it was saved."""
        self._check_usable()
        return self._engine.steps_done

    @property
    @exclusive
    def accumulated(self) -> int:
        """The number of batches whose gradients wait for the next step; 0 in a file of whole steps."""
        self._check_usable()
        return self._engine.accumulated if isinstance(self._engine, Accumulation) else 0

    @exclusive
    def step(self, *given: Any, lr: Rate | None = None, **named: Any) -> float:
        """Train one step and return its loss, which was computed before the update.

        Where gradients accumulate, this adds those of one batch, and every so many batches make a step.

        Args:
            given: inputs and targets in order, as arrays of the file's dtypes and shapes; or by name.
            lr: for this step alone; by default `lr`.

        Raises: TrainingError for arrays that do not fit, before anything is changed, and for a failure in onnxruntime;
            what a Python kernel raises.
        """
        engine = self._engine
        if self._is_forked or self._is_torn or engine.has_failed:
            self._check_usable()
        return engine.step(engine.given.arrays(given, named), self._rates.of_step(lr))

    def run(
        self,
        batches: Iterable[Any],
        steps: int | None = None,
        *,
        lr: Rate | Callable[[int], Rate] | None = None,
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
        if steps is not None and steps <= 0:
            return losses
        for batch in batches:
            rate = lr(self.steps_done) if callable(lr) else lr
            given, named = ((), batch) if isinstance(batch, Mapping) else (batch, {})
            loss = self.step(*given, lr=rate, **named)
            losses.append(loss)
            if check_finite and not math.isfinite(loss):
                raise _not_finite(loss, self.steps_done)
            if on_step is not None:
                on_step(self.steps_done, loss)
            if steps is not None and len(losses) >= steps:
                break
        return losses

    @exclusive
    def run_loop(self, *given: Any, lr: Rate | None = None, check_finite: bool = True, **named: Any) -> Array:
        """Train many steps in one call of onnxruntime, with the bits of as many calls of `step`.

        It takes memory for the state twice more while it runs. Ctrl-C waits for its end.

        Args:
            given: inputs and targets, ``[steps, batch, ...]``.
            lr: as in `step`; or ``[steps]``, and ``[steps, groups]`` for several groups.
            check_finite: whether to refuse losses that are infinite or no number; the state is that of before then.

        Returns: the losses ``[steps]``, in float64.
        Raises: as `step`.
        """
        self._check_usable()
        engine = self._engine
        if isinstance(engine, Accumulation):
            raise TrainingError("run_loop needs a file of whole steps; this one accumulates gradients, so use run()")
        arrays = engine.given.stacked(given, named)
        return engine.run_loop(arrays, self._rates.of_steps(lr, len(arrays[0])), check_finite)

    @exclusive
    def state(self) -> dict[str, Array]:
        """Return copies of parameters, buffers, the optimizer's state, the number of steps and the learning rate."""
        return {name: array.copy() for name, array in self._arrays().items()}

    @exclusive
    def parameters(self) -> dict[str, Array]:
        """Return copies of the trained parameters by name."""
        arrays = self._arrays()
        return {name: arrays[name].copy() for name in self._engine.metadata.parameters}

    @exclusive
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put a state in place of the one of now; also after a failure.

        Args:
            state: as `state` returns it: all names, each with its dtype and shape.

        Raises: TrainingError, before anything is changed.
        """
        self._check_process()
        name = self._engine.lr_name
        new = checked_arrays(state, self._engine.arrays() | {name: self._rates.array}, "state", "state()")
        self._put(new, self._rates.check(new[name]))

    @exclusive
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the training file with the state of now, from which `Trainer` goes on with the same bits.

        The file is complete or not there at all, whenever the process ends; one that was there is replaced. Where
        gradients accumulate, the ``apply`` file is written beside it.

        Raises: OutputError.
        """
        self._check_usable()
        self._engine.save(path, self._rates.array)

    @exclusive
    def export_inference(self, path: str | os.PathLike[str]) -> None:
        """Write the model in eval mode with the weights of now, for any onnxruntime.

        Raises: ModelError if the training file has no such model, OutputError.
        """
        from ort_ops.training.graph.inference import write_inference

        write_inference(path, self._engine.skeleton, self._engine.metadata, self._weights())

    @exclusive
    def save_parameters(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and buffers to a safetensors file, by name.

        Raises: RequirementError if the package ``safetensors`` is missing, OutputError.
        """
        safetensors_file.write(path, self._weights())

    @exclusive
    def load_parameters(self, path: str | os.PathLike[str]) -> None:
        """Take parameters and buffers from a safetensors file; the optimizer's state stays.

        Raises: RequirementError if the package ``safetensors`` is missing, InputError, TrainingError for a file that
            lacks a name, has another one, or has another dtype or shape.
        """
        new = checked_arrays(safetensors_file.read(path), self._weights(), f"file '{path}'", "save_parameters()")
        self._put(self._engine.arrays() | new, self._rates.array)

    @exclusive
    def gradients(self) -> dict[str, Array]:
        """Return copies of the sums of the gradients of `accumulated` batches, by parameter.

        Raises: TrainingError for a file of whole steps.
        """
        self._check_usable()
        return self._accumulation().gradients()

    @exclusive
    def apply(
        self, gradients: Mapping[str, Any] | None = None, count: float | None = None, *, lr: Rate | None = None
    ) -> None:
        """Do a step by sums of gradients, such as those that several devices added up; the own sums start anew.

        Args:
            gradients: sums by parameter, as `gradients` returns them; by default the own.
            count: what the sums are divided by; by default `accumulated`.
            lr: as in `step`.

        Raises: TrainingError for a file of whole steps, for gradients that do not fit, and if there are none.
        """
        self._check_usable()
        if gradients is not None and count is None:
            raise TrainingError("gradients need a count, the number that their sums are divided by")
        self._accumulation().apply(gradients, count, self._rates.of_step(lr))

    def _accumulation(self) -> Accumulation:
        if not isinstance(self._engine, Accumulation):
            raise TrainingError("this file has whole steps; export it with accumulate=N to have the gradients")
        return self._engine

    def _arrays(self) -> dict[str, Array]:
        """Return the memory of the state of now."""
        self._check_usable()
        return self._engine.arrays() | {self._engine.lr_name: self._rates.array}

    def _weights(self) -> dict[str, Array]:
        arrays = self._arrays()
        metadata = self._engine.metadata
        return {name: arrays[name] for name in (*metadata.parameters, *metadata.buffers)}

    def _put(self, state: Mapping[str, Array], rate: Array) -> None:
        """Copy a state that was checked into memory."""
        self._engine.check_state(state)
        self._is_torn = True
        self._engine.put(state)
        self._rates.array = rate
        self._is_torn = False

    def _check_usable(self) -> None:
        self._check_process()
        if self._is_torn:
            raise UnusableError("a state was not loaded to its end; load_state() again")
        self._engine.check_usable()

    def _check_process(self) -> None:
        if self._is_forked:
            raise UnusableError("this trainer was opened before the process was forked; open the file in this process")


def _not_finite(loss: float, step: int) -> TrainingError:
    return TrainingError(
        f"the loss of step {step} is {loss}; the state is that after this step: go on from an earlier file with a "
        "smaller learning rate"
    )


def _after_fork() -> None:
    for trainer in list(_trainers):
        trainer._is_forked = True
        trainer._lock = new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
