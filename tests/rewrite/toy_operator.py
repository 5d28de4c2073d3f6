"""A small operator to rewrite models of: two outputs, optional inputs, an attribute, two type variables, a pattern.

Y = alpha X + SHIFT, MASK = COUNT where Y > 0, else 0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import AttributeProto, helper

from ort_ops.numerics.bound import Arithmetic, Bound, gamma
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import AbsentInput, Attribute, Operator, Parameter, TypeVariable
from ort_ops.rewrite.graph.constants import is_standard
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.pattern import NodesMatch
from ort_ops.rewrite.reasons import Cause, Reason

Array = NDArray[Any]
_T = TypeVariable("T", ("float64", "float32", "float16"))
_I = TypeVariable("I", ("int32", "int64"))


def make_body(opset: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write the operator in standard operators, whatever its types."""
    alpha = helper.make_node("Constant", [], ["number"])
    alpha.attribute.append(AttributeProto(name="value_float", type=AttributeProto.FLOAT, ref_attr_name="alpha"))
    return [
        alpha,
        helper.make_node("CastLike", ["number", "X"], ["factor"]),
        helper.make_node("Mul", ["X", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "SHIFT"], ["Y"]),
        helper.make_node("Sub", ["Y", "Y"], ["zero"]),
        helper.make_node("Greater", ["Y", "zero"], ["is_positive"]),
        helper.make_node("Sub", ["COUNT", "COUNT"], ["none"]),
        helper.make_node("Where", ["is_positive", "COUNT", "none"], ["MASK"]),
    ]


TOY = Operator(
    domain="toy.ops",
    name="SHIFTED",
    since_version=1,
    inputs=(
        Parameter("X", "x", _T),
        Parameter("SHIFT", "shift", _T, is_optional=True, absent=AbsentInput(-0.0, (("X", -1),))),
        Parameter("COUNT", "count", _I, is_optional=True),
    ),
    outputs=(Parameter("Y", "y", _T), Parameter("MASK", "mask", _I, is_optional=True)),
    attributes=(Attribute("alpha", 1, "float", default=1.0),),
    infer_shape=lambda shapes, attributes: [shapes[0], shapes[0]],
    make_body=make_body,
    min_opset=15,
)


def reference(call: Call) -> Sequence[Array]:
    """Return Y in float64, and MASK."""
    x, shift, count = call.arrays
    assert x is not None
    y: Array = np.float32(call.attributes["alpha"]) * x.astype(np.float64)
    y = y if shift is None else y + shift
    return [y, np.where(y > 0, np.array(0) if count is None else count, 0)]


def bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound | None]:
    """Bound Y by its two roundings; MASK is exact."""
    x, shift, _ = call.arrays
    assert x is not None
    size: Array = np.abs(np.float32(call.attributes["alpha"]) * x.astype(np.float64))
    size = size if shift is None else size + np.abs(shift)
    return [Bound(gamma(2, call.element_type.unit_roundoff) * size), None]


def samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterator[Call]:
    """Yield nothing: these tests bring their own models."""
    yield from ()


class ToyCause(Cause):
    """Why the pattern leaves a node alone."""

    FACTOR = "the factor has {size} numbers"


class ScaleAndShift:
    """``c x + s``, where c is one number and s one for each column."""

    def find(self, node: ir.Node) -> NodesMatch | Reason | None:
        """Match an Add of a constant to the product of a constant."""
        if not is_standard(node, "Add") or node.inputs[0] is None:
            return None
        product, shift = node.inputs[0].producer(), resolve(node.inputs[1])
        if product is None or not is_standard(product, "Mul") or shift is None or len(shift.shape) != 1:
            return None
        factor = resolve(product.inputs[1])
        if factor is None or factor.size != 1:
            return Reason(ToyCause.FACTOR, {"size": 0 if factor is None else factor.size})
        attributes = {"alpha": float(factor.array().reshape(()))}
        return NodesMatch(TOY, [product, node], [product.inputs[0], shift], [node.outputs[0]], attributes)


def patterns() -> Sequence[Any]:
    """Return the one pattern."""
    return [ScaleAndShift()]


KIT = OperatorKit(TOY, reference, bound, samples, patterns=patterns)
