"""The memory of a trainer: tensors of onnxruntime, NumPy's view of each, and which of two is the state of now."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import call
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ort_ops.opdef.element_types import ONNX_TYPES
from ort_ops.training.errors import TrainingError

Array = NDArray[Any]
_LONG = 1 << 16  # divisible by four, so that what is forgotten does not change which tensor is current


class Tensor:
    """A tensor that onnxruntime allocated on the CPU.

    Attributes:
        value: what onnxruntime binds.
        array: NumPy's view of the same memory.
    """

    def __init__(self, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
        """Allocate it; the content is undefined. Raises: TrainingError for bfloat16 in an old onnxruntime."""
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        if dtype.name == "bfloat16":
            try:
                self.value = make([*shape], ONNX_TYPES["bfloat16"], "cpu")
            except Exception as error:  # TypeError or KeyError, by version
                raise TrainingError(
                    f"onnxruntime {onnxruntime.__version__} takes no bfloat16 arrays from Python; update it to 1.20 or "
                    "newer"
                ) from error
        else:
            self.value = make([*shape], dtype.type, "cpu")
        self.array = _view(self.value, dtype, shape)

    @classmethod
    def of(cls, value: Any, dtype: np.dtype[Any]) -> Tensor:
        """Return a tensor that onnxruntime returned."""
        tensor = cls.__new__(cls)
        tensor.value = value
        tensor.array = _view(value, dtype, value.shape())
        return tensor


class Memory:
    """The state in one or two tensors each, and the runs that turn one into the other.

    Each run appends to a log twice: as it begins, and when it has ended well. Both happen inside one call into C, so
    that no signal handler of Python comes between the run and the note of it. Even numbers of entries mean that the
    state is whole; their half says which of the two tensors has it.

    Attributes:
        bindings: of the session, from each of the two to the other.
        give: binds an array to an input, in each of these.
    """

    def __init__(self, current: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
        """Take the tensors of each state; the same one in both for a state that is overwritten in place."""
        self._tensors = (dict(current), dict(other))
        self._log: list[Any] = []
        self._calls: tuple[tuple[Callable[[], Any], ...], ...] = ()
        self.bindings: list[Any] = []
        self.give: tuple[Callable[[str, Array], None], ...] = ()

    @property
    def current(self) -> dict[str, Tensor]:
        """The tensors that hold the state of now."""
        return self._tensors[self.turn]

    @property
    def turn(self) -> int:
        """Which of the two is current: 0 or 1."""
        return len(self._log) >> 1 & 1

    @property
    def has_failed(self) -> bool:
        """Whether the last run did not end well."""
        return bool(len(self._log) & 1)

    @property
    def has_in_place(self) -> bool:
        """Whether any state is overwritten in place, so that a run that failed may have left a half of a step."""
        return any(tensor is self._tensors[1][name] for name, tensor in self._tensors[0].items())

    def bind(
        self, session: Any, feeds: Mapping[str, str], fixed: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> None:
        """Bind the state to a session's inputs and outputs in both directions.

        Args:
            feeds: name of the state by the output that is its next value.
            fixed: inputs that stay where they are.
            outputs: outputs that do.
        """
        for source, target in (self._tensors, self._tensors[::-1]):
            binding = session.io_binding()
            for name, tensor in (*source.items(), *fixed.items()):
                binding.bind_ortvalue_input(name, tensor.value)
            for name, tensor in outputs.items():
                binding.bind_ortvalue_output(name, tensor.value)
            for output, name in feeds.items():
                binding.bind_ortvalue_output(output, target[name].value)
            self.bindings.append(binding)
        self.give = tuple(binding._iobinding.bind_input for binding in self.bindings)

    def set_runs(self, runs: Sequence[Callable[[], Any]]) -> None:
        """Say how to run a step from each of the two."""
        self._calls = tuple((int, run) for run in runs)

    def run(self) -> None:
        """Run one step. Raises: what the run raises; `has_failed` is true then."""
        log = self._log
        log.extend(map(call, self._calls[len(log) >> 1 & 1]))

    @property
    def num_runs(self) -> int:
        """The number of runs since the log was last shortened."""
        return len(self._log) >> 1

    def shorten(self) -> None:
        """Forget earlier runs, where there are many; not which of the two tensors is current."""
        if len(self._log) > _LONG:
            del self._log[:_LONG]

    def forget_failure(self) -> None:
        """Take the state as whole: the run that failed changed none of it, or it was put back."""
        if self.has_failed:
            del self._log[-1:]


def direct_run(session: onnxruntime.InferenceSession, binding: Any) -> Callable[[], Any]:
    """Return a call of onnxruntime with a binding, without any of Python's code."""
    return partial(session._sess.run_with_iobinding, binding._iobinding, None)


def _view(value: Any, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    nbytes = math.prod(shape) * dtype.itemsize
    if not nbytes:
        return np.empty(shape, dtype)
    memory = (ctypes.c_uint8 * nbytes).from_address(value.data_ptr())
    memory._owner = value  # type: ignore[attr-defined]  # it lives as long as a view of it
    array: Array = np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)  # type: ignore[call-overload]
    return array
