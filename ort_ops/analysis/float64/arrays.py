"""Arrays of a float64 run: widened numbers, factors of products, sizes of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from ort_ops.analysis.operator_op import OperatorOp
from ort_ops.analysis.stored import Stored
from ort_ops.numerics.bound import Bound
from ort_ops.opdef.element_types import FLOATS, ElementType
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
FLOATS_BY_NAME = {element_type.name: element_type for element_type in FLOATS}
FLOAT64 = FLOATS_BY_NAME["float64"]


def is_product(proto: onnx.NodeProto) -> bool:
    """Whether a node multiplies matrices."""
    return proto.domain in ("", "ai.onnx") and proto.op_type in ("MatMul", "Gemm")


def takes_narrow(node: OpRun, index: int, value: Any) -> bool:
    """Whether an input comes to a node in the type that it is stored in: what may be large, and is read in parts."""
    if not isinstance(value, Stored):
        return False
    if isinstance(node, OperatorOp):
        return node.own_kit.widens
    proto = node.onnx_node
    is_table = proto.domain in ("", "ai.onnx") and proto.op_type == "Gather" and index == 0
    return is_table or (is_product(proto) and index == 1)


def factors(
    proto: onnx.NodeProto, attributes: Mapping[str, Any], inputs: list[Any]
) -> tuple[Array, Array, Array | None] | None:
    """Return the matrices that a node multiplies, and what it adds; None for a node that does not, or for vectors."""
    if not is_product(proto):
        return None
    a, b, c = (*inputs, None)[:3]
    if min(a.ndim, b.ndim) < 2 or not (is_float(a) and b.dtype.name in FLOATS_BY_NAME):
        return None
    if proto.op_type == "MatMul":
        return a, b, None
    a, b = (m.T if attributes.get(key) else m for m, key in ((a, "transA"), (b, "transB")))
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return a if alpha == 1 else alpha * a, b, c if c is None or beta == 1 else beta * c


def size_of_bound(bound: Bound | None) -> Array | None:
    """Return the size of one error that is as large as the bound; 0 where there is no bound, which is in doubt."""
    return None if bound is None else np.where(np.isfinite(bound.error), bound.error, 0.0)


def is_same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal; NaN is equal to NaN."""
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def as_array(value: Any) -> Any:
    """Return NumPy's scalars as arrays; anything else as it is."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def is_float(value: Any) -> bool:
    """Whether a value is an array of float64."""
    return isinstance(value, np.ndarray) and value.dtype == np.float64


def overflow_limit(element_type: ElementType) -> float:
    """Return the smallest number that rounds to infinity."""
    return element_type.largest * (1 + element_type.unit_roundoff / 2)


def widen(value: Any) -> Any:
    """Return floating-point arrays as float64, also those of a sequence; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.name in FLOATS_BY_NAME and value.dtype != np.float64:
        return value.astype(np.float64)
    return [widen(part) for part in value] if isinstance(value, list) else value


def rounds_between(kit: OperatorKit, types: Mapping[str, ElementType]) -> bool:
    """Whether a kernel that computes an operator's steps one after the other rounds between them.

    Args:
        types: of the operator's type variables, as far as they are known.
    """
    held = (types.get(output.type.name) for output in kit.operator.outputs)
    return kit.has_steps and any(t is not None and t.accumulator != t.name for t in held)
