"""An operator's part in `adopt` and `lower`: the graphs that it can replace, and what can replace it.

An `OperatorKit` names `Pattern`s, and a `Lowering` where one is better than the operator's body. Both see onnx_ir's
graphs through `ort_ops.rewrite.graph`. For nodes that are simply removed, a pattern returns a `NodesMatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx_ir as ir

from ort_ops.opdef.operator import Operator
from ort_ops.rewrite.graph.absent import dtype_of, shape_of
from ort_ops.rewrite.graph.constants import Constant
from ort_ops.rewrite.graph.editor import Editor, node_like, remove_dead, take_over
from ort_ops.rewrite.reasons import GraphCause, NoMatch, Reason


@dataclass(frozen=True)
class Change:
    """A change of one node or a few.

    Attributes:
        what: the standard operators that were replaced, or that replace, such as ``MatMul+Add``.
        shape: for the report, such as that of a weight; None for an unknown one.
        is_compared: whether the change was compared by itself.
        constants: names of stored numbers that are rounded in the old graph, with what each stands for; the new graph
            means those.
        rounded: names of stored tensors that the new graph holds in another element type, with its name.
        rounding: the largest change of a number by that, relative to the number.
    """

    what: str
    shape: tuple[int | str | None, ...] = ()
    is_compared: bool = False
    constants: Mapping[str, float] = field(default_factory=dict)
    rounded: Mapping[str, str] = field(default_factory=dict)
    rounding: float = 0.0


class Match(Protocol):
    """Nodes of a graph that an operator can stand for."""

    def replace(self, graph: ir.Graph, editor: Editor) -> Change:
        """Put the operator in their place.

        Raises: NoMatch, before anything is changed; RewriteError if the result would be another.
        """


class Pattern(Protocol):
    """One form of graph that an operator can stand for."""

    def find(self, node: ir.Node) -> Match | Reason | None:
        """Return what the operator can stand for from this node on.

        Returns: the reason why not, for a node that looks as if it could match; None for any other.
        """


Lowering = Callable[[ir.Node, ir.Graph, Editor], Change]
"""Puts standard operators in the place of one node, and compares them with it if it can."""


@dataclass(frozen=True)
class NodesMatch:
    """Nodes to remove; one node of the operator takes their place.

    Attributes:
        operator: of the new node.
        nodes: to remove, in their order in the graph.
        inputs: of the new node, in the operator's order; None for an absent one.
        outputs: the values that the new node gives in their place; None for an output that it does not have.
        attributes: of the new node.
    """

    operator: Operator
    nodes: Sequence[ir.Node]
    inputs: Sequence[ir.Value | Constant | None]
    outputs: Sequence[ir.Value | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def replace(self, graph: ir.Graph, editor: Editor) -> Change:
        """Put the operator in the place of the last node. Raises: NoMatch if others need what would go."""
        for node in self.nodes:
            for value in node.outputs:
                uses = [use for use in value.uses() if use.node not in self.nodes]
                if value not in self.outputs and (uses or value.is_graph_output()):
                    raise NoMatch(GraphCause.SEEN_BY_OTHERS, value=value.name or "")
        last = self.nodes[-1]
        given: list[ir.Value | None] = []
        for given_input in self.inputs:
            given.append(editor.store(given_input, graph) if isinstance(given_input, Constant) else given_input)
        inputs = self._completed(given, graph, editor)
        outputs = list(self.outputs)
        while outputs and outputs[-1] is None:
            outputs.pop()
        made = node_like(
            last, self.operator.name, inputs, self.attributes, domain=self.operator.domain, num_outputs=len(outputs)
        )
        graph.insert_before(last, made)
        old_inputs = [value for node in self.nodes for value in node.inputs]
        is_in_order = all(value is None or value.producer() is last for value in outputs)
        for old, result in zip(outputs, made.outputs, strict=True):
            if old is None:
                result.name = ""
            else:
                take_over(old, result)
        for node in reversed(self.nodes):
            graph.remove(node, safe=True)
        remove_dead(old_inputs)
        if not is_in_order:  # what takes them may stand before the last of the nodes
            graph.sort()
        return Change("+".join(node.op_type for node in self.nodes))

    def _completed(self, given: Sequence[ir.Value | None], graph: ir.Graph, editor: Editor) -> list[ir.Value | None]:
        """Return the inputs with what stands for absent ones, which the definition inside a model takes.

        Raises: NoMatch where its shape or element type is not known.
        """
        parameters = self.operator.inputs
        inputs: list[ir.Value | None] = [*given, *[None] * (len(parameters) - len(given))]
        for index, parameter in enumerate(parameters):
            if inputs[index] is not None or parameter.absent is None:
                continue
            dtype = dtype_of(self.operator, index, inputs)
            shape = shape_of(self.operator, parameter.absent, inputs)
            if dtype is None or shape is None:
                raise NoMatch(GraphCause.ABSENT_INPUT_UNKNOWN, argument=parameter.argument)
            name = f"absent_{parameter.argument}"
            inputs[index] = editor.store_filled(shape, parameter.absent.value, dtype, graph, name)
        while inputs and inputs[-1] is None:
            inputs.pop()
        return inputs
