"""Rewrite any ONNX graph: `adopt` makes MYLINEAR of its linear layers, `lower` standard operators of MYLINEAR.

No torch is needed. Weights are read from where they are (memory-mapped, if they lie beside the model), one at a time,
and are transposed when the file is written, never when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from ort_ops.files.atomic import check_output
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.rewrite.check import RewriteError, check_layer, check_lowered
from ort_ops.rewrite.constants import is_standard, resolve
from ort_ops.rewrite.edit import FUNCTION, Editor, constant_initializers, graphs_of, opset_of
from ort_ops.rewrite.files import read_model, write_model
from ort_ops.rewrite.lookalikes import reason_to_leave
from ort_ops.rewrite.match import match
from ort_ops.rewrite.reasons import NoMatch
from ort_ops.rewrite.report import Check, Extent, Left, Place, Rewrite, Rewritten
from ort_ops.rewrite.shapes import infer_shapes, known_shape
from ort_ops.rewrite.whole import check_whole

__all__ = ["Rewrite", "RewriteError", "adopt", "adopt_model", "lower", "lower_model"]


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


def lower(source: str | Path, target: str | Path, *, inputs: str | Path | None = None) -> Rewrite:
    """Write the model with standard operators in place of its MYLINEAR nodes, for tools that know only those.

    A node that `adopt` made becomes what it was. Any other becomes one Gemm where x is a matrix, else MatMul and Add;
    a bias of -0.0, which stands for none, is dropped. float16 and bfloat16 then round after the product and again
    after the bias, where MYLINEAR rounds once.

    Args, Raises: as `adopt`; ContractError for MYLINEAR nodes of another version or with attributes.
    """
    return _rewrite(source, target, lower_model, inputs)


def _rewrite(
    source: str | Path, target: str | Path, change: Callable[[ir.Model], Rewrite], inputs: str | Path | None = None
) -> Rewrite:
    check_output(target)
    file = read_model(source)
    model = file.load()
    result = change(model)
    result.checks.append(check_whole(file, model, result, inputs))
    result.nbytes = write_model(model, target, external=file.is_external)
    return result


def adopt_model(model: ir.Model) -> Rewrite:
    """Do what `adopt` does, in place, to a model in memory; each layer is compared, the whole model is not."""
    result, editor = _begin(model)
    with constant_initializers(model, result):
        for place, graph in graphs_of(model):
            for node in list(graph):
                _adopt_node(node, graph, place, editor, result)
        if result.rewritten:
            editor.complete()
            result.checks.append(Check(Extent.LAYERS, len(result.rewritten)))
    result.num_nodes_after = count_nodes(model)
    return result


def _adopt_node(node: ir.Node, graph: ir.Graph, place: Place, editor: Editor, result: Rewrite) -> None:
    """Put MYLINEAR in the place of the node, or note why not, if it looks like a linear layer."""
    name = node.name or node.outputs[0].name or ""
    reason = reason_to_leave(node)
    if reason is None and is_standard(node, "MatMul", "Gemm"):
        try:
            layer = match(node)
        except NoMatch as verdict:
            reason = verdict.reason
        else:
            weight, bias = editor.adopt(layer, graph)
            check_layer(layer, weight, bias, name)
            result.rewritten.append(Rewritten(name, place, layer.form, layer.weight.shape))
    if reason is not None:
        result.left.append(Left(name, place, node.domain, node.op_type, reason))


def lower_model(model: ir.Model) -> Rewrite:
    """Do what `lower` does, in place, to a model in memory."""
    result, editor = _begin(model)
    num_checked = 0
    with constant_initializers(model, result):
        for place, graph in graphs_of(model):
            for node in list(graph):
                if (node.domain, node.op_type) == FUNCTION:
                    num_checked += _lower_node(node, graph, place, editor, result)
    for identifier in [i for i in model.functions if i[:2] == FUNCTION]:
        del model.functions[identifier]
    owners: list[ir.Model | ir.Function] = [model, *model.functions.values()]
    for owner in owners:
        owner.opset_imports.pop(MYLINEAR.domain, None)
    if num_checked:
        result.checks.append(Check(Extent.LAYERS, num_checked))
    result.num_nodes_after = count_nodes(model)
    return result


def _lower_node(node: ir.Node, graph: ir.Graph, place: Place, editor: Editor, result: Rewrite) -> bool:
    """Put standard operators in the node's place, and return whether they could be compared with it by themselves."""
    name = node.name or node.outputs[0].name or ""
    weight, bias = (*node.inputs[1:], None)[:2]
    assert weight is not None
    sizes = known_shape(weight) or ()
    shape = tuple(size if isinstance(size, int) else size.value for size in sizes)
    constants = resolve(weight), resolve(bias)
    form, product, added = editor.lower(node, graph)
    result.rewritten.append(Rewritten(name, place, form, shape))
    return check_lowered(product, added, *constants, name)


def _begin(model: ir.Model) -> tuple[Rewrite, Editor]:
    check_opsets(model)
    infer_shapes(model)
    return Rewrite(num_nodes_before=count_nodes(model)), Editor(model)


def check_opsets(model: ir.Model) -> None:
    """Check the version of ONNX's own domain of the model and of its functions. Raises: ContractError."""
    owners: list[ir.Model | ir.Function] = [model, *model.functions.values()]
    for owner in owners:
        MYLINEAR.check_opset(opset_of(owner) or 0)


def count_nodes(model: ir.Model) -> int:
    """Count the nodes of all graphs and functions, but not those of the operator's own definition."""
    return sum(len(graph) for _, graph in graphs_of(model))
