"""Rewrite any ONNX graph: `adopt` makes MYLINEAR of its linear layers, `lower` standard operators of MYLINEAR.

No torch is needed. Weights are read from where they are (memory-mapped, if they lie beside the model), one at a time,
and are transposed when the file is written, never when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.rewrite_check import RewriteError, check_layer, check_lowered, check_whole
from exporter.rewrite_files import read_model, write_model
from exporter.rewrite_match import Array, Computed, Constant, LinearLayer, NoMatch, is_standard, match, resolve, scale
from exporter.rewrite_report import Entry, Rewrite
from ort_ops.contract import ABSENT_BIAS, MYLINEAR
from ort_ops.files import check_output

__all__ = ["Rewrite", "RewriteError", "adopt", "adopt_model", "lower", "lower_model"]

FORM_KEY = "mylinear.adopted_from"
"""Entry of a node's metadata_props: what it was before `adopt`, so that `lower` gives the same number of nodes."""
_FUNCTION = (MYLINEAR.domain, MYLINEAR.name)


def adopt(source: str | Path, target: str | Path, *, inputs: str | Path | None = None) -> Rewrite:
    """Write the model with MYLINEAR nodes in place of its linear layers.

    MatMul, MatMul + Add and Gemm, of any rank, with weights that are constant, or computed as MYLINEAR takes them; in
    the main graph, in bodies of If, Loop and Scan and in model-local functions. What is not adopted is in the result,
    with the reason. Each adopted layer and, where it can be evaluated, the whole model are compared in float64 with
    what was there, before anything is written.

    Args:
        source: the model; its external data is read where it lies.
        target: the file to write; may be ``source``. Weights lie beside it (``<target>.data``) if they did before or
            if the model is too large for one file. Devices, FIFOs and ``-``, which is standard output, are written to.
        inputs: an .npz file with an array for each input, to compare the whole model on; None for drawn numbers.

    Raises: ModelError for a file that is no model or is damaged; RewriteError if the rewritten model would differ,
        naming the first tensor that does; OutputError.
    """
    return _rewrite(source, target, adopt_model, inputs)


def lower(source: str | Path, target: str | Path) -> Rewrite:
    """Write the model with standard operators in place of its MYLINEAR nodes, for tools that know only those.

    A node that `adopt` made becomes what it was. Any other becomes one Gemm where x is a matrix, else MatMul and Add;
    a bias of -0.0, which stands for none, is dropped. float16 and bfloat16 then round after the product and again
    after the bias, where MYLINEAR rounds once.

    Args, Raises: as `adopt`; ContractError for MYLINEAR nodes of another version or with attributes.
    """
    return _rewrite(source, target, lower_model)


def _rewrite(
    source: str | Path, target: str | Path, change: Callable[[ir.Model], Rewrite], inputs: str | Path | None = None
) -> Rewrite:
    check_output(target)
    file = read_model(source)
    model = file.load()
    result = change(model)
    result.checks.append(check_whole(file.load(), model, result, inputs))
    result.nbytes = write_model(model, target, external=file.is_external)
    return result


def adopt_model(model: ir.Model) -> Rewrite:
    """Do what `adopt` does, in place, to a model in memory; each layer is compared, the whole model is not."""
    check_opsets(model)
    result = Rewrite(num_nodes_before=count_nodes(model))
    worker = _Worker(model)
    for where, graph in graphs_of(model):
        for node in list(graph):
            if not is_standard(node, "MatMul", "Gemm"):
                continue
            name = node.name or node.outputs[0].name or ""
            try:
                layer = match(node)
            except NoMatch as reason:
                result.left.append(Entry(name, where, node.op_type, str(reason)))
                continue
            weight, bias = worker.adopt(layer, graph)
            check_layer(layer, weight, bias, name)
            shape = tuple("?" if size is None else size for size in layer.weight.shape)
            result.rewritten.append(Entry(name, where, layer.form, shape=shape))
    if result.rewritten:
        worker.complete()
        result.checks.append(f"{len(result.rewritten)} layers one by one in float64")
    result.num_nodes_after = count_nodes(model)
    return result


def lower_model(model: ir.Model) -> Rewrite:
    """Do what `lower` does, in place, to a model in memory."""
    check_opsets(model)
    result = Rewrite(num_nodes_before=count_nodes(model))
    worker, num_checked = _Worker(model), 0
    for where, graph in graphs_of(model):
        for node in list(graph):
            if (node.domain, node.op_type) == _FUNCTION:
                name = node.name or node.outputs[0].name or ""
                weight, bias = (*node.inputs[1:], None)[:2]
                assert weight is not None
                shape = () if weight.shape is None else tuple(map(str, weight.shape))
                constants = resolve(weight), resolve(bias)
                form, product, added = worker.lower(node, graph)
                num_checked += check_lowered(product, added, *constants, name)
                result.rewritten.append(Entry(name, where, form, shape=shape))
    for identifier in [i for i in model.functions if i[:2] == _FUNCTION]:
        del model.functions[identifier]
    owners: list[ir.Model | ir.Function] = [model, *model.functions.values()]
    for owner in owners:
        owner.opset_imports.pop(MYLINEAR.domain, None)
    if num_checked:
        result.checks.append(f"{num_checked} layers one by one in float64")
    result.num_nodes_after = count_nodes(model)
    return result


