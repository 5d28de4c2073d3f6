"""Make a float64 copy of a model, to separate what it computes from how it rounds. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ort_ops.models.nodes import domain_version, types_by_operator
from ort_ops.opdef import registry
from ort_ops.opdef.onnx_objects import make_function

_NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
FLOATS = _NARROW | {TensorProto.DOUBLE}
"""The element types that are widened, and float64 itself."""
_STANDARD = ("", "ai.onnx")
_DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "softmax_precision"})
"""Attributes of ONNX's own operators that hold an element type."""
_FLOAT_BY_DEFAULT = {
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "SequenceEmpty": "dtype",
    "HannWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
}
"""Operators that give float32 unless an attribute says otherwise."""
FunctionKey = tuple[str, str, str]


def widen_to_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every floating-point tensor is float64: stored ones, attributes, and declared types.

    In bodies and model-local functions too, also where a function passes an element type or a number on from its
    call. The definition of a registered operator becomes that for float64, where it has one. Some operators, such as
    Resize, take float32 only: evaluators that check types refuse the copy of a model that has them. As onnx's own
    evaluator wants it, functions come after those that they call, and calls say what a function has defaults for.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for function in wide.functions:
        _widen_definition(model, function)
    _write_defaults(wide)
    _order_functions(wide)
    widener = _Widener(_passed_dtypes(wide))
    widener.widen_graph(wide.graph)
    for function in wide.functions:
        widener.widen_function(function)
    return wide


def _widen_definition(model: onnx.ModelProto, function: onnx.FunctionProto) -> None:
    """Replace the definition of a registered operator by that for float64, where the operator takes float64."""
    kit = registry.find(function.domain, function.name, domain_version(model, function.domain) or None)
    if kit is None or kit.operator.make_body is None:
        return
    operator = kit.operator
    floating = [v for v in operator.variables if any(t.is_floating for t in v.element_types)]
    if not all("float64" in variable.dtypes for variable in floating):
        return
    types = {variable.name: {"float64"} for variable in floating}
    if len(floating) < len(operator.variables):
        types = types_by_operator(model).get(operator.key, {}) | types
    function.CopyFrom(make_function(operator, domain_version(function, ""), types))


def _key(function: onnx.FunctionProto) -> FunctionKey:
    return function.domain, function.name, function.overload


def _write_defaults(model: onnx.ModelProto) -> None:
    """Give each call of a function the attributes that it leaves to their defaults, which onnx's evaluator ignores."""
    defaults = {_key(function): function.attribute_proto for function in model.functions if function.attribute_proto}
    if not defaults:
        return
    for owner in (model.graph, *model.functions):
        for node in _nodes_of(owner.node):
            given = {attribute.name for attribute in node.attribute}
            of_function = defaults.get((node.domain, node.op_type, node.overload), ())
            node.attribute.extend(default for default in of_function if default.name not in given)


def _order_functions(model: onnx.ModelProto) -> None:
    """Put each function after those that it calls."""
    functions = {_key(function): function for function in model.functions}
    ordered: dict[FunctionKey, onnx.FunctionProto] = {}
    entered: set[FunctionKey] = set()

    def place(key: FunctionKey) -> None:
        entered.add(key)
        for node in _nodes_of(functions[key].node):
            called = (node.domain, node.op_type, node.overload)
            if called in functions and called not in entered:
                place(called)
        ordered[key] = functions[key]

    for key in functions:
        if key not in entered:
            place(key)
    if list(ordered) != list(functions):
        copies = [function.SerializeToString() for function in ordered.values()]
        del model.functions[:]
        model.functions.extend(onnx.FunctionProto.FromString(copy) for copy in copies)


def _passed_dtypes(model: onnx.ModelProto) -> Mapping[FunctionKey, Set[str]]:
    """Return, for each function, its own attributes that end as an element type of an operator within it."""
    passed: dict[FunctionKey, set[str]] = {_key(function): set() for function in model.functions}
    is_changed = True
    while is_changed:  # through functions that call functions
        is_changed = False
        for function in model.functions:
            own = passed[_key(function)]
            for node in _nodes_of(function.node):
                holds_dtype = _dtype_attributes(node, passed)
                new = {a.ref_attr_name for a in node.attribute if a.ref_attr_name and a.name in holds_dtype} - own
                own |= new
                is_changed |= bool(new)
    return passed


