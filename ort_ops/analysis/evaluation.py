"""The result of evaluating a whole model in float64; `ort_ops.analysis.float64_run` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.compare import Comparison, compare, compare_exactly
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """An exact value, how far a runtime may be from it, and the element type that the model holds it in.

    Attributes:
        exact: float64, or the integers and booleans themselves.
        error: largest allowed error of each element; infinite where it would prove nothing.
        element_type: None for integers and booleans.
        undecided: where rounding errors may turn a decision on which the element hangs; None for nowhere.
    """

    exact: Array
    error: Array
    element_type: ElementType | None
    undecided: NDArray[np.bool_] | None = None

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
