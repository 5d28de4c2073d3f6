"""How far the outputs of a model may move where its weights are rounded to a narrower type.

Rounding a weight w changes it by at most u |w|, and by half the smallest number where it underflows. To first order an
output moves by the sum of all changes, each multiplied by the derivative of the output by that weight: for a product,
by |dW| times |x|, summed. As in `ort_ops.analysis.float64_run`, whose factor this uses, the derivatives act with their
signs: the graph is run again with perturbed weights, and what arrives at the outputs is measured. Each weight moves by
`FACTOR` times its largest change, up or down by chance; but numbers that are rounded alike, because they lie in the
same half of an interval between two numbers of the narrower type, move alike, as they do when they are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64_run import Float64Run, is_vacuous, pooled
from ort_ops.analysis.wide_model import WideModel
from ort_ops.models.narrow_weights import rounded
from ort_ops.numerics.sums import FACTOR
from ort_ops.opdef.element_types import ELEMENT_TYPES

Array = NDArray[Any]
_RUNS = 8
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
        wide = WideModel.of_proto(model, folder)
        weights = wide.weights()
        small = [tensor for tensor in wide.proto.graph.initializer if tensor.name in names]
        for tensor in small:
            weights[tensor.name] = numpy_helper.to_array(tensor).astype(np.float64)
            wide.proto.graph.initializer.remove(tensor)
            wide.proto.graph.input.append(
                helper.make_tensor_value_info(tensor.name, TensorProto.DOUBLE, list(tensor.dims))
            )
        self._weights, self._names = weights, dict(names)
        self._exact = Float64Run(wide.proto)

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Value]:
        """Return the exact outputs of the model as it is, with the bound of a right runtime of the rounded one.

        Raises: ModelError, ContractError as `Float64Run` does.
        """
        values = self._in_float64(feed).outputs
        wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in feed.items()}
        squares: dict[str, Any] = dict.fromkeys(values, 0.0)
        lost: dict[str, Any] = dict.fromkeys(values, False)
        plain = self._exact.exact({**wide, **self._weights})
        for seed in range(_RUNS):
            moved = {name: self._moved(name, weight, seed) for name, weight in self._weights.items()}
            for name, value in self._exact.exact({**wide, **moved}).items():
                with np.errstate(all="ignore"):
                    is_same = (value == plain[name]) | ((value != value) & (plain[name] != plain[name]))
                    change = np.where(is_same, 0.0, value.astype(np.float64) - plain[name].astype(np.float64))
                is_number = np.isfinite(change)
                lost[name] = lost[name] | ~is_number
                squares[name] = squares[name] + np.square(np.where(is_number, change, 0.0))
        return {name: _wider(value, squares[name] / _RUNS, lost[name]) for name, value in values.items()}

    def _moved(self, name: str, weight: Array, seed: int) -> Array:
        if name not in self._names:
            return weight
        element_type = ELEMENT_TYPES[self._names[name]]
        narrow = weight.astype(np.float32)
        size = element_type.unit_roundoff * np.abs(weight) + element_type.smallest / 2
        size = np.where((rounded(narrow, element_type.name) == narrow) | ~np.isfinite(weight), 0.0, size)
        found: Array = weight + FACTOR * size * _signs(narrow, element_type.unit_roundoff, seed)
        return found


def _signs(weight: NDArray[np.float32], unit_roundoff: float, seed: int) -> Array:
    """Return 1 or -1 for each number, by chance, and the same for all numbers that are rounded alike."""
    dropped = round(np.log2(unit_roundoff / 2.0**-24))
    with np.errstate(over="ignore"):
        mixed = (np.ascontiguousarray(weight).view(np.uint32) >> np.uint32(dropped - 1)).astype(np.uint64)
        mixed = (mixed + np.uint64(seed + 1)) * _MIXERS[0]
        for mixer in _MIXERS[1:]:
            mixed = (mixed ^ (mixed >> np.uint64(29))) * mixer
    return np.where((mixed >> np.uint64(40)) & np.uint64(1), 1.0, -1.0)


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
