"""Put MYLINEAR into a graph in place of a linear layer. No torch."""

from __future__ import annotations

import onnx_ir as ir

from ort_ops.operators.mylinear.contract import ABSENT_BIAS, MYLINEAR
from ort_ops.operators.mylinear.patterns.layer import FORM_KEY, LinearLayer
from ort_ops.rewrite.graph.constants import Computed, Constant
from ort_ops.rewrite.graph.editor import Editor, node_like, remove_dead, take_over


def replace_layer(layer: LinearLayer, graph: ir.Graph, editor: Editor) -> tuple[ir.Value, ir.Value]:
    """Put MYLINEAR in the place of the layer, and return its weight and bias."""
    node = layer.node
    weight = _value(layer.weight, layer.alpha, graph, editor)
    bias = _bias(layer, graph, editor)
    props = {**node.metadata_props, FORM_KEY: layer.form.value}
    linear = node_like(node, MYLINEAR.name, [layer.x, weight, bias], domain=MYLINEAR.domain, metadata_props=props)
    graph.insert_before(node, linear)
    old_inputs = list(node.inputs)
    if layer.turn is not None:
        take_over(layer.turn.outputs[0], linear.outputs[0])
        for step in (layer.turn, layer.add):
            if step is not None:
                old_inputs += [v for v in step.inputs if v is None or v.producer() not in (node, layer.add)]
                graph.remove(step, safe=True)
    else:
        take_over(node.outputs[0], linear.outputs[0])
        if layer.add is not None:
            old_inputs += _remove_add(layer, layer.add, linear, graph, editor)
    graph.remove(node, safe=True)
    remove_dead(old_inputs)
    return weight, bias


def _remove_add(
    layer: LinearLayer, add: ir.Node, linear: ir.Node, graph: ir.Graph, editor: Editor
) -> list[ir.Value | None]:
    """Remove the Add of the bias, and return its other input."""
    for step in (linear, *layer.passages):  # their values include the bias now, so they get other names
        step.outputs[0].name = editor.new_name(f"{step.outputs[0].name}_biased")
        step.outputs[0].meta.clear()
    passed = layer.passages[-1].outputs[0] if layer.passages else linear.outputs[0]
    others = [value for value in add.inputs if value is not passed]
    take_over(add.outputs[0], passed)
    graph.remove(add, safe=True)
    return others


def _value(argument: Constant | Computed, factor: float, graph: ir.Graph, editor: Editor) -> ir.Value:
    if isinstance(argument, Computed):
        return argument.value
    return editor.store(argument, graph, factor=factor, name=name_of(argument, factor))


def _bias(layer: LinearLayer, graph: ir.Graph, editor: Editor) -> ir.Value:
    """Return the bias, or the -0.0 that stands for none."""
    if layer.bias is not None:
        return _value(layer.bias, layer.beta, graph, editor)
    out_features = layer.weight.shape[0]
    assert out_features is not None
    home = (None if isinstance(layer.weight, Computed) else layer.weight.source.graph) or graph
    name = f"absent_bias_{out_features}"
    return editor.store_filled([out_features], ABSENT_BIAS, layer.weight.dtype, home, name)


def name_of(constant: Constant, factor: float = 1.0) -> str:
    """Name a value made from a constant; transposed twice, it gets its old name back."""
    name = constant.source.name or "constant"
    if factor != 1.0:
        return f"{name}_scaled"
    if constant.canonical_steps != ("transpose",):
        return f"{name}_linear"
    return name.removesuffix("_transposed") if name.endswith("_transposed") else f"{name}_transposed"
