"""The arrays of a cell, the same for every backend, and what a backend is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from exporter.torch_ops.workloads.bench import Layer

Array = NDArray[Any]
_ALIGNMENT = 64


class UnavailableError(Exception):
    """The backend cannot take part; the message says why."""


@dataclass(frozen=True)
class Backend:
    """One contender in a cell.

    Attributes:
        run: one call, of all layers; on the GPU it queues the work, and `cuda.synchronize` waits for it.
        result: converts the call's result to an array ``[M, N]`` of the cell's dtype, or ``[layers, M, N]`` for
            several.
        nodes: the nodes that onnxruntime made of a model with an activation, joined by " + "; else empty.
    """

    run: Callable[[], Any]
    result: Callable[[], Array]
    nodes: str = ""


@dataclass(frozen=True)
class Arrays:
    """Input and parameters of a cell.

    Attributes:
        x: ``[M, K]``, weight: ``[N, K]``, bias: ``[N]``, of the cell's dtype; the weight may be narrower.
        num_layers: how many layers a call computes. The others have this weight and bias with their rows moved on by
            one each: other memory and other numbers, and results that are known.
    """

    x: Array
    weight: Array
    bias: Array
    num_layers: int = 1

    @cached_property
    def layers(self) -> list[Layer]:
        """Weight and bias of every layer, as they are stored."""
        return [(self.weight, self.bias), *(self._moved(self.weight, i) for i in range(1, self.num_layers))]

    @cached_property
    def wide_layers(self) -> list[Layer]:
        """The same with weights of x's dtype, for peers that take no other."""
        if self.weight.dtype == self.x.dtype:
            return self.layers
        wide = self.weight.astype(self.x.dtype)
        return [(aligned(wide), self.bias), *(self._moved(wide, i) for i in range(1, self.num_layers))]

    def _moved(self, weight: Array, rows: int) -> Layer:
        return aligned(np.roll(weight, rows, axis=0)), aligned(np.roll(self.bias, rows))


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return the NumPy dtype of an element type of the contract."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def draw(rows: int, columns: int, outputs: int, dtype: str, weight_dtype: str = "") -> Arrays:
    """Draw from the normal distribution, with a fixed seed; the weight in another dtype if one is named."""
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((outputs, columns), np.float32)
    bias = rng.standard_normal(outputs, np.float32)
    x = rng.standard_normal((rows, columns), np.float32)
    own, stored = numpy_dtype(dtype), numpy_dtype(weight_dtype or dtype)
    return Arrays(aligned(x.astype(own)), aligned(weight.astype(stored)), aligned(bias.astype(own)))


def aligned(array: Array) -> Array:
    """Return a copy whose data begins at a multiple of 64 bytes, for the same conditions on every backend."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def first_words(error: Exception) -> str:
    """Return the beginning of an error's text in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
