"""What `mylinear inspect --json` says of a node of version 2 under the key ``linear``, beside those of version 1."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ort_ops.operators.mylinear import inspection
from ort_ops.operators.mylinear.inspection import LinearInfo


@dataclass(frozen=True)
class LinearActivationInfo(LinearInfo):
    """One node: as `LinearInfo`, with the element type of its weight and its activation."""

    weight_dtype: str
    activation: str


def describe(node: Any) -> LinearActivationInfo:
    """Describe a node, given as an `ort_ops.inspection.nodes.NodeInfo`."""
    known = asdict(inspection.describe(node))
    return LinearActivationInfo(**known, weight_dtype=node.dtypes["TW"], activation=node.attributes["activation"])
