"""Two small operators for the tests of sessions: kits made here and registered for one test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.opdef import registry
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import AbsentInput, Attribute, Operator, Parameter, TypeVariable
from ort_ops.opdef.shapes import Shape
from ort_ops.python_kernels.decorator import implements

DOMAIN = "test.kits"
T = TypeVariable("T", ("float64", "float32", "float16"))
Real = Annotated[NDArray[Any], T]


def _affine_body(opset: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    factor = helper.make_node("Constant", [], ["factor"])
    factor.attribute.append(
        onnx.AttributeProto(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha")
    )
    return [
        factor,
        helper.make_node("CastLike", ["factor", "X"], ["alpha_like"]),
        helper.make_node("Mul", ["X", "alpha_like"], ["product"]),
        helper.make_node("Add", ["product", "SHIFT"], ["Y"]),
    ]


def _like_first(shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> list[Shape | None]:
    return [shapes[0]]


AFFINE = Operator(
    DOMAIN,
    "Affine",
    1,
    (
        Parameter("X", "x", T),
        Parameter("SHIFT", "shift", T, is_optional=True, absent=AbsentInput(-0.0, (("X", -1),))),
    ),
    (Parameter("Y", "y", T),),
    infer_shape=_like_first,
    make_body=_affine_body,
    attributes=(Attribute("alpha", 1, "float", default=1.0),),
    package="test-kits",
)
"""Y = alpha X + SHIFT."""

NEGATE = Operator(
    DOMAIN,
    "Negate",
    1,
    (Parameter("X", "x", T),),
    (Parameter("Y", "y", T),),
    infer_shape=_like_first,
    make_body=lambda opset, types: [helper.make_node("Neg", ["X"], ["Y"])],
    package="test-kits",
)
"""Y = -X, without attributes, so that onnxruntime-extensions can run it."""

calls: list[str] = []
"""The operators whose Python kernels ran."""


@implements(AFFINE)
def affine(x: Real, shift: Real | None = None, *, alpha: float = 1.0) -> Real:
    calls.append("Affine")
    if x.size and x.flat[0] == 13:
        raise ArithmeticError("thirteen")
    y = x * x.dtype.type(alpha)
    return y if shift is None else y + shift


@implements(NEGATE)
def negate(x: Real) -> Real:
    calls.append("Negate")
    return -x


def _not_asked(*arguments: Any) -> Any:
    raise AssertionError("a session asked for what proves an operator")


def make_kit(operator: Operator, kernel: Any = None, **others: Any) -> OperatorKit:
    python = None if kernel is None else lambda: kernel
    return OperatorKit(operator, _not_asked, _not_asked, _not_asked, python_kernel=python, **others)


def affine_kit(**others: Any) -> OperatorKit:
    return make_kit(AFFINE, affine, **others)


def negate_kit(**others: Any) -> OperatorKit:
    return make_kit(NEGATE, negate, **others)


@contextmanager
def registered(*kits: OperatorKit) -> Iterator[None]:
    calls.clear()
    for kit in kits:
        registry.add(kit)
    try:
        yield
    finally:
        for kit in kits:
            registry.remove(kit)


def in_domain(operator: Operator, domain: str) -> Operator:
    return replace(operator, domain=domain)


def chain(*nodes: onnx.NodeProto, dtype: str = "float32", domain: str = DOMAIN, version: int = 1) -> bytes:
    """A model x [batch, 3] -> y of nodes in a chain; ``W`` is a stored identity matrix, ``S`` a stored row 1, 2, 3."""
    tensor_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = "x"
    for number, node in enumerate(nodes):
        node.name = f"{node.name}{number or ''}"
        node.input[0] = value
        value = "y" if number == len(nodes) - 1 else f"h{number}"
        node.output[0] = value
    x, y = (helper.make_tensor_value_info(name, tensor_type, ["batch", 3]) for name in "xy")
    stored = [
        numpy_helper.from_array(np.eye(3).astype(dtype), "W"),
        numpy_helper.from_array(np.array([1, 2, 3]).astype(dtype), "S"),
    ]
    graph = helper.make_graph(nodes, "chain", [x], [y], stored)
    opsets = [helper.make_opsetid(name, v) for name, v in (("", 20), ("mylinear", 1), (domain, version))]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def affine_node(alpha: float = 2.0, *, shift: bool = False, domain: str = DOMAIN) -> onnx.NodeProto:
    inputs = ["x", "S"] if shift else ["x"]
    return helper.make_node("Affine", inputs, ["y"], "affine", domain=domain, alpha=alpha)


def negate_node(domain: str = DOMAIN) -> onnx.NodeProto:
    return helper.make_node("Negate", ["x"], ["y"], "negate", domain=domain)


def linear_node() -> onnx.NodeProto:
    return helper.make_node("MYLINEAR", ["x", "W"], ["y"], "linear", domain="mylinear")
