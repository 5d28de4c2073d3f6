"""Check that an exported graph does not compute in a smaller floating-point type than the model.

The comparison with torch cannot see that: in such a graph, errors of float32 are within the bound. torch's older
exporter writes such detours for celu, and for Python numbers that come from sizes.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import helper
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from exporter.errors import ExportError
from exporter.to_onnx.job import Job
from ort_ops.models.graphs import all_nodes, node_label
from ort_ops.opdef.element_types import FLOATS, ElementType


class _FloatTypes(TorchDispatchMode):
    """Collect the floating-point dtypes of all inputs and outputs of operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self.seen.add(leaf.dtype)
        return result


def check_casts(proto: onnx.ModelProto, job: Job) -> None:
    """Check that no number goes through a smaller type than any that the model computes in, and back.

    Sizes that are computed in this way and become integers again are allowed.

    Raises: ExportError naming the node.
    """
    narrow: dict[str, ElementType] = {}
    types = {element_type.onnx_type: element_type for element_type in FLOATS}
    coarsest: ElementType | None = None
    for node in all_nodes(proto):
        came_by = next((narrow[name] for name in node.input if name in narrow), None)
        if node.op_type != "Cast" or node.domain not in ("", "ai.onnx"):
            if came_by is not None:
                narrow.update(dict.fromkeys(node.output, came_by))
            continue
        to = types.get(next((helper.get_attribute_value(a) for a in node.attribute if a.name == "to"), 0))
        if to is None:
            continue
        if coarsest is None:
            coarsest = _coarsest_type(job)
        if to.unit_roundoff > coarsest.unit_roundoff:
            narrow[node.output[0]] = to
        elif came_by is not None:
            raise ExportError(
                f"torch's exporter computes what node '{node_label(node)}' takes in {came_by.name}, where the model "
                f"does all in {coarsest.name}; export with engine='dynamo', or write that operation in others"
            )


def _coarsest_type(job: Job) -> ElementType:
    """Return the floating-point type with the largest rounding error that torch computes in during the example call."""
    with torch.no_grad(), _FloatTypes() as types:
        job.example.call(*(tensor.clone() for tensor in job.example.tensors))
    names = {str(dtype).removeprefix("torch.") for dtype in types.seen}
    known = [element_type for element_type in FLOATS if element_type.name in names]
    return max(known or FLOATS, key=lambda element_type: element_type.unit_roundoff)
