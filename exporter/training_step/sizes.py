"""Compute numbers that depend on a dynamic size, such as 2 / batch, in float64; torch's exporter would in float32."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from exporter.errors import ExportError


def explicit_sizes(graph: fx.GraphModule) -> None:
    """Turn Python's floats that depend on a size into tensors of float64, cast to the type of their reader; in place.

    Raises: ExportError for a function of sizes that has no counterpart for tensors.
    """
    found = _Sizes(graph.graph)
    for node in list(graph.graph.nodes):
        value = node.meta.get("val")
        if not isinstance(node.target, torch._ops.OpOverload) or not isinstance(value, Tensor):
            continue
        for argument in list(node.all_input_nodes):
            if isinstance(argument.meta.get("val"), torch.SymFloat):
                node.replace_input_with(argument, found.cast(argument, value.dtype, before=node))
    graph.graph.eliminate_dead_code()
    graph.recompile()


class _Sizes:
    """The tensors that stand for numbers of a graph, each made once."""

    def __init__(self, graph: fx.Graph) -> None:
        aten = torch.ops.aten
        self._graph = graph
        self._made: dict[fx.Node, fx.Node] = {}
        self._functions: dict[Any, Any] = {
            operator.truediv: aten.div.Tensor,
            operator.mul: aten.mul.Tensor,
            operator.add: aten.add.Tensor,
            operator.sub: aten.sub.Tensor,
            operator.pow: aten.pow.Tensor_Tensor,
            operator.neg: aten.neg.default,
            torch.sym_sqrt: aten.sqrt.default,
        }

    def cast(self, number: fx.Node, dtype: torch.dtype, before: fx.Node) -> fx.Node:
        """Return a tensor of ``dtype`` that holds a number."""
        tensor = self._tensor(number, before)
        if dtype is torch.float64:
            return tensor
        with self._graph.inserting_before(before):
            return self._graph.call_function(torch.ops.aten._to_copy.default, (tensor,), {"dtype": dtype})

    def _tensor(self, number: Any, before: fx.Node) -> fx.Node:
        if not isinstance(number, fx.Node):
            with self._graph.inserting_before(before):
                return self._constant(float(number))
        if number in self._made:
            return self._made[number]
        with self._graph.inserting_after(number):
            if isinstance(number.meta["val"], torch.SymInt) or number.target is torch.sym_float:
                whole: Any = number.args[0] if number.target is torch.sym_float else number
                made = self._constant(whole)
            elif number.target in self._functions:
                operands = tuple(self._tensor(operand, number) for operand in number.args)
                made = self._graph.call_function(self._functions[number.target], operands)
            else:
                raise ExportError(
                    f"the step computes a number of dynamic sizes by {number.target}, which has no counterpart in "
                    "ONNX; export with dynamic_batch=False"
                )
        self._made[number] = made
        return made

    def _constant(self, value: Any) -> fx.Node:
        scalar_tensor = torch.ops.aten.scalar_tensor.default
        return self._graph.call_function(scalar_tensor, (value,), {"dtype": torch.float64})
