"""Describe a model's nodes of registered operators: inputs, outputs, attributes, element types and stored bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from ort_ops.models.graphs import Scope
from ort_ops.models.nodes import OperatorNode, operator_nodes, stated_types, with_shapes
from ort_ops.models.validation.tensors import tensor_nbytes
from ort_ops.opdef.element_types import element_type_name
from ort_ops.opdef.operator import Parameter
from ort_ops.opdef.shapes import Shape, format_shape


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a node.

    Attributes:
        value: its name in the graph.
        dtype, shape: in words; ``?`` for unknown ones.
        nbytes: stored in the model; 0 for a computed value.
        is_stored: whether the model stores it.
    """

    value: str
    dtype: str
    shape: str
    nbytes: int = 0
    is_stored: bool = False


@dataclass(frozen=True)
class NodeInfo:
    """One node of a registered operator.

    Attributes:
        operator: its domain and name.
        name: of the node, or of its output where it has none.
        where: the bodies and the function around it in words, or ``main graph``.
        inputs, outputs: by the operator's words for them; None for one that the node lacks.
        attributes: with the defaults of those that the node lacks; arrays and the like as text.
        dtypes: names of the element types by type variable; ``?`` for unknown ones.
        nbytes: of the inputs that the model stores.
    """

    operator: str
    name: str
    where: str
    inputs: dict[str, TensorInfo | None]
    outputs: dict[str, TensorInfo | None]
    attributes: dict[str, Any]
    dtypes: dict[str, str]
    nbytes: int


def describe_nodes(model: onnx.ModelProto) -> list[tuple[OperatorNode, NodeInfo]]:
    """Describe every node of a registered operator, with the shapes that can be inferred.

    Raises: ContractError for a node that breaks the contract; `check_operator_nodes` and `check_shapes` find it first.
    """
    return [(found, _describe(found)) for found in operator_nodes(with_shapes(model))]


def table(nodes: Sequence[NodeInfo], kernels: Mapping[str, str]) -> list[tuple[list[str], list[list[str]]]]:
    """Return a table of the nodes of each operator: header and rows.

    Args:
        kernels: the kernel of each operator; empty if nothing runs.
    """
    tables = []
    for op_type in dict.fromkeys(node.operator for node in nodes):
        rows = [node for node in nodes if node.operator == op_type]
        first = rows[0]
        # A column that is empty for every node is left out.
        tensors = [w for w in first.inputs if any(n.inputs[w] for n in rows)]
        results = [w for w in first.outputs if any(n.outputs[w] for n in rows)]
        attributes = dict.fromkeys(name for node in rows for name in node.attributes)  # of several versions, perhaps
        header = [
            op_type.rpartition("::")[2],
            "where",
            *tensors,
            *results,
            *attributes,
            "dtype",
            "bytes",
            "kernel",
        ]
        tables.append(
            (
                header,
                [
                    [
                        node.name,
                        node.where,
                        *[_shape(node.inputs[word]) for word in tensors],
                        *[_shape(node.outputs[word]) for word in results],
                        *[str(node.attributes.get(name, "-")) for name in attributes],
                        ", ".join(dict.fromkeys(node.dtypes.values())),
                        str(node.nbytes),
                        kernels.get(op_type, "none"),
                    ]
                    for node in rows
                ],
            )
        )
    return tables


def _shape(tensor: TensorInfo | None) -> str:
    return "none" if tensor is None else tensor.shape


def _describe(found: OperatorNode) -> NodeInfo:
    operator, scope = found.operator, found.scope
    types = stated_types(found)
    shapes = [scope.shape_of(name) if name else None for name in found.inputs]
    results = operator.infer_shape(shapes, found.attributes)
    inputs = {
        parameter.argument: _tensor(parameter, name, shape, types, scope)
        for parameter, name, shape in zip(operator.inputs, found.inputs, shapes, strict=True)
    }
    outputs = {
        parameter.argument: _tensor(parameter, name, shape, types, scope)
        for parameter, name, shape in zip(operator.outputs, found.outputs, results, strict=True)
    }
    return NodeInfo(
        operator.op_type,
        found.label,
        found.where.removeprefix("in ") or "main graph",
        inputs,
        outputs,
        {name: _plain(value) for name, value in found.attributes.items()},
        {v.name: _dtype(types.get(v.name)) for v in operator.variables},
        sum(tensor.nbytes for tensor in inputs.values() if tensor is not None),
    )


def _tensor(
    parameter: Parameter, name: str, shape: Shape | None, types: Mapping[str, int], scope: Scope
) -> TensorInfo | None:
    if not name:
        return None
    stored = scope.tensor_of(name)
    words = "?" if shape is None else format_shape(shape)
    nbytes = 0 if stored is None else tensor_nbytes(stored)
    return TensorInfo(name, _dtype(types.get(parameter.type.name)), words, nbytes, stored is not None)


def _dtype(number: int | None) -> str:
    return "?" if number is None else element_type_name(number)


def _plain(value: Any) -> Any:
    """Return an attribute's value for JSON: numbers, texts and lists of them unchanged."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else str(value)
