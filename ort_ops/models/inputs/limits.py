"""Limits of the integers in a graph, and what is known of the values of one graph or function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray

from ort_ops.models.inputs.skeleton import Dims

Array = NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """The smallest and the largest number that a value may have; ``reason`` says why there is none."""

    low: float = -math.inf
    high: float = math.inf
    reason: str = ""

    @property
    def is_bounded(self) -> bool:
        return self.low > -math.inf or self.high < math.inf

    def __and__(self, other: Limits) -> Limits:
        return Limits(max(self.low, other.low), min(self.high, other.high), self.reason or other.reason)


ANY = Limits()
FEW, ZERO, ONE = Limits(1, 3), Limits(0, 0), Limits(1, 1)


@dataclass
class Scope:
    """What is known of the values of one graph or function: limits (filled from last to first), shapes, constants."""

    dims: Mapping[str, Dims]
    constants: Mapping[str, Array]
    sizes: Mapping[str, int]
    functions: Mapping[tuple[str, str], onnx.FunctionProto]
    limits: dict[str, Limits] = field(default_factory=dict)
    calls: dict[Any, list[Limits]] = field(default_factory=dict)

    def of(self, name: str) -> Limits:
        return self.limits.get(name, ANY)

    def meet(self, name: str, limits: Limits) -> None:
        if name and (limits.is_bounded or limits.reason):
            self.limits[name] = self.of(name) & limits

    def size(self, name: str, axis: int) -> int | None:
        """Return the size of an axis; None if it is not known."""
        dims = self.dims.get(name)
        if dims is None or not -len(dims) <= axis < len(dims):
            return None
        dim = dims[axis]
        return self.sizes.get(dim) if isinstance(dim, str) else dim

    def index_into(self, name: str, axis: int) -> Limits:
        size = self.size(name, axis)
        return ZERO if size is None else Limits(0, size - 1)
