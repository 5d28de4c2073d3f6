"""How far the outputs of a model may move where its weights are rounded to a narrower type.

Rounding a weight w changes it by at most u |w|, and by half the smallest number where it underflows. To first order an
output moves by the sum of all changes, each multiplied by the derivative of the output by that weight: for a product,
by |dW| times |x|, summed. As in `ort_ops.analysis.float64_run`, whose factor this uses, the derivatives act with their
signs: the graph is run again with perturbed weights, and what arrives at the outputs is measured. Each weight moves by
`FACTOR` times its largest change, up or down by chance; but numbers that are rounded alike, because they lie in the
same half of an interval between two numbers of the narrower type, move alike, as they do when they are rounded.

No run holds all weights: each is read, widened and moved when a node takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64_run import Float64Run, is_vacuous, pooled
from ort_ops.analysis.stored import Derived
from ort_ops.analysis.wide_model import WideModel
from ort_ops.models.narrow_weights import rounded
from ort_ops.numerics.sums import FACTOR
from ort_ops.opdef.element_types import ELEMENT_TYPES

Array = NDArray[Any]
_RUNS = 8
_CHUNK = 2**18  # numbers that are moved together, so that what it takes stays in the cache
_SIGN = np.uint64(1 << 63)
_MIXERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class RoundedWeights:
    """A float32 model prepared to tell how far its outputs may move."""

    def __init__(self, model: onnx.ModelProto, names: Mapping[str, str], folder: Path) -> None:
        """Prepare the model.

        Args:
            names: the element type that each of some stored weights is rounded to, by the weight's name.
            folder: of its external data.
        """
        self._in_float64 = Float64Run(model, folder)
        wide = WideModel.of_proto(model, folder).proto
        for tensor in [tensor for tensor in wide.graph.initializer if tensor.name in names]:
            wide.graph.initializer.remove(tensor)
            wide.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.DOUBLE, list(tensor.dims)))
        inputs = {value.name for value in wide.graph.input}
        self._weights = [Derived(tensor, folder) for tensor in model.graph.initializer if tensor.name in inputs]
        self._names = dict(names)
        self._exact = Float64Run(wide)

    def __call__(self, feed: Mapping[str, Array], of_rounded: Mapping[str, Value]) -> dict[str, Value]:
        """Return the exact outputs of the model as it is, with the bound of a right runtime of the rounded one.

        Args:
            of_rounded: the outputs of the rounded model for the same feed, with the bounds of its rounding errors.

        Raises: ModelError, ContractError as `Float64Run` does.
        """
        exact = self._in_float64.exact(feed)
        values = {name: replace(value, exact=exact[name]) for name, value in of_rounded.items()}
        wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in feed.items()}
        squares: dict[str, Any] = dict.fromkeys(values, 0.0)
        lost: dict[str, Any] = dict.fromkeys(values, False)
        plain = self._exact.exact({**wide, **self._moved(None)})
        for seed in range(_RUNS):
            for name, value in self._exact.exact({**wide, **self._moved(seed)}).items():
                with np.errstate(all="ignore"):
                    is_same = (value == plain[name]) | ((value != value) & (plain[name] != plain[name]))
                    change = np.where(is_same, 0.0, value.astype(np.float64) - plain[name].astype(np.float64))
                is_number = np.isfinite(change)
                lost[name] = lost[name] | ~is_number
                squares[name] = squares[name] + np.square(np.where(is_number, change, 0.0))
        return {name: _wider(value, squares[name] / _RUNS, lost[name]) for name, value in values.items()}

    def _moved(self, seed: int | None) -> dict[str, Any]:
        """Return the weights in float64, to be fed; as they are without a seed."""
        found = {}
        for weight in self._weights:
            name = weight.tensor.name
            change: Callable[[Array], Array] = _as_float64
            if seed is not None and name in self._names:
                change = partial(_moved, dtype=self._names[name], seed=seed)
            found[name] = replace(weight, change=change)
        return found


def _as_float64(weight: Array) -> Array:
    return weight.astype(np.float64)


def _moved(weight: Array, dtype: str, seed: int) -> Array:
    """Return float32 numbers in float64, each moved by `FACTOR` times the most that rounding changes it."""
    element_type = ELEMENT_TYPES[dtype]
    flat = np.ascontiguousarray(weight, np.float32).reshape(-1)
    found = np.empty(flat.shape)
    for start in range(0, flat.size, _CHUNK):
        narrow, part = flat[start : start + _CHUNK], found[start : start + _CHUNK]
        part[...] = narrow
        change = np.abs(part)
        change *= FACTOR * element_type.unit_roundoff
        change += FACTOR * element_type.smallest / 2
        change[(rounded(narrow, dtype) == narrow) | ~np.isfinite(narrow)] = 0.0
        change.view(np.uint64)[...] |= _sign_bits(narrow, element_type.unit_roundoff, seed)
        part += change
    return found.reshape(weight.shape)


def _sign_bits(weight: NDArray[np.float32], unit_roundoff: float, seed: int) -> NDArray[np.uint64]:
    """Return the sign bit of float64, set by chance, and alike for all numbers that are rounded alike."""
    dropped = round(np.log2(unit_roundoff / 2.0**-24))
    mixed = (weight.view(np.uint32) >> np.uint32(dropped - 1)).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed += np.uint64(seed + 1)
        mixed *= _MIXERS[0]
        for mixer in _MIXERS[1:]:
            mixed ^= mixed >> np.uint64(29)
            mixed *= mixer
    mixed &= _SIGN
    return mixed


def _wider(value: Value, variance: Array, is_lost: Any) -> Value:
    """Add what rounding the weights may do to the bound of a value."""
    shape = value.exact.shape
    undecided = np.broadcast_to(is_lost if value.undecided is None else value.undecided | is_lost, shape)
    if value.element_type is None:
        return replace(value, undecided=undecided | np.broadcast_to(np.asarray(variance) != 0, shape))
    bound = value.error + np.broadcast_to(np.sqrt(pooled(np.broadcast_to(variance, shape))), shape)
    if is_vacuous(bound, value.exact, ~undecided):
        return replace(value, error=np.full(shape, np.inf), undecided=undecided, rounding=bound)
    return replace(value, error=bound, undecided=undecided)
