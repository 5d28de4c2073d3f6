"""What proves an operator of `exporter.operator`: its exact values, the bound of a right kernel, and calls to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from exporter.definition.body import Example, ExportedBody, typed
from exporter.torch_ops.tensors import from_numpy, to_numpy
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.numerics.bound import Arithmetic, Bound
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.opdef.operator import Operator

Array = NDArray[Any]
OPSET = 20
"""Of the body that exact values are taken of."""
_MAX_RUNS = 16


def make_reference(operator: Operator, function: Callable[..., Any]) -> Callable[[Call], Sequence[Array]]:
    """Return a kit's reference, of a function of NumPy arrays: inputs by position, attributes by keyword."""

    def reference(call: Call) -> Sequence[Array]:
        wide = [a.astype(np.float64) if a is not None and _is_float(a) else a for a in call.arrays]
        with np.errstate(all="ignore"):
            result = function(*wide, **call.attributes)
        return [np.asarray(value) for value in (result if isinstance(result, tuple | list) else (result,))]

    return reference


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a torch function as one of NumPy arrays, for `make_reference`."""

    def of_arrays(*inputs: Array | None, **attributes: Any) -> list[Array]:
        with torch.no_grad():
            result = function(*(None if a is None else from_numpy(a) for a in inputs), **attributes)
        return [to_numpy(value) for value in ([result] if isinstance(result, Tensor) else result)]

    return of_arrays


class BodyProof:
    """Exact values and bounds by the function body: in float64, and by the rounding errors of its nodes.

    The body that is exported computes in the order of the torch function, in the call's own element types, so a kernel
    that computes in another order may need a bound of its own.
    """

    def __init__(self, operator: Operator, exported: ExportedBody) -> None:
        self._operator = operator
        self._exported = exported
        self._runs: dict[tuple[tuple[str, str], ...], Float64Run] = {}

    def reference(self, call: Call) -> Sequence[Array]:
        """Return the exact results."""
        wide = [a.astype(np.float64) if a is not None and _is_float(a) else a for a in call.arrays]
        return list(self._run(call).exact(self._feed(call, wide)).values())

    def bound(self, call: Call, arithmetic: Arithmetic) -> Sequence[Bound | None]:
        """Return how far the rounding errors of the body's nodes may take each result; infinite where unknown."""
        arrays = []
        for parameter, array in zip(self._operator.inputs, call.arrays, strict=True):
            dtype = helper.tensor_dtype_to_np_dtype(call.types[parameter.type.name].onnx_type)
            with np.errstate(all="ignore"):
                arrays.append(None if array is None else array.astype(dtype))
        bounds: list[Bound | None] = []
        for value in self._run(call)(self._feed(call, arrays)).outputs.values():
            relaxed = value.relaxed
            undecided = np.broadcast_to(False if value.undecided is None else value.undecided, value.exact.shape)
            if value.element_type is None and not undecided.any():
                bounds.append(None)
                continue
            error = np.where(undecided, np.inf, relaxed.error)
            bounds.append(Bound(error, undecided, undecided))
        return bounds

    def _run(self, call: Call) -> Float64Run:
        types = tuple(sorted((name, found.name) for name, found in call.types.items()))
        if types not in self._runs:
            if len(self._runs) >= _MAX_RUNS:
                self._runs.clear()
            self._runs[types] = Float64Run(self._exported.model(OPSET, dict(types)))
        return self._runs[types]

    def _feed(self, call: Call, arrays: Sequence[Array | None]) -> dict[str, Array]:
        types = {name: found.name for name, found in call.types.items()}
        return self._exported.feed(self._exported.model(OPSET, types), arrays, call.attributes)


def make_samples(
    operator: Operator, examples: Sequence[Example]
) -> Callable[[np.random.Generator, Mapping[str, ElementType]], Iterator[Call]]:
    """Return a kit's samples: the examples, each also with random numbers of their kind."""

    def samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterator[Call]:
        names = {variable.name: variable.dtypes[0] for variable in operator.variables}
        names |= {name: found.name for name, found in types.items()}
        for number, example in enumerate(examples):
            arrays = [None if t is None else to_numpy(t) for t in typed(operator, example.inputs, names)]
            yield make_call(operator, arrays, example.attributes, f"example {number}")
            mixed = [None if a is None else generator.permutation(a.ravel()).reshape(a.shape) for a in arrays]
            yield make_call(operator, mixed, example.attributes, f"example {number} in another order")

    return samples


def _is_float(array: Array) -> bool:
    found = ELEMENT_TYPES.get(array.dtype.name)
    return found is not None and found.is_floating
