"""Make calls for one node: drawn ones where nothing reaches it, edge values, and other element types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from exporter.verification.inputs import edge_patterns
from ort_ops.analysis.rows import rows_index, with_input
from ort_ops.models.graphs import all_nodes
from ort_ops.models.inputs.skeleton import Dims
from ort_ops.models.nodes import OperatorNode
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import ContractError

Array = NDArray[Any]
Types = Mapping[str, ElementType]
_MOST_SAMPLES = 12


def dtype_of(element_type: ElementType) -> np.dtype[Any]:
    """Return NumPy's dtype for an element type."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type.onnx_type))


def rounded(array: Array, element_type: ElementType) -> Array:
    """Return the numbers in an element type; the array itself where it has that type."""
    with np.errstate(all="ignore"):
        return array.astype(dtype_of(element_type), copy=False)


def in_type(call: Call, element_type: ElementType | None) -> Types | None:
    """Return the call's element types with another one for floating-point numbers; None for its own.

    Returns: None where no type variable of the operator takes that element type, or it does not go with the others.
    """
    if element_type is None:
        return call.types
    variables = [v for v in call.operator.variables if element_type.name in v.dtypes and _is_floating(call, v.name)]
    types = {**call.types, **{v.name: element_type for v in variables}}
    allowed = call.operator.allowed
    fits = not allowed or tuple(types[v.name].name for v in call.operator.variables if v.name in types) in allowed
    return types if variables and fits else None


def _is_floating(call: Call, variable: str) -> bool:
    known = call.types.get(variable)
    return known is not None and known.is_floating


def edge_call(kit: OperatorKit, call: Call) -> Call | None:
    """Return the call with edge values in an input that the model computes; None if it has no such input.

    The input whose rows are computed by themselves gets a row of each kind. Where an operator has no such input, the
    first floating-point one that the model does not store is filled with all of them in turn.
    """
    index = rows_index(kit)
    if index is None:
        for i, (parameter, value) in enumerate(zip(call.operator.inputs, call.inputs, strict=False)):
            if isinstance(value, np.ndarray) and value.size and _is_floating(call, parameter.type.name):
                patterns = edge_patterns(call.types[parameter.type.name])
                numbers = np.concatenate([np.array(pattern) for pattern in patterns])
                return with_input(call, i, np.resize(numbers, value.shape))
        return None
    parameter, values = call.operator.inputs[index], call.array(index)
    if values is None or not _is_floating(call, parameter.type.name):
        return None
    patterns = edge_patterns(call.types[parameter.type.name])
    return with_input(call, index, np.array([np.resize(pattern, values.shape[-1]) for pattern in patterns]))


