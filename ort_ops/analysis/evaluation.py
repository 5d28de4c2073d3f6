"""The result of evaluating a whole model in float64; `ort_ops.analysis.float64_run` makes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.compare import Comparison, compare, compare_exactly
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]
_FLOAT64_ROUNDOFF = 2.0**-53


@dataclass(frozen=True)
class Value:
    """An exact value, how far a runtime may be from it, and the element type that the model holds it in.

    Attributes:
        exact: float64, or the integers and booleans themselves.
        error: largest allowed error of each element; infinite where it would prove nothing.
        element_type: None for integers and booleans.
        undecided: where rounding errors may turn a decision on which the element hangs; None for nowhere.
        rounding: how large the errors may be where ``error`` is infinite because they are larger than the values
            themselves; None where it is not.
    """

    exact: Array
    error: Array
    element_type: ElementType | None
    undecided: NDArray[np.bool_] | None = None
    rounding: Array | None = None

    @property
    def relaxed(self) -> Value:
        """The same with ``rounding`` for a bound if the value is 0 but for rounding; unchanged if it is not.

        It is 0 for all that float64 can tell where it is not larger than the errors that the same graph makes in
        float64. Then its terms cancel, and no bound can be smaller than it.
        """
        if self.rounding is None or self.element_type is None:
            return self
        where = np.isfinite(self.exact) & np.isfinite(self.rounding)
        if not where.any():
            return self
        largest = float(np.max(self.rounding, initial=0.0, where=where)) or 1.0
        in_float64 = _FLOAT64_ROUNDOFF / self.element_type.unit_roundoff
        size, allowed = (float(np.mean(np.square(v[where] / largest))) for v in (self.exact, self.rounding))
        return replace(self, error=self.rounding) if size <= allowed * in_float64**2 else self

    def compare(self, actual: Array) -> Comparison:
        """Compare a runtime's result with it."""
        if self.element_type is None:
            return compare_exactly(actual, self.exact, self.undecided)
        return compare(actual, self.exact, self.error, self.element_type, self.undecided)


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one input.

    Attributes:
        outputs: by name.
        calls: what each node of a registered operator received, labelled by its path.
        values: every value of the main graph, if requested.
    """

    outputs: dict[str, Value]
    calls: list[Call]
    values: dict[str, Value]
