"""Check what the user gives to a step: names, types, ranks, sizes. onnxruntime would broadcast what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.shapes import Shape, format_shape
from ort_ops.training.errors import TrainingError

Array = NDArray[Any]

_ARRAY = np.ndarray  # looked up at each step


@dataclass(frozen=True)
class Given:
    """One input that the user gives.

    Attributes:
        name: of the input.
        dtype: of its elements.
        shape: names of dimensions stand for sizes that may change; None for one that is free by itself.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape


class GivenInputs:
    """The inputs and targets of a step."""

    def __init__(self, inputs: Sequence[Given]) -> None:
        self.inputs = tuple(inputs)
        self._names = tuple(given.name for given in inputs)
        self._dtypes = tuple(given.dtype for given in inputs)
        self._last: tuple[tuple[int, ...], ...] = ()  # shapes that were checked

    def arrays(self, values: Sequence[Any], named: Mapping[str, Any], stacked: int | None = None) -> Sequence[Array]:
        """Return the arrays of a step in the order of the inputs, in C order.

        Args:
            values: by position; the others are in ``named``.
            stacked: the number of steps that each array has as its first dimension; None for one step.

        Raises: TrainingError that names the input, and says what it must be.
        """
        if stacked is None and not named and self._are_as_before(values):
            return values
        if named or len(values) != len(self.inputs):
            values = self._in_order(values, named)
        arrays = [self._as_array(i, value) for i, value in enumerate(values)]
        sizes: dict[str, tuple[int, str]] = {}
        for given, array in zip(self.inputs, arrays, strict=True):
            _check(given, array, sizes, stacked)
        if stacked is None:
            self._last = tuple(array.shape for array in arrays)
        return [np.asarray(array, order="C") for array in arrays]

    def _are_as_before(self, values: Sequence[Any]) -> bool:
        """Whether all are arrays in C order, with the dtypes of the inputs and the shapes that were last found right.

        One plain loop: of the step of a tiny model, the checks would be a tenth.
        """
        if len(values) != len(self._last):
            return False
        for value, dtype, shape in zip(values, self._dtypes, self._last):  # noqa: B905  # strict=True takes longer
            if type(value) is not _ARRAY or value.dtype is not dtype or value.shape != shape:
                return False
            if not value.flags.c_contiguous:
                return False
        return True

    def stacked(self, values: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Array]:
        """Return the arrays of many steps, each ``[steps, ...]``. Raises: as `arrays`."""
        if named or len(values) != len(self.inputs):
            values = self._in_order(values, named)
        arrays = [self._as_array(i, value) for i, value in enumerate(values)]
        steps = arrays[0].shape[0] if arrays and arrays[0].ndim else 0
        if not steps:
            raise TrainingError(f"the arrays of many steps must be [steps, ...] with a step or more, got {steps}")
        return self.arrays(arrays, {}, steps)

    def _in_order(self, values: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        wanted = ", ".join(self._names)
        unknown = [name for name in named if name not in self._names]
        if unknown:
            raise TrainingError(f"the step has no input '{unknown[0]}'; it takes {wanted}")
        rest = self._names[len(values) :]
        twice = [name for name in named if name not in rest]
        if len(values) > len(self._names) or twice:
            what = f"'{twice[0]}' is given twice" if twice else f"got {len(values)} arrays"
            raise TrainingError(f"a step takes {wanted}; {what}")
        missing = [name for name in rest if name not in named]
        if missing:
            raise TrainingError(f"a step takes {wanted}; '{missing[0]}' is missing")
        return [*values, *(named[name] for name in rest)]

    def _as_array(self, index: int, value: Any) -> Array:
        try:
            return np.asarray(value)
        except Exception as error:  # of any library whose arrays these are
            name = self._names[index]
            raise TrainingError(f"'{name}' must be an array, got {type(value).__name__}: {error}") from error


def _check(given: Given, array: Array, sizes: dict[str, tuple[int, str]], stacked: int | None) -> None:
    shape: Shape = given.shape if stacked is None else [stacked, *given.shape]
    if array.dtype != given.dtype:
        raise TrainingError(
            f"'{given.name}' must be {given.dtype}, got {array.dtype}; convert it, for example with "
            f".astype('{given.dtype}')"
        )
    got = format_shape(array.shape)
    if array.ndim != len(shape):
        raise TrainingError(f"'{given.name}' must have shape {format_shape(shape)}, got {got}")
    for dim, size in zip(shape, array.shape, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise TrainingError(f"'{given.name}' must have shape {format_shape(shape)}, got {got}")
            continue
        if size == 0:
            raise TrainingError(f"'{given.name}' is empty: it has shape {got}, and a step needs at least one row")
        if dim is not None:
            known, first = sizes.setdefault(dim, (size, given.name))
            if known != size:
                raise TrainingError(
                    f"'{given.name}' must have shape {format_shape(shape)} with {dim} = {known} as '{first}' has, "
                    f"got {got}"
                )


def checked_arrays(given: Mapping[str, Any], arrays: Mapping[str, Array], what: str, source: str) -> dict[str, Array]:
    """Return arrays by name, each of the type and shape of one that is there.

    Args:
        what: the arrays are, in words.
        source: of the names, for the message.

    Raises: TrainingError.
    """
    missing, extra = [name for name in arrays if name not in given], [name for name in given if name not in arrays]
    if missing or extra:
        problem = f"'{missing[0]}' is missing" if missing else f"'{extra[0]}' is unknown"
        raise TrainingError(f"the {what} must have the names of {source}; {problem}")
    found = {}
    for name, old in arrays.items():
        array = np.asarray(given[name])
        if (array.dtype, array.shape) != (old.dtype, old.shape):
            raise TrainingError(
                f"'{name}' of the {what} must be {old.dtype} {[*old.shape]}, got {array.dtype} {[*array.shape]}"
            )
        found[name] = array
    return found
