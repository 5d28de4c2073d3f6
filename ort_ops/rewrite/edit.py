"""Put MYLINEAR into a graph in place of standard operators, or these in its place; constants are shared. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from ort_ops.opdef.onnx_objects import make_function
from ort_ops.operators.mylinear.contract import ABSENT_BIAS, MYLINEAR
from ort_ops.rewrite.check import RewriteError
from ort_ops.rewrite.constants import Array, Computed, Constant, rank_of, resolve, scale
from ort_ops.rewrite.match import LinearLayer
from ort_ops.rewrite.report import Form, Place, Rewrite
from ort_ops.rewrite.shapes import known_dtype

FORM_KEY = "mylinear.adopted_from"
"""Entry of a node's metadata_props: what it was before `adopt`, so that `lower` gives the same number of nodes."""
_IR_VERSION_OF_DEFAULTS = 4
"""From which on initializers need not be inputs, and are default values where they are."""
_OPSET_OF_OPTIONAL_C = 11
"""From which on a Gemm may have no C."""
FUNCTION = (MYLINEAR.domain, MYLINEAR.name)


def graphs_of(model: ir.Model) -> Iterator[tuple[Place, ir.Graph]]:
    """Yield every graph with its place, functions' graphs too, but not the operator's own definition."""
    yield Place(), model.graph
    for graph in model.graph.subgraphs():
        if graph is not model.graph:
            yield Place(subgraph=graph.name or ""), graph
    for identifier, function in model.functions.items():
        if identifier[:2] == FUNCTION:
            continue
        yield Place(function=function.name), function.graph
        for graph in function.subgraphs():
            if graph is not function.graph:
                yield Place(function=function.name, subgraph=graph.name or ""), graph


@contextmanager
def constant_initializers(model: ir.Model, result: Rewrite) -> Iterator[None]:
    """Take initializers for the constants that they are in a model of IR version 3, where each is an input as well.

    Runtimes let no caller override those. From version 4 on, an initializer that is an input can be overridden, so a
    rewritten model, which needs a newer version, does not have them as inputs. One in which nothing was rewritten
    stays as it was.
    """
    inputs, version = list(model.graph.inputs), model.ir_version
    if version < _IR_VERSION_OF_DEFAULTS:
        model.graph.inputs[:] = [value for value in inputs if not value.is_initializer()]
        model.ir_version = _IR_VERSION_OF_DEFAULTS
    yield
    if not result.rewritten and version < _IR_VERSION_OF_DEFAULTS:
        model.graph.inputs[:] = inputs
        model.ir_version = version


