"""What proves an operator of `exporter.operator`: its exact values, the bound of a right kernel, and calls to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from exporter.definition.body import Example, typed
from exporter.torch_ops.tensors import from_numpy, to_numpy
from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64.evaluator import with_attributes
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.numerics.bound import Arithmetic, Bound
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.opdef.operator import DefinitionError, Operator
from ort_ops.opdef.shapes import format_shape

Array = NDArray[Any]
_OPSET, _IR_VERSION = 20, 9
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

    The body computes in the call's own element types, in an order of its own; a kernel that computes in another order
    may need a bound of its own.
    """

    def __init__(self, operator: Operator, function: Callable[..., Any] | None = None) -> None:
        """Take the operator's own body.

        Args:
            function: in torch, to compare a body with that was not made of it; None for one that was.
        """
        self._operator = operator
        self._function = None if function is None else make_reference(operator, in_float64(function))
        self._runs: dict[str, Float64Run] = {}

    def reference(self, call: Call) -> Sequence[Array]:
        """Return the exact results."""
        wide = [a.astype(np.float64) if a is not None and _is_float(a) else a for a in call.arrays]
        return list(self._run(call).exact(self._feed(wide)).values())

    def bound(self, call: Call, arithmetic: Arithmetic) -> Sequence[Bound | None]:
        """Return how far the rounding errors of the body's nodes may take each result; infinite where unknown.

        Raises: DefinitionError for a body that does not compute what the function does.
        """
        arrays = []
        for parameter, array in zip(self._operator.inputs, call.arrays, strict=True):
            if array is None:  # of which the body says nothing
                return unbounded(call, arithmetic)
            dtype = helper.tensor_dtype_to_np_dtype(call.types[parameter.type.name].onnx_type)
            with np.errstate(all="ignore"):
                arrays.append(array.astype(dtype))
        bounds: list[Bound | None] = []
        values = self._run(call)(self._feed(arrays)).outputs
        if self._function is not None:
            rounded = replace(call, inputs=tuple(arrays))
            self._check(rounded, list(values.values()), self._function(rounded))
        for value in values.values():
            relaxed = value.relaxed
            undecided = np.broadcast_to(False if value.undecided is None else value.undecided, value.exact.shape)
            if value.element_type is None and not undecided.any():
                bounds.append(None)
                continue
            error = np.where(undecided, np.inf, relaxed.error)
            bounds.append(Bound(error, undecided, undecided))
        return bounds

    def _check(self, call: Call, values: Sequence[Value], results: Sequence[Array]) -> None:
        """Compare the body with the function. Raises: DefinitionError."""
        for parameter, value, result in zip(self._operator.outputs, values, results, strict=True):
            comparison = value.relaxed.compare(result)
            if not comparison.is_within_bound:
                shapes = ", ".join(format_shape([*a.shape]) for a in call.arrays if a is not None)
                raise DefinitionError(
                    f"{self._operator.op_type}: the body given by body= gives another {parameter.argument} than the "
                    f"function for inputs {shapes}: {comparison.complaint}"
                )

    def _run(self, call: Call) -> Float64Run:
        types = [(name, found.name) for name, found in sorted(call.types.items())]
        key = repr((types, sorted(call.attributes.items())))
        if key not in self._runs:
            if len(self._runs) >= _MAX_RUNS:
                self._runs.clear()
            self._runs[key] = Float64Run(self._model(call))
        return self._runs[key]

    def _model(self, call: Call) -> onnx.ModelProto:
        """Return the body, with the attributes of a call, as a model."""
        operator = self._operator
        assert operator.make_body is not None
        nodes = operator.make_body(_OPSET, {name: (found,) for name, found in call.types.items()})
        inputs, outputs = (
            [helper.make_tensor_value_info(p.name, call.types[p.type.name].onnx_type, None) for p in parameters]
            for parameters in (operator.inputs, operator.outputs)
        )
        bound = [with_attributes(node, call.attributes) for node in nodes]
        graph = helper.make_graph(bound, operator.name, inputs, outputs)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)

    def _feed(self, arrays: Sequence[Array | None]) -> dict[str, Array]:
        return {p.name: a for p, a in zip(self._operator.inputs, arrays, strict=True) if a is not None}


def unbounded(call: Call, arithmetic: Arithmetic) -> list[Bound | None]:
    """Bound nothing: an operator without a body to derive a bound of, and without one of its author."""
    return [Bound(np.array(np.inf), np.array(True), np.array(True)) for _ in call.operator.outputs]


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
