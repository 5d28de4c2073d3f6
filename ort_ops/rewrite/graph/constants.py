"""Constants of a graph: stored tensors, with the operations on their way to a node. No torch.

Finding a constant reads nothing; its numbers are read when `Constant.array` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ort_ops.opdef.element_types import FLOATS
from ort_ops.rewrite.graph.shapes import known_shape

Array = NDArray[Any]
_STANDARD = ("", "ai.onnx")
DTYPES = {ir.DataType(element_type.onnx_type): element_type for element_type in FLOATS}
"""The floating-point element types, as onnx_ir knows them."""


@dataclass(frozen=True)
class Constant:
    """A value that is known when the model is rewritten: a stored tensor, with the operations on its way.

    Attributes:
        source: the initializer, or the output of a Constant node.
        steps: names of the operations, by which equal constants are recognized.
        functions: the operations themselves; they work on views where NumPy can.
    """

    source: ir.Value
    steps: tuple[str, ...] = ()
    functions: tuple[Callable[[Array], Array], ...] = ()
    cast_to: ir.DataType | None = None
    """The dtype, if it is no longer that of the source."""

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.source.const_value is not None
        stand_in: Array = np.broadcast_to(np.int8(0), self.source.const_value.shape.numpy())
        for step, function in zip(self.steps, self.functions, strict=True):
            stand_in = stand_in if step.startswith("cast") else function(stand_in)  # a cast would be a copy
        return stand_in.shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> ir.DataType:
        assert self.source.const_value is not None
        return self.cast_to or self.source.const_value.dtype

    @property
    def canonical_steps(self) -> tuple[str, ...]:
        """The steps without those that undo each other, such as two transpositions of a matrix."""
        steps: list[str] = []
        for step in self.steps:
            step = "transpose" if step == "transpose (1, 0)" else step
            if steps and step == steps[-1] == "transpose":
                steps.pop()
            else:
                steps.append(step)
        return tuple(steps)

    @property
    def is_unchanged(self) -> bool:
        """Whether it is the stored tensor itself."""
        return not self.canonical_steps

    def array(self) -> Array:
        """Read the tensor (memory-mapped if it is external) and apply the steps."""
        assert self.source.const_value is not None
        array: Array = self.source.const_value.numpy()
        for function in self.functions:
            array = function(array)
        return array

    def then(self, step: str, function: Callable[[Array], Array]) -> Constant:
        return replace(self, steps=(*self.steps, step), functions=(*self.functions, function))


@dataclass(frozen=True)
class Computed:
    """An input that is known only when the model runs.

    Attributes:
        shape: with None for an unknown dimension.
        dtype: None if it is not known.
    """

    value: ir.Value
    shape: tuple[int | None, ...]
    dtype: ir.DataType


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether the node is one of these operators of ONNX's own domain, with attributes that are known.

    An attribute that belongs to the function around the node is known only where the function is called.
    """
    return node.domain in _STANDARD and node.op_type in op_types and not refers_to_function(node)


def refers_to_function(node: ir.Node) -> bool:
    """Whether an attribute of the node is one of the function around it."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def perm_of(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Return the permutation of a Transpose of that many dimensions."""
    return tuple(node.attributes.get_ints("perm", list(range(rank))[::-1]))


def rank_of(value: ir.Value | None) -> int | None:
    """Return how many dimensions a value has; None where that is not known."""
    shape = None if value is None else known_shape(value)
    return None if shape is None else len(shape)
