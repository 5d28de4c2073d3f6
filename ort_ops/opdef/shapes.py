"""Shapes in operators' descriptions: sizes, symbolic names, and unknown dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Dim = int | str | None
"""One dimension: its size, its symbolic name, or None for an unknown one."""
Shape = Sequence[Dim]


def format_shape(shape: Shape) -> str:
    """Write a shape as messages do: ``[2, batch, ?]``."""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"


def read_shape(type_proto: onnx.TypeProto | None) -> Shape | None:
    """Return the shape that a ``TypeProto`` states, or None."""
    if type_proto is None or not type_proto.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in type_proto.tensor_type.shape.dim:
        kind = dim.WhichOneof("value")
        dims.append(getattr(dim, kind) or (0 if kind == "dim_value" else None) if kind else None)
    return dims


def make_type(onnx_type: int, shape: Shape | None) -> onnx.TypeProto:
    """Make the ``TypeProto`` of a tensor; without a shape if it is None."""
    import onnx

    result = onnx.TypeProto()
    result.tensor_type.elem_type = onnx_type
    if shape is not None:
        for dim in shape:
            proto = result.tensor_type.shape.dim.add()
            if isinstance(dim, str):
                proto.dim_param = dim
            elif dim is not None:
                proto.dim_value = dim
        result.tensor_type.shape.SetInParent()
    return result


def are_different(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are both known numbers and differ; names and unknowns may still be equal."""
    return isinstance(a, int) and isinstance(b, int) and a != b


def better_known(a: Dim, b: Dim) -> Dim:
    """Return the dimension of which more is known, of two that are equal: a number before a name before None."""
    return b if a is None or (isinstance(a, str) and isinstance(b, int)) else a
