"""An operator for the tests of verification: an integer output, optional inputs and outputs, an attribute.

Y = scale X + OFFSET          X [..., n], OFFSET [n] or absent, Y [..., n]
COUNTS = how many of a row of X are positive          COUNTS [...], optional
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from exporter.torch_ops.kit import TorchKit
from ort_ops.numerics.bound import Arithmetic, Bound, gamma
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.onnx_objects import make_node
from ort_ops.opdef.operator import AbsentInput, Attribute, Operator, Parameter, TypeVariable
from ort_ops.opdef.shapes import Shape
from ort_ops.python_kernels.decorator import implements

Array = NDArray[Any]
_T = TypeVariable("T", ("float64", "float32"))
_I = TypeVariable("I", ("int64",))
Real = Annotated[NDArray[Any], _T]
Count = Annotated[NDArray[Any], _I]
DOMAIN, NAME = "verification.tests", "SCALE_AND_COUNT"


def infer_shape(shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> list[Shape | None]:
    """Return the shapes of Y and COUNTS."""
    x, offset = (*shapes, None)[:2]
    if x is not None and offset is not None:
        sizes = {dim for dim in (x[-1], offset[0]) if isinstance(dim, int)}
        if len(sizes) > 1:
            raise OPERATOR.error("offset", f"[{x[-1]}]", str(list(offset)))
    return [x, None if x is None else x[:-1]]


def make_body(opset: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write the operator in standard operators."""
    scale = helper.make_node("Constant", [], ["scale_float"])
    scale.attribute.append(AttributeProto(name="value_float", type=AttributeProto.FLOAT, ref_attr_name="scale"))
    last = helper.make_tensor("l", TensorProto.INT64, [1], [-1])
    zero = helper.make_tensor("z", TensorProto.FLOAT, [], [0.0])
    return [
        scale,
        helper.make_node("CastLike", ["scale_float", "X"], ["scale_like"]),
        helper.make_node("Mul", ["X", "scale_like"], ["scaled"]),
        helper.make_node("Add", ["scaled", "OFFSET"], ["Y"]),
        helper.make_node("Constant", [], ["zero_float"], value=zero),
        helper.make_node("CastLike", ["zero_float", "X"], ["zero"]),
        helper.make_node("Constant", [], ["last"], value=last),
        helper.make_node("Greater", ["X", "zero"], ["is_positive"]),
        helper.make_node("Cast", ["is_positive"], ["ones"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["ones", "last"], ["COUNTS"], keepdims=0),
    ]


OPERATOR = Operator(
    domain=DOMAIN,
    name=NAME,
    since_version=1,
    inputs=(
        Parameter("X", "x", _T),
        Parameter("OFFSET", "offset", _T, is_optional=True, absent=AbsentInput(-0.0, (("X", -1),))),
    ),
    outputs=(Parameter("Y", "y", _T), Parameter("COUNTS", "counts", _I, is_optional=True)),
    attributes=(Attribute("scale", 1, "float", default=2.0),),
    infer_shape=infer_shape,
    make_body=make_body,
    min_opset=15,
)


def _wide(call: Call) -> tuple[Array, Array, float]:
    x, offset = call.arrays
    assert x is not None
    wide_offset = np.array(-0.0) if offset is None else offset.astype(np.float64)
    return x.astype(np.float64), wide_offset, float(np.float32(call.attributes["scale"]))


def reference(call: Call) -> list[Array]:
    """Return Y in float64, and COUNTS."""
    x, offset, scale = _wide(call)
    with np.errstate(all="ignore"):
        return [scale * x + offset, (x > 0).sum(axis=-1)]


def bound(call: Call, arithmetic: Arithmetic) -> list[Bound | None]:
    """Bound Y by two roundings, and nothing else; COUNTS is exact."""
    x, offset, scale = _wide(call)
    element_type = call.element_type
    with np.errstate(all="ignore"):
        product = np.abs(scale * x)
        size = (gamma(2, element_type.unit_roundoff) + gamma(2, 2.0**-53)) * (product + np.abs(offset))
        size = size + 2 * element_type.smallest
        overflows = product * (1 + element_type.unit_roundoff) >= element_type.largest
    return [Bound(size, overflows & (scale * x > 0), overflows & (scale * x < 0)), None]


def samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterator[Call]:
    """Yield a few calls, with and without OFFSET."""
    dtype = np.dtype(types["T"].name)
    for number, shape in enumerate(((2, 3), (5, 4), (0, 3))):
        x, offset = (generator.standard_normal(s).astype(dtype) for s in (shape, shape[-1:]))
        yield make_call(OPERATOR, [x, offset if number % 2 else None], {"scale": 0.5 * number}, str(shape))


def gradient(call: Call, gradients: Sequence[Array | None]) -> list[Array | None]:
    """Return the exact gradients of X and OFFSET."""
    x, _, scale = _wide(call)
    of_y = np.zeros(x.shape) if gradients[0] is None else gradients[0].astype(np.float64)
    return [scale * of_y, None if call.array(1) is None else of_y.reshape(-1, x.shape[-1]).sum(axis=0)]


def gradient_bound(call: Call, gradients: Sequence[Array | None]) -> list[Bound | None]:
    """Bound them: one rounding, and a sum over the rows."""
    x, _, scale = _wide(call)
    of_y = np.zeros(x.shape) if gradients[0] is None else np.abs(gradients[0].astype(np.float64))
    unit, smallest = call.element_type.unit_roundoff, call.element_type.smallest
    rows = of_y.reshape(-1, x.shape[-1])
    return [
        Bound(2 * unit * abs(scale) * of_y + smallest),
        None if call.array(1) is None else Bound(gamma(len(rows) + 1, unit) * rows.sum(axis=0) + smallest),
    ]


def compute(x: Array, offset: Array | None, scale: float) -> tuple[Array, Array]:
    """Compute both outputs in the type of X; tests break it."""
    with np.errstate(all="ignore"):
        y = x * x.dtype.type(scale)
        return y if offset is None else y + offset, np.asarray((x > 0).sum(axis=-1), np.int64)


def python_kernel(function: Any) -> Any:
    """Make a Python kernel of a function like `compute`."""

    @implements(OPERATOR)
    def scale_and_count(x: Real, offset: Real | None = None, *, scale: float = 2.0) -> tuple[Real, Count | None]:
        y, counts = function(x, offset, scale)
        return y, counts

    return scale_and_count


KERNEL = python_kernel(lambda *arguments: compute(*arguments))


class _Scale(torch.autograd.Function):
    factor = 1.0
    """Of the gradient; 1 is right."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x * scale

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return grad * (ctx.scale * _Scale.factor), None


Scale = _Scale


def torch_function(x: torch.Tensor, offset: torch.Tensor | None = None, *, scale: float = 2.0) -> Any:
    """Compute both outputs in torch."""
    y = _Scale.apply(x, scale)
    return (y if offset is None else y + offset), (x > 0).sum(dim=-1)


torch.library.define(
    "verification_tests::scale_and_count", "(Tensor x, Tensor? offset=None, *, float scale=2.0) -> (Tensor, Tensor)"
)
TORCH = TorchKit(OPERATOR, "verification_tests::scale_and_count", torch_function)
KIT = OperatorKit(
    OPERATOR,
    reference,
    bound,
    samples,
    python_kernel=lambda: KERNEL,
    rows="X",
    gradient=gradient,
    gradient_bound=gradient_bound,
    torch="tests.verification.small_operator:TORCH",
)


def make_chain(*scales: float, dtype: type = np.float32, with_counts: bool = True) -> onnx.ModelProto:
    """Make a model of nodes in a row; every second one lacks its OFFSET, and the last one gives COUNTS."""
    rng = np.random.default_rng(0)
    nodes, tensors, value = [], [], "x"
    for i, scale in enumerate(scales):
        is_last = i == len(scales) - 1
        outputs = ["y" if is_last else f"h{i}", *(["counts"] if is_last and with_counts else [])]
        inputs = [value]
        if i % 2 == 0:
            tensors.append(numpy_helper.from_array(rng.standard_normal(4).astype(dtype), f"offset{i}"))
            inputs.append(f"offset{i}")
        nodes.append(make_node(OPERATOR, inputs, outputs, f"node{i}", scale=scale))
        value = f"h{i}"
    element_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = [helper.make_tensor_value_info(name, element_type, ["batch", 4]) for name in ("x", "y")]
    counts = helper.make_tensor_value_info("counts", TensorProto.INT64, ["batch"])
    graph = helper.make_graph(nodes, "chain", values[:1], [values[1], *([counts] if with_counts else [])], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
