"""Let MYLINEAR take in the activation that follows it. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ort_ops.operators.mylinear.patterns.version_2.causes import Cause
from ort_ops.operators.mylinear.patterns.version_2.forms import Form, Lookalike, find_form, is_part_of_silu
from ort_ops.operators.mylinear.patterns.version_2.nodes import activation_of, is_linear, put_in_place
from ort_ops.operators.mylinear.patterns.version_2.written_out import find_written_out
from ort_ops.operators.mylinear.version_2.contract import NONE
from ort_ops.rewrite.graph.constants import is_standard
from ort_ops.rewrite.graph.editor import Editor, remove_dead, take_over
from ort_ops.rewrite.pattern import Change
from ort_ops.rewrite.reasons import NoMatch, Reason

_PASSED = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators between MYLINEAR and the activation that only move numbers; they stay, behind both."""


@dataclass(frozen=True)
class FusedMatch:
    """An activation that MYLINEAR can take in.

    Attributes:
        linear: the node, without an activation.
        passages: between it and the activation, from the node on.
    """

    form: Form
    linear: ir.Node
    passages: tuple[ir.Node, ...]

    def replace(self, graph: ir.Graph, editor: Editor) -> Change:
        """Give the node the activation, and remove the nodes that computed it. Raises: NoMatch."""
        form = self.form
        for node in form.nodes[:-1]:
            for value in node.outputs:
                if value.is_graph_output() or any(use.node not in form.nodes for use in value.uses()):
                    raise NoMatch(Cause.SUM_IS_SEEN, value=value.name or "")
        fused = put_in_place(self.linear, graph, activation=form.activation)
        for step in (fused, *self.passages):  # their values include the activation now, so they get other names
            step.outputs[0].name = editor.new_name(f"{step.outputs[0].name}_{form.activation}")
            step.outputs[0].meta.clear()
        (old,) = form.nodes[-1].outputs
        old_inputs = [value for node in form.nodes for value in node.inputs]
        take_over(old, self.passages[-1].outputs[0] if self.passages else fused.outputs[0])
        for node in reversed(form.nodes):
            graph.remove(node, safe=True)
        remove_dead(old_inputs)
        what = "+".join((self.linear.op_type, *(node.op_type for node in form.nodes)))
        return Change(what, is_compared=True, constants=form.constants)


class ActivationPattern:
    """An activation behind MYLINEAR, in any of its spellings."""

    def find(self, node: ir.Node) -> FusedMatch | Reason | None:
        """Return the activation whose last node this is, or why MYLINEAR cannot take it in."""
        form = find_form(node) or find_written_out(node)
        if isinstance(form, Lookalike):
            return None if _linear_before(form.value)[0] is None else form.reason
        if form is None:
            return None
        linear, passages = _linear_before(form.value)
        if linear is None or activation_of(linear) != NONE or linear.graph is not node.graph or is_part_of_silu(form):
            return None
        for step in (linear, *passages):
            (value,) = step.outputs
            takers = {id(use.node) for use in value.uses()} - {id(inner) for inner in form.nodes}
            if value.is_graph_output() or len(takers - {id(passage) for passage in passages}) > 0:
                return Reason(Cause.SUM_IS_SEEN, {"value": value.name or ""})
        return FusedMatch(form, linear, passages)


def _linear_before(value: ir.Value) -> tuple[ir.Node | None, tuple[ir.Node, ...]]:
    """Return the MYLINEAR node that a value comes from, and the nodes on the way; None where it comes from another."""
    passages: list[ir.Node] = []
    node = value.producer()
    while node is not None and is_standard(node, *_PASSED):
        (first, *_) = node.inputs
        passages.insert(0, node)
        node = None if first is None else first.producer()
    if node is None or not is_linear(node):
        return None, ()
    return node, tuple(passages)
