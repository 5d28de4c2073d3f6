"""The activations: exact values in float64, and how far a right evaluation may be from them.

The error of an evaluation in a type of unit roundoff u, where f is the exact value, is at most

    u (relative |f| + cancelling min(|x|, span)) + tiny        the second for x < 0 alone

The usual formulas cancel for negative x: 1 + erf(x / sqrt 2) is then the small rest of two numbers near 1, and its
error one of x. That of sigmoid is one of 1. Beyond ``span`` every right evaluation is as good as 0. What was measured
over all float32 numbers with a stride of 1024, those from -20 to 20, and as many float64 numbers:

    in units of u         relative, x > 0   of x, for x < 0   where
    gelu                  6.0               5.1 |x|, 17.8 at the most      torch; onnxruntime 2.2 and 1.4
    gelu_tanh             4.0               3.7 |x|, 25.8 at the most      onnxruntime, float64; float32 3.4, 10.6
    silu                  2.0               1.2 |x|,  0.7 at the most      onnxruntime, torch
    sigmoid               2.8               3.0 (of 1)                     onnxruntime in float32
    tanh                  7.8               (relative)                     onnxruntime, float64; float32 5.5
    tanh, |x| < 2^-126    103 times the smallest number                    onnxruntime in float32

A test repeats this, ``pytest -m "" tests/operators/test_activations.py``: with a stride, and where it is asked for the
slow ones, with all 2^32 numbers of float32. Of those, onnxruntime 1.32 reaches 0.80 of what is allowed in tanh, 0.75 in
sigmoid and 0.25 in silu. A kernel in C++ may be 4 units in the last place off, which are at most 8 u. The CUDA
kernels are made of CUDA's exp, tanh and erfc; with these as wrong as NVIDIA documents, they reach 0.79 of it in gelu,
0.62 in tanh and 0.40 in the others (``tests/native/test_cuda_on_cpu.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.error_function import erfc
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]

TANH_SCALE, TANH_CUBE = math.sqrt(2 / math.pi), 0.044715
_TINY = 128.0
"""Of the smallest number: what an evaluation may lose where its numbers are denormal."""


@dataclass(frozen=True)
class Activation:
    """An activation.

    Attributes:
        exact: its float64 values of float64 numbers, to a few roundings; NaN and infinities as the contract says.
        lipschitz: the largest size of its derivative, rounded up.
        ends: its values at -infinity and +infinity.
        least: where it is least, if it is not monotonic.
        relative, cancelling, span: of the error of an evaluation, in this module's formula.
        doubles: whether torch's kernel doubles a number before it halves it, so that one of half the largest becomes
            infinite, and infinity NaN.
    """

    exact: Callable[[Array], Any]
    lipschitz: float = 1.0
    ends: tuple[float, float] = (math.nan, math.inf)
    least: float | None = None
    relative: float = 0.0
    cancelling: float = 0.0
    span: float = 1.0
    doubles: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether no evaluation makes an error."""
        return self.relative == 0

    def spread(self, x: Array, radius: Array) -> Array:
        """Return how far the activation of a number within ``radius`` of ``x`` may be from that of ``x``.

        At most the Lipschitz constant times the radius, and less where the activation is flat; 0 at infinities.
        """
        with np.errstate(all="ignore"):
            radius = np.where(np.isinf(x), 0.0, radius)
            steepest = self.lipschitz * radius
            middle, low, high = (self.exact(value) for value in (x, x - radius, x + radius))
            reached = np.maximum(np.abs(low - middle), np.abs(high - middle))
            if self.least is not None:
                dips = np.abs(x - self.least) <= radius
                reached = np.maximum(reached, np.where(dips, np.abs(self.exact(np.array(self.least)) - middle), 0.0))
            # The float64 values have errors of their own.
            reached = reached * (1 + 2.0**-40) + 2 * self.own_error(x, middle, 2.0**-53, 2.0**-1074)
            return np.where(np.isfinite(reached), np.fmin(steepest, reached), steepest)

    def evaluation_error(self, x: Array, result: Array, accumulator: ElementType) -> Array:
        """Return how far an evaluation in a type may be from the float64 values of ``exact``.

        Args:
            x: what it is given, or less than that.
            result: the exact values of that, or more in size.
        """
        error = self.own_error(x, result, accumulator.unit_roundoff, accumulator.smallest)
        own = 2.0**-52 * (np.abs(result) + np.where(x < 0, np.fmin(np.abs(x), self.span), 0.0))
        return error if self.is_exact else error + own

    def own_error(self, x: Array, result: Array, unit_roundoff: float, smallest: float) -> Array:
        """Return the error of this module's formula."""
        if self.is_exact:
            return np.zeros(np.shape(result))
        with np.errstate(all="ignore"):
            size = 1.0 if self.ends == (0.0, 1.0) else np.fmin(np.abs(x), self.span)
            cancelling = np.where(x < 0, self.cancelling * size, 0.0)
            error: Array = unit_roundoff * (self.relative * np.abs(result) + cancelling) + _TINY * smallest
            return error


def _relu(x: Array) -> Any:
    return np.where(x < 0, 0.0, x)


def _gelu(x: Array) -> Any:
    return x / 2 * erfc(-x * math.sqrt(0.5))


def _gelu_tanh(x: Array) -> Any:
    # x/2 (1 + tanh z) is x / (1 + exp(-2 z)), which does not cancel.
    return x / (1 + np.exp(-2 * TANH_SCALE * (x + TANH_CUBE * x * x * x)))


def _silu(x: Array) -> Any:
    return x / (1 + np.exp(-x))


def _sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Activation] = {
    "none": Activation(lambda x: x, ends=(-math.inf, math.inf)),
    "relu": Activation(_relu, ends=(0.0, math.inf)),
    "gelu": Activation(_gelu, 1.1291, least=-0.7517915, relative=8.0, cancelling=8.0, span=4.0, doubles=True),
    "gelu_tanh": Activation(_gelu_tanh, 1.1291, least=-0.7524614, relative=8.0, cancelling=8.0, span=4.0),
    "silu": Activation(_silu, 1.0999, least=-1.2784645, relative=8.0, cancelling=4.0),
    "sigmoid": Activation(_sigmoid, 0.25, (0.0, 1.0), relative=8.0, cancelling=4.0),
    "tanh": Activation(np.tanh, 1.0, (-1.0, 1.0), relative=8.0),
}
"""By the value of the attribute."""


def activated(x: Array, name: str) -> Array:
    """Return the exact values of an activation of float64 numbers, in float64."""
    with np.errstate(all="ignore"):
        result: Array = ACTIVATIONS[name].exact(x)
        return result
