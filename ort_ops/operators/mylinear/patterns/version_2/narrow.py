"""Store the weights of MYLINEAR in 16 bits, where X is float32. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from ort_ops.numerics.narrow import largest_change, narrow
from ort_ops.opdef.element_types import ELEMENT_TYPES, element_type_name
from ort_ops.operators.mylinear.patterns.version_2.causes import Cause
from ort_ops.operators.mylinear.patterns.version_2.nodes import is_linear, put_in_place
from ort_ops.rewrite.graph.constants import Constant
from ort_ops.rewrite.graph.editor import Editor, remove_dead
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.graph.shapes import known_dtype
from ort_ops.rewrite.pattern import Change
from ort_ops.rewrite.reasons import NoMatch, Reason


@dataclass(frozen=True)
class NarrowMatch:
    """A MYLINEAR node whose float32 weight can be stored in 16 bits."""

    node: ir.Node
    weight: Constant
    dtype: str

    def replace(self, graph: ir.Graph, editor: Editor) -> Change:
        """Store the weight, rounded to nearest even. Raises: NoMatch for one that the type does not hold."""
        limit = ELEMENT_TYPES[self.dtype].largest
        change, largest = largest_change(self.weight.array(), self.dtype)
        if largest > limit:
            raise NoMatch(Cause.WEIGHT_OVERFLOWS, largest=largest, dtype=self.dtype, limit=limit)
        name = self.weight.source.name or "weight"
        stored = editor.store(narrowed(self.weight, self.dtype), graph, name=f"{name}_{self.dtype}")
        old_inputs = list(self.node.inputs)
        made = put_in_place(self.node, graph, weight=stored)
        remove_dead(old_inputs)
        return Change(
            f"{made.op_type} with float32 weight", self.weight.shape, is_compared=True, rounding=change,
            rounded={name: self.dtype},
        )  # fmt: skip


class WeightPattern:
    """MYLINEAR with a constant float32 weight.

    Args:
        dtype: name of the element type to store it in.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype

    def find(self, node: ir.Node) -> NarrowMatch | Reason | None:
        """Return the node if its weight can be stored so, or why it cannot."""
        if not is_linear(node) or len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
            return None
        weight = resolve(node.inputs[1])
        dtype = known_dtype(node.inputs[1]) if weight is None else weight.dtype
        if dtype is not None and dtype != ir.DataType.FLOAT:
            name = element_type_name(dtype.value)
            return None if name == self._dtype else Reason(Cause.WEIGHT_NOT_FLOAT32, {"dtype": name})
        if weight is None:
            return Reason(Cause.WEIGHT_IS_COMPUTED)
        if any(not is_linear(use.node) for use in node.inputs[1].uses()):
            return Reason(Cause.WEIGHT_IS_SHARED, {"value": node.inputs[1].name or ""})
        return NarrowMatch(node, weight, self._dtype)


def narrowed(weight: Constant, dtype: str) -> Constant:
    """Return a constant, rounded to another element type."""
    target = ir.DataType(ELEMENT_TYPES[dtype].onnx_type)
    return replace(weight.then(f"cast to {dtype}, rounded", lambda array: narrow(array, dtype)), cast_to=target)