class Editor:
    """Rewrites single nodes of one model, and remembers the constants that it made, so that equal ones are shared."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._stored: dict[object, ir.Value] = {}
        self._function_graphs = {id(function.graph) for function in model.functions.values()}
        self._numbers: dict[str, int] = {}
        owners: list[ir.Model | ir.Function] = [model, *model.functions.values()]
        self._gemm_needs_c = any((opset_of(owner) or _OPSET_OF_OPTIONAL_C) < _OPSET_OF_OPTIONAL_C for owner in owners)
        self._names = {value.name for _, graph in graphs_of(model) for value in _values_of(graph)}

    def adopt(self, layer: LinearLayer, graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
        """Put MYLINEAR where the layer stands, and return its weight and bias."""
        node = layer.node
        weight = self._value(layer.weight, layer.alpha, graph)
        bias = self._absent_bias(layer, graph) if layer.bias is None else self._value(layer.bias, layer.beta, graph)
        props = {**node.metadata_props, FORM_KEY: layer.form.value}
        linear = _node(MYLINEAR.name, [layer.x, weight, bias], node, props, domain=MYLINEAR.domain)
        graph.insert_before(node, linear)
        old_inputs = list(node.inputs)
        if layer.turn is not None:
            _take_over(layer.turn.outputs[0], linear.outputs[0])
            for step in (layer.turn, layer.add):
                if step is not None:
                    old_inputs += [
                        value for value in step.inputs if value is None or value.producer() not in (node, layer.add)
                    ]
                    graph.remove(step, safe=True)
            graph.remove(node, safe=True)
            _remove_dead(old_inputs)
            return weight, bias
        _take_over(node.outputs[0], linear.outputs[0])
        if layer.add is not None:
            for step in (linear, *layer.passages):  # their values have the bias in them now, so they get other names
                step.outputs[0].name = self._new_name(f"{step.outputs[0].name}_biased")
                step.outputs[0].meta.clear()
            passed = layer.passages[-1].outputs[0] if layer.passages else linear.outputs[0]
            old_inputs += [value for value in layer.add.inputs if value is not passed]
            _take_over(layer.add.outputs[0], passed)
            graph.remove(layer.add, safe=True)
        graph.remove(node, safe=True)
        _remove_dead(old_inputs)
        return weight, bias

    def lower(self, node: ir.Node, graph: ir.Graph) -> tuple[Form, ir.Node, ir.Value | None]:
        """Replace one MYLINEAR node; return the form that it took, its Gemm or MatMul, and the bias that is added."""
        x, weight, bias = (*node.inputs, None)[:3]
        assert x is not None
        assert weight is not None
        form = _form(node, x, bias, gemm_needs_c=self._gemm_needs_c)
        props = {key: value for key, value in node.metadata_props.items() if key != FORM_KEY}
        if form.is_gemm:
            inputs: list[ir.Value | None] = [x, weight, bias] if form.has_bias else [x, weight]
            product = last = _node("Gemm", inputs, node, props, {"transB": 1})
            graph.insert_before(node, last)
        else:
            product = last = _node("MatMul", [x, self._transposed(weight, node, graph)], node, props)
            graph.insert_before(node, last)
            if form.has_bias:
                value = product.outputs[0]
                value.name = self._new_name(f"{node.outputs[0].name}_product")
                value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
                last = ir.node("Add", [value, bias], name=f"{node.name}_bias" if node.name else None)
                graph.insert_before(node, last)
        old_inputs = list(node.inputs)
        _take_over(node.outputs[0], last.outputs[0])
        graph.remove(node, safe=True)
        _remove_dead(old_inputs)
        return form, product, last.inputs[-1] if form.has_bias else None

    def complete(self) -> None:
        """Import the operator's domain where it is used, and attach its definition for the types in use."""
        model, types = self._model, set()
        users: list[ir.Model | ir.Function] = [model, *model.functions.values()]
        for owner in users:
            nodes = [n for n in owner.graph.all_nodes() if (n.domain, n.op_type) == FUNCTION]
            if nodes:
                owner.opset_imports[MYLINEAR.domain] = MYLINEAR.since_version
            for node in nodes:
                values = [value for value in (*node.inputs, *node.outputs) if value is not None]
                known = [dtype for dtype in map(known_dtype, values) if dtype is not None]
                types |= {MYLINEAR.element_type(dtype.value).name for dtype in known[:1]}
        opset = opset_of(model)
        if opset is None:
            raise RewriteError("the model imports no version of ONNX's own operators")
        function = ir.serde.deserialize_function(make_function(MYLINEAR, opset, types))
        others = list(model.functions.items())
        model.functions.clear()
        model.functions[function.identifier()] = function  # before its users: some evaluators want that
        model.functions.update(others)
        model.opset_imports[MYLINEAR.domain] = MYLINEAR.since_version
        model.ir_version = max(model.ir_version, 8)  # model-local functions came with IR version 8

    def _transposed(self, weight: ir.Value, node: ir.Node, graph: ir.Graph) -> ir.Value:
        constant = resolve(weight)
        if constant is not None:
            return self._store(constant.then("transpose", np.transpose), 1.0, graph)
        transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
        graph.insert_before(node, transpose)
        transpose.outputs[0].name = self._new_name(f"{weight.name}_transposed")
        return transpose.outputs[0]

    def _value(self, argument: Constant | Computed, factor: float, graph: ir.Graph) -> ir.Value:
        return argument.value if isinstance(argument, Computed) else self._store(argument, factor, graph)

    def _store(self, constant: Constant, factor: float, graph: ir.Graph) -> ir.Value:
        """Return a value that holds the constant times the factor; the same one for the same constant."""
        source = constant.source
        if factor == 1.0 and constant.is_unchanged and source.is_initializer():
            return source
        home = source.graph or graph
        key = (id(source), constant.canonical_steps, factor)
        if key not in self._stored:
            name = self._new_name(_name_of(source, constant, factor))
            tensor = ir.LazyTensor(
                lambda: ir.Tensor(np.ascontiguousarray(scale(constant.array(), factor)), name=name),
                constant.dtype,
                ir.Shape(constant.shape),
                name=name,
            )
            self._stored[key] = self._keep(tensor, name, home)
        return self._stored[key]

    def _absent_bias(self, layer: LinearLayer, graph: ir.Graph) -> ir.Value:
        out_features, dtype = layer.weight.shape[0], layer.weight.dtype
        home = (None if isinstance(layer.weight, Computed) else layer.weight.source.graph) or graph
        assert out_features is not None
        key = (out_features, dtype, id(home))
        if key not in self._stored:
            name = self._new_name(f"absent_bias_{out_features}")
            array: Array = np.full(out_features, ABSENT_BIAS, dtype.numpy())
            self._stored[key] = self._keep(ir.Tensor(array, dtype=dtype, name=name), name, home)
        return self._stored[key]

    def _keep(self, tensor: ir.TensorProtocol, name: str, home: ir.Graph) -> ir.Value:
        """Put a tensor into the graph: as an initializer, or in a function, which has none, as a Constant node."""
        if id(home) in self._function_graphs:
            constant = ir.node("Constant", [], {"value": ir.AttrTensor("value", tensor)})
            value = constant.outputs[0]
            home.insert_before(home[0], constant)
        else:
            value = ir.Value()
        value.name, value.const_value = name, tensor
        value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        if value.producer() is None:
            home.register_initializer(value)
        return value

    def _new_name(self, wanted: str) -> str:
        name, number = wanted, self._numbers.get(wanted, 1)
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._numbers[wanted] = number
        self._names.add(name)
        return name


