"""Put standard operators into a model in memory, in place of registered ones. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.rewrite.graph.editor import Editor
from ort_ops.rewrite.graph.shapes import infer_shapes
from ort_ops.rewrite.graph.walk import (
    Owner,
    constant_initializers,
    count_nodes,
    graphs_of,
    graphs_with_owners,
    opset_of,
    owners_of,
)
from ort_ops.rewrite.inline import Inliner
from ort_ops.rewrite.reasons import GraphCause, Reason
from ort_ops.rewrite.report import Check, Extent, Left, Place, Rewrite, Rewritten
from ort_ops.rewrite.selection import select


def lower_model(model: ir.Model, operators: Sequence[str] | None = None) -> Rewrite:
    """Do what `ort_ops.rewrite.lower` does, in place; compare nodes where possible, but not the whole model.

    Raises: ContractError for an opset that is too old; RewriteError for a node that cannot be lowered.
    """
    names = {(kit.operator.domain, kit.operator.name) for kit in select(operators)}
    infer_shapes(model)
    result = Rewrite(num_nodes_before=count_nodes(model))
    lowerer = _Lowerer(model, result)
    with constant_initializers(model, result):
        for place, graph, owner in graphs_with_owners(model):
            for node in list(graph):
                if (node.domain, node.op_type) in names:
                    lowerer.lower(node, graph, place, owner)
    _remove_definitions(model, names)
    num_compared = sum(entry.is_compared for entry in result.rewritten)
    if num_compared:
        result.checks.append(Check(Extent.NODES, num_compared))
    result.num_nodes_after = count_nodes(model)
    return result


class _Lowerer:
    """Lower the nodes of one model, and note what was done."""

    def __init__(self, model: ir.Model, result: Rewrite) -> None:
        self._model = model
        self._result = result
        self._editor = Editor(model)
        self._inliner = Inliner(self._editor)

    def lower(self, node: ir.Node, graph: ir.Graph, place: Place, owner: Owner) -> None:
        """Put standard operators in the node's place; note why not for an operator without a body."""
        kit = self._kit_of(node, owner)
        operator, name = kit.operator, node.name or node.outputs[0].name or ""
        opset = opset_of(owner) or opset_of(self._model) or 0
        operator.check_opset(opset)
        if kit.lowering is not None:
            change = kit.lowering()(node, graph, self._editor)
        elif operator.make_body is not None:
            change = self._inliner.inline(node, graph, operator, opset)
        else:
            reason = Reason(GraphCause.NO_BODY, {"operator": operator.op_type})
            self._result.left.append(Left(name, place, node.domain, node.op_type, reason))
            return
        entry = Rewritten(name, place, change.what, change.shape, operator.op_type, change.is_compared)
        self._result.rewritten.append(entry)
        self._result.constants.update(change.constants)

    def _kit_of(self, node: ir.Node, owner: Owner) -> OperatorKit:
        """Return the kit of a node, of the version of its domain that is imported."""
        version = owner.opset_imports.get(node.domain, self._model.opset_imports.get(node.domain))
        kit = registry.find(node.domain, node.op_type, version) or registry.find(node.domain, node.op_type)
        assert kit is not None
        return kit


def _remove_definitions(model: ir.Model, names: set[tuple[str, str]]) -> None:
    """Remove the definitions of operators that no node needs any more, and imports of domains without a node."""
    kept = {(node.domain, node.op_type) for _, graph in graphs_of(model) for node in graph}
    for identifier in [i for i in model.functions if i[:2] in names and i[:2] not in kept]:
        del model.functions[identifier]
    defined = {identifier[0] for identifier in model.functions}
    for owner in owners_of(model):
        used = {node.domain for node in owner.graph.all_nodes()} | (defined if owner is model else set())
        for domain in {domain for domain, _ in names} - used:
            owner.opset_imports.pop(domain, None)