def graphs_of(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """Yield every graph with its name in words, functions' graphs too, but not the operator's own definition."""
    yield "main graph", model.graph
    for graph in model.graph.subgraphs():
        if graph is not model.graph:
            yield f"subgraph '{graph.name}'", graph
    for identifier, function in model.functions.items():
        if identifier[:2] == _FUNCTION:
            continue
        yield f"function '{function.name}'", function.graph
        for graph in function.subgraphs():
            if graph is not function.graph:
                yield f"subgraph '{graph.name}' of function '{function.name}'", graph


def check_opsets(model: ir.Model) -> None:
    """Check the version of ONNX's own domain of the model and of its functions. Raises: ContractError."""
    owners: list[ir.Model | ir.Function] = [model, *model.functions.values()]
    for owner in owners:
        MYLINEAR.check_opset(opset_of(owner) or 0)


def opset_of(owner: ir.Model | ir.Function) -> int | None:
    """Return the version of ONNX's own domain that a model or function imports; None for none."""
    version: int | None = owner.opset_imports.get("", owner.opset_imports.get("ai.onnx"))
    return version


def count_nodes(model: ir.Model) -> int:
    """Count the nodes of all graphs and functions, but not those of the operator's own definition."""
    return sum(len(graph) for _, graph in graphs_of(model))


class _Worker:
    """Rewrites single nodes of one model, and remembers the constants that it made, so that equal ones are shared."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._stored: dict[object, ir.Value] = {}
        self._function_graphs = {id(function.graph) for function in model.functions.values()}
        self._names = {value.name for _, graph in graphs_of(model) for value in _values_of(graph)}

    def adopt(self, layer: LinearLayer, graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
        """Put MYLINEAR where the layer stands, and return its weight and bias."""
        node = layer.node
        weight = self._value(layer.weight, layer.alpha, graph)
        bias = self._absent_bias(layer, graph) if layer.bias is None else self._value(layer.bias, layer.beta, graph)
        props = {**node.metadata_props, FORM_KEY: layer.form}
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

    def lower(self, node: ir.Node, graph: ir.Graph) -> tuple[str, ir.Node, ir.Value | None]:
        """Replace one MYLINEAR node; return the form that it took, its Gemm or MatMul, and the bias that is added."""
        x, weight, bias = (*node.inputs, None)[:3]
        assert x is not None
        assert weight is not None
        form = _form(node, x, bias)
        props = {key: value for key, value in node.metadata_props.items() if key != FORM_KEY}
        if form.startswith("Gemm"):
            inputs: list[ir.Value | None] = [x, weight, bias] if form == "Gemm+C" else [x, weight]
            product = last = _node("Gemm", inputs, node, props, {"transB": 1})
            graph.insert_before(node, last)
        else:
            product = last = _node("MatMul", [x, self._transposed(weight, node, graph)], node, props)
            graph.insert_before(node, last)
            if form == "MatMul+Add":
                value = product.outputs[0]
                value.name = self._new_name(f"{node.outputs[0].name}_product")
                value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
                last = ir.node("Add", [value, bias], name=f"{node.name}_bias" if node.name else None)
                graph.insert_before(node, last)
        old_inputs = list(node.inputs)
        _take_over(node.outputs[0], last.outputs[0])
        graph.remove(node, safe=True)
        _remove_dead(old_inputs)
        return form, product, last.inputs[-1] if form in ("Gemm+C", "MatMul+Add") else None

    def complete(self) -> None:
        """Import the operator's domain where it is used, and attach its definition for the types in use."""
        model, types = self._model, set()
        users: list[ir.Model | ir.Function] = [model, *model.functions.values()]
        for owner in users:
            nodes = [n for n in owner.graph.all_nodes() if (n.domain, n.op_type) == _FUNCTION]
            if nodes:
                owner.opset_imports[MYLINEAR.domain] = MYLINEAR.since_version
            for node in nodes:
                known = [v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.dtype is not None]
                types |= {MYLINEAR.element_type(dtype.value).name for dtype in known[:1]}
        function = ir.serde.deserialize_function(MYLINEAR.function(_opset(model), types))
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
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
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


def _form(node: ir.Node, x: ir.Value, bias: ir.Value | None) -> str:
    """What a MYLINEAR node becomes: what it was before `adopt`, or what its shape of x allows."""
    adopted_from = node.metadata_props.get(FORM_KEY)
    is_absent = bias is None or _is_absent(resolve(bias))
    if adopted_from in ("Gemm+C", "MatMul+Add") and bias is not None:
        return adopted_from
    is_gemm = adopted_from == "Gemm" if adopted_from else x.shape is not None and len(x.shape) == 2
    if is_gemm:
        return "Gemm" if is_absent else "Gemm+C"
    return "MatMul" if is_absent else "MatMul+Add"


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
    for value in values:
        if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        node, graph = value.producer(), value.graph
        if graph is None:
            continue
        if value.is_initializer():
            assert value.name is not None
            del graph.initializers[value.name]
        elif node is not None and node.graph is not None and all(not output.uses() for output in node.outputs):
            inputs = list(node.inputs)
            graph.remove(node, safe=True)
            _remove_dead(inputs)


def _values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _opset(model: ir.Model) -> int:
    version = opset_of(model)
    if version is None:
        raise RewriteError("the model imports no version of ONNX's own operators")
    return version
