"""Nodes of registered operators in onnx's reference evaluator: which operator a node is, and what it received."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from ort_ops.models.graphs import node_label
from ort_ops.opdef import registry
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.onnx_objects import node_attributes

Array = NDArray[Any]


class OperatorOp(OpRun):
    """A node of a registered operator; `make_operator_op` makes a class for each operator.

    Attributes:
        own_kit: of the operator.
        own_attributes: of the node, with defaults; those that the call of a function gives are in once it is bound.
        own_origin: the node of the model, where this one is a copy that has the attributes of a call.
    """

    op_schema = None  # onnx would look for one by the name alone
    own_kit: OperatorKit

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any], schema: Any = None) -> None:
        super().__init__(onnx_node, run_params, schema)
        self.own_attributes = node_attributes(self.own_kit.operator, onnx_node)
        self.own_origin = onnx_node

    def make_call(
        self, inputs: Sequence[Any], types: Sequence[ElementType | None], stated: Sequence[ElementType | None] = ()
    ) -> Call:
        """Make the call of what the node received.

        Args:
            inputs: arrays, or where they can be read; None for an absent one.
            types: the element type of each.
            stated: element types of the outputs, as far as the model states them.

        Raises: ContractError if the shapes break the operator's contract.
        """
        operator = self.own_kit.operator
        missing = len(operator.inputs) - len(inputs)
        inputs, types = [*inputs, *[None] * missing], [*types, *[None] * missing]
        shapes = [getattr(value, "shape", None) for value in inputs]
        operator.infer_shape(shapes, self.own_attributes)
        bound = {v.name: v.element_types[0] for v in operator.variables if len(v.dtypes) == 1}
        formal = zip((*operator.inputs, *operator.outputs), (*types, *stated), strict=False)
        bound |= {parameter.type.name: found for parameter, found in formal if found is not None}
        outputs = tuple(bool(name) for name in self.onnx_node.output)
        label = node_label(self.own_origin)
        return Call(operator, tuple(inputs), self.own_attributes, bound, label, outputs)

    def converted(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes as onnx's evaluator holds them, as Python values."""
        kinds = {attribute.name: attribute.python_type for attribute in self.own_kit.operator.attributes}
        plain = {name: _as_python(value) for name, value in attributes.items()}
        return {name: bool(value) if kinds[name] == "bool" else value for name, value in plain.items()}

    def _run(self, *inputs: Any, **attributes: Any) -> Any:
        raise NotImplementedError


def _as_python(value: Any) -> Any:
    """Return a number of NumPy's, alone or in a list, as Python's; torch would trace it as a tensor."""
    if isinstance(value, np.generic):
        return value.item()
    return [_as_python(item) for item in value] if isinstance(value, list) else value


def make_operator_op(node: onnx.NodeProto, opsets: Mapping[str, int]) -> type[OperatorOp] | None:
    """Return the class for a node of a registered operator; None for any other node.

    Args:
        opsets: versions of the domains that the model, or the function around the node, imports.
    """
    domain, name = node.domain, node.op_type
    kit = registry.find(domain, name, opsets.get(domain)) or registry.find(domain, name)
    if kit is None:
        return None
    return type(name, (OperatorOp,), {"op_domain": domain, "own_kit": kit})


def element_type_of(value: Any) -> ElementType | None:
    """Return the element type of an array; None for anything but an array of numbers."""
    return ELEMENT_TYPES.get(value.dtype.name) if isinstance(value, np.ndarray | np.generic) else None
