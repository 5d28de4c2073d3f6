"""Find where in a graph a backend leaves the bound first."""

from __future__ import annotations

import onnx

from exporter.verification.backends.base import Backend, Feed
from exporter.verification.nodes.run import NodeCall, NodeRows, run_alone
from exporter.verification.reasons import Divergence, Unknown, Where
from ort_ops.analysis.evaluation import Evaluation
from ort_ops.analysis.rows import thinned
from ort_ops.models.nodes import operator_nodes_within
from ort_ops.opdef import registry


def first_divergence(model: onnx.ModelProto, backend: Backend, feed: Feed, evaluation: Evaluation) -> Where | None:
    """Return the first node of the main graph whose value leaves its bound on this backend, and the one in it.

    Args:
        evaluation: with the values of all nodes.

    Returns: None where no value of the main graph leaves its bound.
    """
    try:
        values = backend.run_all(feed)
    except Exception as error:  # a backend that cannot show its inner values
        return Unknown(type(error).__name__)
    for node in model.graph.node:
        for name in node.output:
            exact = evaluation.values.get(name)
            if name in values and exact is not None and not exact.compare(values[name]).is_within_bound:
                return _within(model, backend, node, name, evaluation)
    return None


def _within(
    model: onnx.ModelProto, backend: Backend, node: onnx.NodeProto, output: str, evaluation: Evaluation
) -> Divergence:
    """Find the operator's node that leaves its bound alone, in a node's bodies or in functions that it calls."""
    found = Divergence(node.name or output, node.op_type)
    inside = {inner.path: inner for inner in operator_nodes_within(model, node)}
    if not inside or (node.domain, node.op_type) in registry.names():
        return found
    for call in evaluation.calls:
        if call.label in inside:
            kit = inside[call.label].kit
            rows = NodeRows(backend, None)
            run_alone([NodeCall(kit, thinned(kit, call))], [rows])
            if any(not comparison.is_within_bound for _, comparison in rows.worst.values()):
                return Divergence(found.node, found.op_type, inner=call.label)
    return Divergence(found.node, found.op_type, holds=tuple(inside))
