"""Put Gemm, or MatMul and Add, into a graph in place of MYLINEAR. No torch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ort_ops.operators.mylinear.contract import ABSENT_BIAS
from ort_ops.operators.mylinear.patterns.check import check_lowered
from ort_ops.operators.mylinear.patterns.layer import FORM_KEY, Form
from ort_ops.operators.mylinear.patterns.replace import name_of
from ort_ops.rewrite.graph.constants import Constant, rank_of
from ort_ops.rewrite.graph.editor import Editor, node_like, remove_dead, take_over
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.graph.shapes import known_shape
from ort_ops.rewrite.pattern import Change

_OPSET_OF_OPTIONAL_C = 11
"""The first opset in which a Gemm may have no C."""


def lower_node(node: ir.Node, graph: ir.Graph, editor: Editor) -> Change:
    """Replace one MYLINEAR node, and compare the result if its weight is a constant.

    A node that `adopt` made becomes what it was. Any other becomes one Gemm if x is a matrix, otherwise MatMul and Add;
    a bias of -0.0, which stands for none, is dropped. float16 and bfloat16 then round after the product and again
    after the bias, where MYLINEAR rounds once.
    """
    weight, bias = (*node.inputs[1:], None)[:2]
    assert weight is not None
    sizes = known_shape(weight) or ()
    shape = tuple(size if isinstance(size, int) else size.value for size in sizes)
    name = node.name or node.outputs[0].name or ""
    constants = resolve(weight), resolve(bias)
    form, product, added = _replace(node, graph, editor)
    return Change(form.value, shape, check_lowered(product, added, *constants, name))


def _replace(node: ir.Node, graph: ir.Graph, editor: Editor) -> tuple[Form, ir.Node, ir.Value | None]:
    """Replace the node; return its new form, the Gemm or MatMul, and the bias that is added."""
    x, weight, bias = (*node.inputs, None)[:3]
    assert x is not None
    assert weight is not None
    gemm_needs_c = any((opset or _OPSET_OF_OPTIONAL_C) < _OPSET_OF_OPTIONAL_C for opset in editor.opsets)
    form = _form(node, x, bias, gemm_needs_c=gemm_needs_c)
    props = {key: value for key, value in node.metadata_props.items() if key != FORM_KEY}
    if form.is_gemm:
        inputs: list[ir.Value | None] = [x, weight, bias] if form.has_bias else [x, weight]
        product = last = node_like(node, "Gemm", inputs, {"transB": 1}, metadata_props=props)
        graph.insert_before(node, last)
    else:
        transposed = _transposed(weight, node, graph, editor)
        product = last = node_like(node, "MatMul", [x, transposed], metadata_props=props)
        graph.insert_before(node, last)
        if form.has_bias:
            value = product.outputs[0]
            value.name = editor.new_name(f"{node.outputs[0].name}_product")
            value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
            last = ir.node("Add", [value, bias], name=f"{node.name}_bias" if node.name else None)
            graph.insert_before(node, last)
    old_inputs = list(node.inputs)
    take_over(node.outputs[0], last.outputs[0])
    graph.remove(node, safe=True)
    remove_dead(old_inputs)
    return form, product, last.inputs[-1] if form.has_bias else None


def _transposed(weight: ir.Value, node: ir.Node, graph: ir.Graph, editor: Editor) -> ir.Value:
    constant = resolve(weight)
    if constant is not None:
        turned = constant.then("transpose", np.transpose)
        return editor.store(turned, graph, name=name_of(turned))
    transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
    graph.insert_before(node, transpose)
    transpose.outputs[0].name = editor.new_name(f"{weight.name}_transposed")
    return transpose.outputs[0]


def _form(node: ir.Node, x: ir.Value, bias: ir.Value | None, *, gemm_needs_c: bool) -> Form:
    """Return the form for a MYLINEAR node: the one before `adopt`, or one that the shape of x allows."""
    written = node.metadata_props.get(FORM_KEY)
    adopted_from = next((form for form in Form if form.value == written), None)
    rank = rank_of(x)
    is_gemm = rank in (2, None) and (rank == 2 if adopted_from is None else adopted_from.is_gemm)
    has_bias = bias is not None and (
        (adopted_from is not None and adopted_from.has_bias) or not _is_absent(resolve(bias))
    )
    if is_gemm and gemm_needs_c and not has_bias:  # the -0.0 of an absent bias stays, or there is no bias to pass
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
