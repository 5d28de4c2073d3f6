"""What `adopt` replaces by MYLINEAR, and what `lower` puts in its place. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ort_ops.operators.mylinear.patterns.attention import is_projection
from ort_ops.operators.mylinear.patterns.causes import Cause
from ort_ops.operators.mylinear.patterns.check import check_layer
from ort_ops.operators.mylinear.patterns.layer import LinearLayer
from ort_ops.operators.mylinear.patterns.lookalikes import reason_to_leave
from ort_ops.operators.mylinear.patterns.match import match
from ort_ops.operators.mylinear.patterns.replace import replace_layer
from ort_ops.rewrite.graph.constants import is_standard
from ort_ops.rewrite.graph.editor import Editor
from ort_ops.rewrite.pattern import Change
from ort_ops.rewrite.reasons import NoMatch, Reason


@dataclass(frozen=True)
class LinearMatch:
    """A linear layer that MYLINEAR can stand for."""

    layer: LinearLayer

    def replace(self, graph: ir.Graph, editor: Editor) -> Change:
        """Put MYLINEAR in the place of the layer, and compare the two. Raises: RewriteError if they differ."""
        layer = self.layer
        name = layer.node.name or layer.node.outputs[0].name or ""
        weight, bias = replace_layer(layer, graph, editor)
        is_compared = check_layer(layer, weight, bias, name)
        return Change(layer.form.value, layer.weight.shape, is_compared)


class LinearPattern:
    """MatMul, MatMul + Add and Gemm, with weights that are constant, or computed as MYLINEAR takes them."""

    def find(self, node: ir.Node) -> LinearMatch | Reason | None:
        """Return the linear layer that a node is, or why MYLINEAR cannot replace it."""
        reason = reason_to_leave(node)
        if reason is not None or not is_standard(node, "MatMul", "Gemm"):
            return reason
        if is_projection(node):
            return Reason(Cause.ATTENTION)
        try:
            return LinearMatch(match(node))
        except NoMatch as verdict:
            return verdict.reason


PATTERNS = (LinearPattern(),)
