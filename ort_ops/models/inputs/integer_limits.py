"""Find the integers that a graph can take: each index within its axis, followed back to the inputs of the model.

The nodes are visited once, last to first. A node that uses a value as an index limits it (Gather: from 0 to the size of
its axis - 1). A node that passes numbers on, or does simple arithmetic with them, turns the limits of its result into
limits of its inputs. Unknown values limit nothing; an index into an axis of unknown size can only be 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.models.graphs import bodies
from ort_ops.models.inputs.limit_rules import RULES
from ort_ops.models.inputs.limits import FEW, Limits, Scope
from ort_ops.models.inputs.skeleton import infer_dims

Array = NDArray[Any]
_NO_NUMBERS = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
_MAX_CONSTANT = 1 << 16  # numbers of a tensor whose values are looked at
_MICROSOFT = "com.microsoft"


class IntegerLimits:
    """Find the limits of a model's inputs. Shapes are inferred once, for all sizes of the dynamic dimensions."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.dims = infer_dims(model)
        self._constants = dict(_constants(model.graph))
        self._functions = {(f.domain, f.name): f for f in model.functions}

    def of_inputs(self, sizes: Mapping[str, int]) -> dict[str, Limits]:
        """Return the limits of each input of the main graph, with these sizes of the dynamic dimensions."""
        scope = Scope(self.dims, self._constants, sizes, self._functions)
        _visit(self._model.graph.node, scope)
        return {value.name: scope.of(value.name) for value in self._model.graph.input}


def _visit(nodes: Sequence[onnx.NodeProto], scope: Scope) -> None:
    for node in reversed(nodes):
        function = scope.functions.get((node.domain, node.op_type))
        if function is not None:
            _visit_call(node, function, scope)
        elif node.op_type in ("If", "Loop", "Scan"):
            _visit_bodies(node, scope)
        elif node.domain in ("", "ai.onnx", _MICROSOFT) and node.op_type in RULES:
            RULES[node.op_type](node, scope)


def _visit_call(node: onnx.NodeProto, function: onnx.FunctionProto, scope: Scope) -> None:
    """Visit a function once for each combination of shapes, constants and limits that it is called with."""
    inner = Scope(
        {formal: scope.dims[name] for formal, name in zip(function.input, node.input, strict=False)
         if name in scope.dims} | {k: list(a.shape) for k, a in _constants(function)},
        {formal: scope.constants[name] for formal, name in zip(function.input, node.input, strict=False)
         if name in scope.constants} | dict(_constants(function)),
        scope.sizes, scope.functions, calls=scope.calls,
    )  # fmt: skip
    for formal, name in zip(function.output, node.output, strict=False):
        inner.meet(formal, scope.of(name))
    known = [(name, tuple(inner.dims.get(name, ())), inner.of(name)) for name in (*function.input, *function.output)]
    numbers = [inner.constants[name].tobytes() for name in function.input if name in inner.constants]
    key = (function.domain, function.name, tuple(known), tuple(numbers))
    if key not in scope.calls:
        scope.calls[key] = []  # a function that calls itself, which is an error elsewhere, ends here
        _visit(function.node, inner)
        scope.calls[key] = [inner.of(formal) for formal in function.input]
    for limits, name in zip(scope.calls[key], node.input, strict=False):
        scope.meet(name, limits)


def _visit_bodies(node: onnx.NodeProto, scope: Scope) -> None:
    """Pass limits to the results of the bodies, visit them, and pass on the limits of their own inputs."""
    skipped = {"Loop": 1, "Scan": 0, "If": 0}[node.op_type]
    for _, body in bodies(node):
        for output, name in zip(list(body.output)[skipped:], node.output, strict=False):
            scope.meet(output.name, scope.of(name))
        _visit(body.node, scope)
        if node.op_type != "If":
            for value, name in zip(body.input, node.input, strict=False):
                scope.meet(name, scope.of(value.name))
    if node.op_type == "Loop" and node.input[0]:
        scope.meet(node.input[0], FEW)


def _constants(container: onnx.GraphProto | onnx.FunctionProto) -> list[tuple[str, Array]]:
    """Small stored tensors by name, those of the bodies too."""
    found = []
    if isinstance(container, onnx.GraphProto):
        found = [(tensor.name, tensor) for tensor in container.initializer]
    pending = list(container.node)
    arrays = []
    while pending:
        node = pending.pop()
        for _, body in bodies(node):
            pending += body.node
            found += [(tensor.name, tensor) for tensor in body.initializer]
        if node.op_type == "Constant" and len(node.attribute) == 1 and not node.attribute[0].ref_attr_name:
            value = helper.get_attribute_value(node.attribute[0])
            if isinstance(value, onnx.TensorProto):
                found.append((node.output[0], value))
            elif isinstance(value, int | float):
                arrays.append((node.output[0], np.asarray(value)))
    for name, tensor in found:
        is_here = tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.data_type not in _NO_NUMBERS
        if is_here and math.prod(tensor.dims) <= _MAX_CONSTANT:
            arrays.append((name, numpy_helper.to_array(tensor)))
    return arrays
