"""The cases of the parity table: shape x dtype x bias x values, each with its own seeded sample."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import Bound
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylinear.contract import ELEMENT_TYPES, MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound

Array = NDArray[Any]

# (leading dimensions, in_features, out_features). 16, 17 and 33 stand around common tile sizes.
SHAPES: tuple[tuple[tuple[int, ...], int, int], ...] = (
    ((1,), 2, 1),
    ((), 3, 4),
    ((0,), 3, 4),
    ((3,), 0, 4),
    ((3,), 4, 0),
    ((1,), 1, 1),
    ((5,), 15, 16),
    ((7,), 17, 33),
    ((1,), 257, 5),
    ((4,), 1024, 3),
    ((33,), 8, 1),
    ((2, 3), 5, 7),
    ((2, 0, 3), 5, 7),
    ((2, 3, 4, 5), 6, 2),
)
VALUES = ("normal", "edges", "denormal", "cancelling", "overflowing", "bits")


@dataclass(frozen=True)
class Case:
    """One call of the operator."""

    leading: tuple[int, ...]
    in_features: int
    out_features: int
    dtype: str
    has_bias: bool
    values: str = "normal"

    def __str__(self) -> str:
        shape = "x".join(map(str, (*self.leading, self.in_features)))
        bias = "bias" if self.has_bias else "no bias"
        return f"{shape}->{self.out_features} {self.dtype} {bias} {self.values}"

    @property
    def element_type(self) -> ElementType:
        return MYLINEAR.element_type(self.dtype)

    def sample(self) -> dict[str, Array | None]:
        """Draw x, weight and bias; the seed is the case itself, so that it replays alone."""
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        x = rng.standard_normal((*self.leading, self.in_features))
        weight = rng.standard_normal((self.out_features, self.in_features))
        bias = rng.standard_normal(self.out_features) if self.has_bias else None
        if self.values == "edges":
            for array in (x, weight):
                special = rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0], array.shape)
                array[...] = np.where(rng.random(array.shape) < 0.1, special, array)
        elif self.values == "denormal":
            x *= self.element_type.smallest * 8
        elif self.values == "cancelling" and self.in_features > 1:
            half = self.in_features // 2
            scale = 100.0
            x[..., half : 2 * half] = -x[..., :half]
            x *= scale
            weight[:, half : 2 * half] = weight[:, :half]
        elif self.values == "overflowing":  # in partial sums; half of the whole sums are finite
            x *= MYLINEAR.element_type(self.element_type.accumulator).largest / 8
            x[..., 1::2] = -x[..., ::2]
            x[: len(x) // 2] *= 1.5
        dtype = numpy_dtype(self.dtype)
        if self.values == "bits":
            arrays = [_random_bits(a, dtype, rng) for a in (x, weight, bias)]
            return dict(zip(("x", "weight", "bias"), arrays, strict=True))
        with np.errstate(all="ignore"):
            return {
                "x": x.astype(dtype),
                "weight": weight.astype(dtype),
                "bias": None if bias is None else bias.astype(dtype),
            }

    def bound(self) -> Bound:
        """What a right kernel may return, derived."""
        sample = self.sample()
        assert sample["x"] is not None
        assert sample["weight"] is not None
        return linear_bound(sample["x"], sample["weight"], sample["bias"], self.element_type)

    def error_bound(self) -> Array:
        """The largest allowed error of every element, derived."""
        return self.bound().error


def _random_bits(like: Array | None, dtype: np.dtype[Any], rng: np.random.Generator) -> Array | None:
    """Every pattern of bits is as likely: all exponents, denormal numbers, infinities, NaN of all kinds."""
    if like is None:
        return None
    return np.frombuffer(rng.bytes(like.size * dtype.itemsize), dtype).reshape(like.shape)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of that name; bfloat16 is ml_dtypes'."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


CASES = tuple(
    Case(leading, in_features, out_features, element_type.name, has_bias)
    for leading, in_features, out_features in SHAPES
    for element_type in ELEMENT_TYPES
    for has_bias in (True, False)
) + tuple(
    Case(leading, in_features, 17, element_type.name, True, values)
    for element_type in ELEMENT_TYPES
    for values in VALUES[1:]
    for leading, in_features in ((((9,), 24), ((40,), 3)) if values == "bits" else (((9,), 24),))
)
