"""Numbers that depend on the batch, such as 2 / batch, as tensors: torch's exporter rounds them to float32."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from exporter.errors import ExportError

_aten = torch.ops.aten
_OPERATIONS: dict[Any, Any] = {
    operator.add: _aten.add.Tensor,
    operator.mul: _aten.mul.Tensor,
    operator.neg: _aten.neg.default,
    operator.pow: _aten.pow.Tensor_Tensor,
    operator.sub: _aten.sub.Tensor,
    operator.truediv: _aten.div.Tensor,
    torch.sym_max: _aten.maximum.default,
    torch.sym_min: _aten.minimum.default,
    torch.sym_sqrt: _aten.sqrt.default,
}
_OF_TENSORS: dict[Any, Any] = {
    _aten.add.Scalar: _aten.add.Tensor,
    _aten.div.Scalar: _aten.div.Tensor,
    _aten.mul.Scalar: _aten.mul.Tensor,
    _aten.pow.Tensor_Scalar: _aten.pow.Tensor_Tensor,
    _aten.sub.Scalar: _aten.sub.Tensor,
}
"""What does with a tensor what an operation does with a number."""


def explicit_scalars(graph: fx.GraphModule) -> None:
    """Compute each SymFloat of a graph as a float64 tensor, and cast it where an operation on tensors reads it.

    In place. Eager torch computes such a number in Python, in float64, and rounds it in the operation that takes it.

    Raises: ExportError naming an operation that cannot take a tensor for a number.
    """
    scalars = _Scalars(graph.graph)
    for node in list(graph.graph.nodes):
        if isinstance(node.target, torch._ops.OpOverload) and isinstance(node.meta.get("val"), Tensor):
            for argument in list(node.all_input_nodes):
                if isinstance(argument.meta.get("val"), torch.SymFloat):
                    scalars.replace(node, argument)
    graph.graph.eliminate_dead_code()
    graph.recompile()


class _Scalars:
    """The numbers of one graph that are tensors already."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._made: dict[fx.Node, fx.Node] = {}

    def replace(self, node: fx.Node, number: fx.Node) -> None:
        """Let a node read a tensor, in the dtype of its result, for a number."""
        result: Tensor = node.meta["val"]
        tensor = self._tensor(number, node)
        with self._graph.inserting_before(node):
            if result.dtype is not torch.float64:
                tensor = self._call(_aten._to_copy.default, (tensor,), {"dtype": result.dtype})
            if node.target in (_aten.full.default, _aten.full_like.default, _aten.scalar_tensor.default):
                size = [] if node.target is _aten.scalar_tensor.default else node.args[0]
                if isinstance(size, fx.Node):
                    size = self._call(_aten.zeros_like.default, (size,), {"dtype": result.dtype})
                    tensor = self._call(_aten.add.Tensor, (size, tensor))
                elif size:
                    tensor = self._call(_aten.expand.default, (tensor, size))
                node.replace_all_uses_with(tensor)
                return
        node.target = _OF_TENSORS.get(node.target, node.target)
        if not _takes_tensor(node, number):
            raise ExportError(
                f"{node.target} takes a number that depends on the batch, which cannot be exported exactly; make it a "
                "tensor in the model, as in torch.tensor(x.shape[0], dtype=x.dtype)"
            )
        node.replace_input_with(number, tensor)

    def _tensor(self, value: Any, before: fx.Node) -> fx.Node:
        if not isinstance(value, fx.Node):
            with self._graph.inserting_before(before):
                return self._call(_aten.scalar_tensor.default, (float(value),), {"dtype": torch.float64})
        if value in self._made:
            return self._made[value]
        whole = value.args[0] if value.target is torch.sym_float else value
        if isinstance(whole, fx.Node) and isinstance(whole.meta.get("val"), int | torch.SymInt):
            with self._graph.inserting_after(whole):
                tensor = self._call(_aten.scalar_tensor.default, (whole,), {"dtype": torch.float64})
        elif value.target in _OPERATIONS:
            operands = tuple(self._tensor(argument, value) for argument in value.args)
            with self._graph.inserting_after(value):
                tensor = self._call(_OPERATIONS[value.target], operands)
        else:
            raise ExportError(
                f"a number that depends on the batch comes from {value.target}, which cannot be exported exactly; "
                "compute it from tensors in the model"
            )
        self._made[value] = tensor
        return tensor

    def _call(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        return self._graph.call_function(op, args, kwargs or {})


def _takes_tensor(node: fx.Node, number: fx.Node) -> bool:
    """Whether the places in which a node takes the number are for tensors."""
    assert isinstance(node.target, torch._ops.OpOverload)
    places = zip(node.target._schema.arguments, node.args, strict=False)
    is_place = [(argument.type, value is number) for argument, value in places]
    return any(here for _, here in is_place) and all("Tensor" in str(kind) for kind, here in is_place if here)
