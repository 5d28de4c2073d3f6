"""Learning rates: a number, or one for each group of parameters, of one step or of many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.training.errors import TrainingError

Array = NDArray[Any]
Rate = float | Array


class Rates:
    """The learning rate of steps that are given none.

    Attributes:
        array: a scalar, or ``[groups]`` of several.
    """

    def __init__(self, first: Array, groups: int) -> None:
        """Start with the file's learning rate."""
        self.array = first
        self._groups = groups

    def check(self, value: Any) -> Array:
        """Return a learning rate as the file takes it, in float64. Raises: TrainingError."""
        groups = self._groups
        rates = np.asarray(value)
        is_real = rates.dtype.kind in "fiu" and (rates.shape == () or (groups > 1 and rates.shape == (groups,)))
        if not is_real or not np.isfinite(rates).all() or (rates < 0).any():
            words = f"a number or {groups} numbers, one for each group of parameters" if groups > 1 else "a number"
            raise TrainingError(f"the learning rate must be {words}, finite and not negative, got {value!r}")
        result: Array = np.broadcast_to(rates.astype(np.float64), self.array.shape).copy()
        return result

    def of_step(self, lr: Rate | None) -> Rate:
        """Return the learning rate of one step. Raises: TrainingError."""
        if lr is None:
            return self.array
        if type(lr) is float and self._groups == 1 and 0.0 <= lr < math.inf:
            return lr
        return self.check(lr)

    def of_steps(self, lr: Rate | None, steps: int) -> Array:
        """Return a learning rate for each of many steps. Raises: TrainingError."""
        if lr is not None and np.ndim(lr) == self.array.ndim + 1 and len(lr) == steps:  # type: ignore[arg-type]
            return np.array([self.check(rate) for rate in lr])  # type: ignore[union-attr]
        return np.array(np.broadcast_to(self.of_step(lr), (steps, *self.array.shape)), np.float64)
