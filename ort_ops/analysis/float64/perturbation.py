"""How the results of nodes are perturbed in one run of a model, to see what arrives at its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.analysis.float64.arrays import is_float
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]
FLOAT64_SCALE = 2.0**20
"""Float64 nodes are perturbed so much more, and what arrives divided by it: float64 cannot show their errors else."""

_UNDERFLOWS = 64
"""The error of what underflows, at most, in units of the smallest number."""


@dataclass(frozen=True)
class Perturbation:
    """How the results of nodes are perturbed in one run.

    Attributes:
        kind: ``independent`` for random numbers; ``tied`` for random numbers that are the same in all nodes of one
            shape, as the errors of equal layers are; ``drift`` for one rounding of each result, all outwards.
        seed: of the random numbers.
        is_wide: whether float64 nodes are perturbed, `FLOAT64_SCALE` times as much; else those of all other types.
        factor: the perturbation in units of the node's error size.
        is_frozen: whether decisions stay as they were without perturbation.
    """

    kind: str
    seed: int
    is_wide: bool
    factor: float
    is_frozen: bool = True

    def scale(self, element_type: ElementType) -> float:
        """Return the perturbation of a node's result in units of its error size."""
        if (element_type.name == "float64") is not self.is_wide:
            return 0.0
        # The exact run makes errors of the same size in float64.
        return self.factor * (FLOAT64_SCALE * 2**0.5 if self.is_wide else 1.0)

    def random(self, shape: tuple[int, ...], salt: int, count: int) -> Array:
        """Return random signs and sizes of variance 1: numbers spread evenly, as roundings are.

        Args:
            salt: tells the inputs and outputs of one node apart.
            count: of the node in this run.
        """
        key = shape if self.kind == "tied" else (count,)
        rng = np.random.default_rng([self.seed, salt, *key])
        return rng.uniform(-(3**0.5), 3**0.5, shape)

    def noisy(self, value: Any, relative: float, salt: int, count: int) -> Any:
        """Return floating-point numbers with a relative error; anything else as it is."""
        if not is_float(value):
            return value
        with np.errstate(all="ignore"):
            return np.where(np.isfinite(value), value * (1 + relative * self.random(value.shape, salt, count)), value)

    def perturbed(
        self,
        result: Array,
        size: Array,
        element_type: ElementType,
        salt: int,
        count: int,
        *,
        keeps_sign: bool = False,
    ) -> Array:
        """Return a result with errors of these sizes; NaN and infinities as they are.

        Args:
            keeps_sign: whether what underflows keeps its sign, as in any rounding of one number: the root of a mean of
                squares that are almost 0 is no NaN.
        """
        with np.errstate(all="ignore"):
            if self.kind == "drift":
                unit = element_type.unit_roundoff * self.scale(element_type) / self.factor
                change = np.where(size > 0, unit * result, 0.0)
            else:
                change = size * self.random(result.shape, salt, count)
            if keeps_sign:
                least = _UNDERFLOWS * self.scale(element_type) * element_type.smallest
                moved = result + change
                is_turned = (np.signbit(moved) != np.signbit(result)) & (np.abs(change) <= least)
                change = np.where(is_turned, -moved - result, change)
            return np.where(np.isfinite(change) & np.isfinite(result), result + change, result)