class NodeDrawer:
    """Draw what a node may receive, where the model was not run or did not reach it."""

    def __init__(self, model: onnx.ModelProto, dims: Mapping[str, Dims], seed: int) -> None:
        self._dims = dims
        self._seed = seed
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in all_nodes(model):
            for attribute in node.attribute:
                self._stored.update((tensor.name, tensor) for tensor in attribute.g.initializer)
                for graph in attribute.graphs:
                    self._stored.update((tensor.name, tensor) for tensor in graph.initializer)
                if node.op_type == "Constant" and attribute.name == "value":
                    self._stored[node.output[0]] = attribute.t

    def draw(self, found: OperatorNode, types: Types, sizes: Sequence[int]) -> list[Call] | tuple[str, ...]:
        """Return calls with the stored inputs, and normal numbers or small integers for the computed ones.

        If the shape of an input is not known, take those of the operator's own samples that agree with the stored
        inputs and the node's attributes.

        Returns: the word for the first input that cannot be drawn, if nothing can.
        """
        unknown = [
            parameter.argument
            for i, (parameter, name) in enumerate(zip(found.operator.inputs, found.inputs, strict=True))
            if name and i != rows_index(found.kit) and not self._can_draw(name, found)
        ]
        calls = [] if unknown else [call for size in sizes if (call := self._call(found, types, size)) is not None]
        return calls or self._samples(found, types) or tuple(unknown[:1]) or (found.operator.inputs[0].argument,)

    def _call(self, found: OperatorNode, types: Types, size: int) -> Call | None:
        rng = np.random.default_rng(self._seed)
        arrays: list[Array | None] = []
        rows = rows_index(found.kit)
        for i, (parameter, name) in enumerate(zip(found.operator.inputs, found.inputs, strict=True)):
            arrays.append(None if not name or i == rows else self._array(name, types[parameter.type.name], size, rng))
        if rows is not None:
            last = self._row_length(found, arrays, rows)
            if last is None:
                return None
            arrays[rows] = _drawn(types[found.operator.inputs[rows].type.name], (size, last), rng)
        return self._checked(found, arrays, types)

    def _row_length(self, found: OperatorNode, arrays: list[Array | None], rows: int) -> int | None:
        """Return the length of a row that the model states, or the only small one that the contract accepts."""
        dims = self._dims.get(found.inputs[rows])
        last = dims[-1] if dims else None
        if isinstance(last, int):
            return int(last)
        shapes = [None if a is None else a.shape for a in arrays]
        sizes: set[int] = {size for array in arrays if array is not None for size in array.shape}
        for length in sorted(sizes):
            shapes[rows] = (1, length)
            try:
                found.operator.infer_shape(shapes, found.attributes)
            except ContractError:
                continue
            return length
        return None

    def _checked(self, found: OperatorNode, arrays: Sequence[Array | None], types: Types) -> Call | None:
        shapes = [None if a is None else a.shape for a in arrays]
        try:
            found.operator.infer_shape(shapes, found.attributes)
        except ContractError:  # drawn shapes need not fit
            return None
        outputs = tuple(map(bool, found.outputs))
        return Call(found.operator, tuple(arrays), found.attributes, types, found.path, outputs)

    def _samples(self, found: OperatorNode, types: Types) -> list[Call]:
        calls = []
        for sample in found.kit.samples(np.random.default_rng(self._seed), types):
            arrays = [
                None if not name else self._tensor(name) if name in self._stored else sample.array(i)
                for i, name in enumerate(found.inputs)
            ]
            is_complete = all(
                (array is None) is not bool(name) for array, name in zip(arrays, found.inputs, strict=True)
            )
            call = self._checked(found, arrays, types) if is_complete and not self._is_formal(found) else None
            if call is not None:
                calls.append(replace(call, inputs=tuple(_in_types(call, arrays))))
        return calls[:_MOST_SAMPLES]

    def _is_formal(self, found: OperatorNode) -> bool:
        """Whether a stored tensor's name may mean something else: the input of a function."""
        container = found.container
        return isinstance(container, onnx.FunctionProto) and any(n in container.input for n in found.inputs if n)

    def _can_draw(self, name: str, found: OperatorNode) -> bool:
        if isinstance(found.container, onnx.FunctionProto) and name in found.container.input:
            return False
        if name in self._stored:
            return True
        dims = self._dims.get(name)
        return dims is not None and all(isinstance(dim, int) for dim in dims[1:] if dim is not None)

    def _array(self, name: str, element_type: ElementType, size: int, rng: np.random.Generator) -> Array:
        if name in self._stored:
            return self._tensor(name)
        shape = [dim if isinstance(dim, int) else size for dim in self._dims[name] or ()]
        return _drawn(element_type, shape, rng)

    def _tensor(self, name: str) -> Array:
        return numpy_helper.to_array(self._stored[name])


def _in_types(call: Call, arrays: Sequence[Array | None]) -> list[Array | None]:
    types = [call.types[parameter.type.name] for parameter in call.operator.inputs]
    return [None if a is None else rounded(a, t) for a, t in zip(arrays, types, strict=True)]


def _drawn(element_type: ElementType, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Return normal numbers in float64, to be rounded later; or small integers of the type."""
    if element_type.is_floating:
        return rng.standard_normal(tuple(shape))
    low = 0 if element_type.name == "bool" or element_type.name.startswith("uint") else -3
    return rng.integers(low, 2 if element_type.name == "bool" else 4, tuple(shape)).astype(dtype_of(element_type))
