"""Put operators into a model in memory, in place of what their patterns find. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ort_ops.opdef.kit import OperatorKit
from ort_ops.rewrite.choices import Choices
from ort_ops.rewrite.graph.editor import Editor
from ort_ops.rewrite.graph.shapes import infer_shapes
from ort_ops.rewrite.graph.walk import constant_initializers, count_nodes, graphs_of, opset_of, owners_of
from ort_ops.rewrite.pattern import Pattern
from ort_ops.rewrite.reasons import NoMatch, Reason
from ort_ops.rewrite.report import Check, Extent, Left, LeftOut, Place, Rewrite, Rewritten
from ort_ops.rewrite.selection import select


def adopt_model(model: ir.Model, operators: Sequence[str] | None = None) -> Rewrite:
    """Do what `ort_ops.rewrite.adopt` does, in place; compare nodes one by one, but not the whole model."""
    result = Rewrite(num_nodes_before=count_nodes(model))
    kits = [kit for kit in select(operators) if kit.patterns is not None]
    if operators is None:
        kits = _without_newer(model, kits, result)
    patterns = [(kit, pattern) for kit in kits if kit.patterns is not None for pattern in kit.patterns()]
    return _apply(model, patterns, result)


def change_adopted(model: ir.Model, choices: Choices, operators: Sequence[str] | None = None) -> Rewrite:
    """Do in place what a user asked for beyond `adopt_model`, which went before; compare as that does."""
    kits = [kit for kit in select(operators) if kit.optional_patterns is not None]
    patterns = [(kit, p) for kit in kits if kit.optional_patterns is not None for p in kit.optional_patterns(choices)]
    return _apply(model, patterns, Rewrite(num_nodes_before=count_nodes(model)))


def _apply(model: ir.Model, patterns: Sequence[tuple[OperatorKit, Pattern]], result: Rewrite) -> Rewrite:
    """Try the patterns on each node, in place."""
    kits = list({id(kit): kit for kit, _ in patterns}.values())
    check_opsets(model, kits)
    infer_shapes(model)
    editor = Editor(model)
    adopted: dict[int, OperatorKit] = {}
    with constant_initializers(model, result):
        for place, graph in graphs_of(model):
            for node in list(graph):
                kit = _adopt_node(node, graph, place, patterns, editor, result) if node.graph is graph else None
                if kit is not None:
                    adopted[id(kit)] = kit
        if result.rewritten:
            editor.complete([kit for kit in kits if id(kit) in adopted])
    num_compared = sum(entry.is_compared for entry in result.rewritten)
    if num_compared:
        result.checks.append(Check(Extent.NODES, num_compared))
    result.num_nodes_after = count_nodes(model)
    return result


def _adopt_node(
    node: ir.Node,
    graph: ir.Graph,
    place: Place,
    patterns: Sequence[tuple[OperatorKit, Pattern]],
    editor: Editor,
    result: Rewrite,
) -> OperatorKit | None:
    """Replace the node by the first operator that can stand for it, and return that; otherwise note why none can."""
    name = node.name or node.outputs[0].name or ""
    reasons: list[Reason] = []
    for kit, pattern in patterns:
        found = pattern.find(node)
        if found is None:
            continue
        if isinstance(found, Reason):
            reasons.append(found)
            continue
        try:
            change = found.replace(graph, editor)
        except NoMatch as verdict:
            reasons.append(verdict.reason)
            continue
        result.rewritten.append(
            Rewritten(name, place, change.what, change.shape, kit.operator.op_type, change.is_compared)
        )
        result.constants.update(change.constants)
        result.rounded.update(change.rounded)
        result.rounding = max(result.rounding, change.rounding)
        return kit
    if reasons:
        result.left.append(Left(name, place, node.domain, node.op_type, reasons[0]))
    return None


def _without_newer(model: ir.Model, kits: list[OperatorKit], result: Rewrite) -> list[OperatorKit]:
    """Leave out operators that need a newer opset than the model's, and note them; unless that would be all."""
    oldest = min(opset_of(owner) or 0 for owner in owners_of(model))
    newer = [kit.operator for kit in kits if 0 < oldest < kit.operator.min_opset]
    if len(newer) == len(kits):
        return kits
    result.left_out = [LeftOut(operator.op_type, operator.min_opset, oldest) for operator in newer]
    return [kit for kit in kits if kit.operator not in newer]


def check_opsets(model: ir.Model, kits: Sequence[OperatorKit]) -> None:
    """Check the version of ONNX's own domain of the model and of its functions. Raises: ContractError."""
    for owner in owners_of(model):
        for kit in kits:
            kit.operator.check_opset(opset_of(owner) or 0)
