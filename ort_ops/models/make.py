"""Make models of one node, to try an operator by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.models.complete import complete_inputs
from ort_ops.models.nodes import attach_functions
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.onnx_objects import make_node
from ort_ops.opdef.operator import Operator

# The newest that onnxruntime 1.17 loads.
_OPSET, _IR_VERSION = 20, 9


def make_model(
    operator: Operator,
    inputs: Sequence[NDArray[Any] | Sequence[int | str] | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    types: Mapping[str, str] | None = None,
    outputs: Sequence[bool] = (),
    name: str = "node",
    with_function: bool = True,
) -> onnx.ModelProto:
    """Make a model of one node of an operator.

    Args:
        inputs: for each input, an array, which the model stores; a shape, which makes it an input of the model (a name
            for a dynamic dimension); or None for an absent one.
        attributes: of the node.
        types: names of the element types by type variable; those of stored arrays need not be named.
        outputs: which outputs the node has; empty for all.
        name: of the node.
        with_function: whether to complete the model as an exported one is: with all inputs and the function body.

    The values have the operator's words for its inputs and outputs as names.
    Raises: ContractError for an attribute or an element type that the operator does not have.
    """
    bound = {v.name: v.dtypes[0] for v in operator.variables if len(v.dtypes) == 1} | dict(types or {})
    for parameter, value in zip(operator.inputs, inputs, strict=False):
        if isinstance(value, np.ndarray):
            bound.setdefault(parameter.type.name, value.dtype.name)
    names, values, initializers, shapes = [], [], [], []
    for parameter, value in zip(operator.inputs, inputs, strict=False):
        names.append("" if value is None else parameter.argument)
        shapes.append(None if value is None else [*value.shape] if isinstance(value, np.ndarray) else [*value])
        if isinstance(value, np.ndarray):
            initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), parameter.argument))
        elif value is not None:
            values.append(_value(parameter.argument, bound[parameter.type.name], value))
    given = zip(operator.inputs, shapes, strict=False)
    operator.bind([None if shape is None else bound[parameter.type.name] for parameter, shape in given])
    while names and not names[-1]:
        names.pop()
    results = operator.infer_shape(
        [*shapes, *[None] * (len(operator.inputs) - len(shapes))], operator.defaults | dict(attributes or {})
    )
    has_output = list(outputs) or [True] * len(operator.outputs)
    output_names = [p.argument if is_there else "" for p, is_there in zip(operator.outputs, has_output, strict=False)]
    graph = helper.make_graph(
        [make_node(operator, names, output_names, name, **(attributes or {}))],
        f"one_{operator.name}",
        values,
        [
            _value(output.argument, bound[output.type.name], shape)
            for output, shape, is_there in zip(operator.outputs, results, [*has_output, *[False] * 9], strict=False)
            if is_there
        ],
        initializers,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(operator.domain, operator.since_version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    if with_function:
        complete_inputs(model)
        attach_functions(model)
    return model


def _value(name: str, element_type: str, shape: Sequence[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[element_type].onnx_type, shape)
