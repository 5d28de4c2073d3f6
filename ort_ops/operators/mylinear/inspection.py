"""What `mylinear inspect` has always said of a node under the key ``linear``; scripts read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LinearInfo:
    """One MYLINEAR node: shapes in words, dtype, size of weight and bias, and where its weight comes from."""

    name: str
    where: str
    x: str
    weight: str
    y: str
    dtype: str
    nbytes: int
    weight_from: str


def describe(node: Any) -> LinearInfo:
    """Describe a node, given as an `ort_ops.inspection.nodes.NodeInfo`."""
    weight, bias = node.inputs["weight"], node.inputs["bias"]
    return LinearInfo(
        name=node.name,
        where=node.where,
        x=node.inputs["x"].shape,
        weight=weight.shape,
        y=node.outputs["y"].shape,
        dtype=node.dtypes["T"],
        nbytes=weight.nbytes + (0 if bias is None else bias.nbytes),
        weight_from=f"{'initializer' if weight.is_stored else 'computed'} '{weight.value}'",
    )