def _name_of(source: ir.Value, constant: Constant, factor: float) -> str:
    """Name what was made of a constant; transposed twice it has its old name again."""
    name = source.name or "constant"
    if factor != 1.0:
        return f"{name}_scaled"
    if constant.canonical_steps != ("transpose",):
        return f"{name}_linear"
    return name.removesuffix("_transposed") if name.endswith("_transposed") else f"{name}_transposed"


def _form(node: ir.Node, x: ir.Value, bias: ir.Value | None, *, gemm_needs_c: bool) -> Form:
    """What a MYLINEAR node becomes: what it was before `adopt`, or what its shape of x allows."""
    written = node.metadata_props.get(FORM_KEY)
    adopted_from = next((form for form in Form if form.value == written), None)
    rank = rank_of(x)
    is_gemm = rank in (2, None) and (rank == 2 if adopted_from is None else adopted_from.is_gemm)
    has_bias = bias is not None and (
        (adopted_from is not None and adopted_from.has_bias) or not _is_absent(resolve(bias))
    )
    if is_gemm and gemm_needs_c and not has_bias:  # the -0.0 of an absent bias stays, or there is nothing to give
        return Form.GEMM_C if bias is not None else Form.MATMUL
    if is_gemm:
        return Form.GEMM_C if has_bias else Form.GEMM
    return Form.MATMUL_ADD if has_bias else Form.MATMUL


def _is_absent(bias: Constant | None) -> bool:
    """Whether the bias is the -0.0 that stands for none."""
    if bias is None:
        return False
    array = bias.array().astype(np.float64)
    return bool(np.all((array == ABSENT_BIAS) & np.signbit(array)))


def _node(
    op_type: str,
    inputs: list[ir.Value | None],
    like: ir.Node,
    metadata_props: dict[str, str],
    attributes: dict[str, int] | None = None,
    domain: str = "",
) -> ir.Node:
    """Make a node that carries the name and the doc string of another."""
    return ir.node(
        op_type,
        inputs,
        attributes,
        domain=domain,
        name=like.name,
        doc_string=like.doc_string,
        metadata_props=metadata_props,
    )


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` stand wherever ``old`` stood, under its name and with all that is known of it."""
    new.name, old.name = old.name, None
    new.type, new.shape = old.type or new.type, old.shape or new.shape
    new.doc_string = old.doc_string
    new.meta.update(old.meta)  # quantisation annotations
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _remove_dead(values: list[ir.Value | None]) -> None:
    """Remove constants that nobody needs any more, and what computed them."""
    pending = list(values)
    while pending:
        value = pending.pop()
        if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        node, graph = value.producer(), value.graph
        if graph is None:
            continue
        if value.is_initializer():
            assert value.name is not None
            del graph.initializers[value.name]
        elif node is not None and node.graph is not None and not any(_is_needed(output) for output in node.outputs):
            pending += node.inputs
            graph.remove(node, safe=True)


def _is_needed(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def opset_of(owner: ir.Model | ir.Function) -> int | None:
    """Return the version of ONNX's own domain that a model or function imports; None for none."""
    version: int | None = owner.opset_imports.get("", owner.opset_imports.get("ai.onnx"))
    return version
