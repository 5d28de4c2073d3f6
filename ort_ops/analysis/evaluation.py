"""What an evaluation of a whole model in float64 gives; `ort_ops.analysis.float64_run` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.compare import Comparison, compare, compare_exactly
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
        """Compare what a runtime computed."""
        if self.element_type is None:
            return compare_exactly(actual, self.exact, self.undecided)
        return compare(actual, self.exact, self.error, self.element_type, self.undecided)


class Loadable(Protocol):
    """A tensor that is read when it is needed."""

    def load(self) -> Array:
        """Return it."""


@dataclass(frozen=True)
class LinearCall:
    """What one MYLINEAR node received.

    Attributes:
        x: float64; at most some hundred of its rows.
        stored_weight, stored_bias: an array, or where it can be read.
        element_type: that the node computes in.
    """

    label: str
    x: Array
    stored_weight: Array | Loadable
    stored_bias: Array | Loadable | None
    element_type: ElementType

    @property
    def weight(self) -> Array:
        """``[out_features, in_features]``, read anew each time if the model stores it; in its own dtype then."""
        return self.stored_weight if isinstance(self.stored_weight, np.ndarray) else self.stored_weight.load()

    @property
    def bias(self) -> Array | None:
        """``[out_features]``, or None; as `weight`."""
        stored = self.stored_bias
        return stored if stored is None or isinstance(stored, np.ndarray) else stored.load()


@dataclass(frozen=True)
class Evaluation:
    """What came of one input: the outputs by name, the calls of MYLINEAR, and every value if they were asked for."""

    outputs: dict[str, Value]
    calls: list[LinearCall]
    values: dict[str, Value]