def _dtype_attributes(node: onnx.NodeProto, passed: Mapping[FunctionKey, Set[str]]) -> Set[str]:
    """Return the names of the node's attributes that hold an element type."""
    of_function: Set[str] | None = passed.get((node.domain, node.op_type, node.overload))
    if of_function is not None:
        return of_function
    return _DTYPE_ATTRIBUTES if node.domain in _STANDARD else frozenset()


def _nodes_of(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in _graphs_of(attribute):
                yield from _nodes_of(graph.node)


def _graphs_of(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


class _Widener:
    """Widen graphs and functions in place; ``passed`` is the result of `_passed_dtypes`."""

    def __init__(self, passed: Mapping[FunctionKey, Set[str]]) -> None:
        self._passed = passed

    def widen_graph(self, graph: onnx.GraphProto) -> None:
        for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
            _widen_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type)
        self._widen_nodes(graph.node)

    def widen_function(self, function: onnx.FunctionProto) -> None:
        for value in function.value_info:
            _widen_type(value.type)
        for attribute in function.attribute_proto:
            self._widen_attribute(attribute, attribute.name in self._passed[_key(function)])
        self._widen_nodes(function.node)

    def _widen_nodes(self, nodes: Any) -> None:
        casts = []
        for index, node in enumerate(nodes):
            holds_dtype = _dtype_attributes(node, self._passed)
            for attribute in node.attribute:
                self._widen_attribute(attribute, attribute.name in holds_dtype)
            if node.domain in _STANDARD:
                _widen_default(node)
                if node.op_type == "Constant" and _is_passed_number(node):
                    casts.append((index + 1, _cast_of(node)))
        for index, cast in reversed(casts):
            nodes.insert(index, cast)

    def _widen_attribute(self, attribute: onnx.AttributeProto, holds_dtype: bool) -> None:
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)
        if attribute.HasField("sparse_tensor"):
            _widen_tensor(attribute.sparse_tensor.values)
        if attribute.HasField("tp"):
            _widen_type(attribute.tp)
        for tensor in (*attribute.tensors, *(sparse.values for sparse in attribute.sparse_tensors)):
            _widen_tensor(tensor)
        for type_proto in attribute.type_protos:
            _widen_type(type_proto)
        for graph in _graphs_of(attribute):
            self.widen_graph(graph)
        if holds_dtype and attribute.i in _NARROW:
            attribute.i = TensorProto.DOUBLE


def _widen_default(node: onnx.NodeProto) -> None:
    """Make float64 of numbers that are float32 by default."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "ConstantOfShape" and not given:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    elif node.op_type in _FLOAT_BY_DEFAULT and _FLOAT_BY_DEFAULT[node.op_type] not in given:
        node.attribute.append(helper.make_attribute(_FLOAT_BY_DEFAULT[node.op_type], int(TensorProto.DOUBLE)))
    elif node.op_type == "Constant":
        for name in ("value_float", "value_floats"):
            if name in given and not given[name].ref_attr_name:
                number = given[name].f if name == "value_float" else given[name].floats
                del node.attribute[:]
                array = np.array(number, np.float64)
                node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))


def _is_passed_number(node: onnx.NodeProto) -> bool:
    """Whether a Constant's number is an attribute of the function around it, which is float32 by definition."""
    return any(a.ref_attr_name and a.type in (AttributeProto.FLOAT, AttributeProto.FLOATS) for a in node.attribute)


def _cast_of(node: onnx.NodeProto) -> onnx.NodeProto:
    """Rename the node's output, and return the Cast to float64 that stands for it."""
    name = node.output[0]
    node.output[0] = f"{name}_float32"
    return helper.make_node("Cast", [node.output[0]], [name], to=int(TensorProto.DOUBLE))


def _widen_type(type_proto: onnx.TypeProto) -> None:
    kind = type_proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        tensor_type = getattr(type_proto, kind)
        if tensor_type.elem_type in _NARROW:
            tensor_type.elem_type = TensorProto.DOUBLE
    elif kind in ("sequence_type", "optional_type"):
        _widen_type(getattr(type_proto, kind).elem_type)
    elif kind == "map_type":
        _widen_type(type_proto.map_type.value_type)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name))
