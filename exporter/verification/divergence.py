"""Where in a graph a backend leaves the bound first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from exporter.verification.backends import Road
from exporter.verification.inputs import thinned
from exporter.verification.nodes import NodeCall, NodeRows, run_alone
from exporter.verification.result import listed
from ort_ops.analysis.evaluation import Evaluation
from ort_ops.models.nodes import operator_nodes_within
from ort_ops.operators.mylinear.contract import MYLINEAR

Array = NDArray[Any]


def first_divergence(model: onnx.ModelProto, road: Road, feed: Mapping[str, Array], evaluation: Evaluation) -> str:
    """Name the first node of the main graph whose value leaves its bound on this backend, and the MYLINEAR node in it.

    Args:
        evaluation: with the values of all nodes.
    """
    try:
        values = road.run_all(feed)
    except Exception as error:  # a backend that cannot show its inner values
        return f"its inner values could not be captured ({type(error).__name__})"
    for node in model.graph.node:
        for name in node.output:
            exact = evaluation.values.get(name)
            if name not in values or exact is None or exact.element_type is None:
                continue
            if not exact.compare(values[name]).is_within_bound:
                where = f"first at node '{node.name or name}' ({node.op_type})"
                return where + _divergence_within(model, road, node, evaluation)
    return ""


def _divergence_within(model: onnx.ModelProto, road: Road, node: onnx.NodeProto, evaluation: Evaluation) -> str:
    """Name the MYLINEAR node within a node (in its bodies, or functions that it calls) that leaves its bound alone."""
    inside = [linear.path for linear in operator_nodes_within(model, node)]
    if not inside or (node.domain, node.op_type) == (MYLINEAR.domain, MYLINEAR.name):
        return ""
    for call in evaluation.calls:
        if call.label in inside:
            rows = NodeRows(road, None)
            run_alone([NodeCall(thinned(call))], [rows])
            if any(not comparison.is_within_bound for _, comparison in rows.worst.values()):
                return f", in it at node '{call.label}'"
    return f", which holds {listed(inside)}"
