"""An operator for tests: Y = gain X^2, and MARK = COUNT where Y > 1; with one attribute and a backward of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.torch_ops.kit import ExampleModule
from exporter.torch_ops.library_ops.define import define_library_op
from ort_ops.numerics.bound import Arithmetic, Bound, gamma
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import AbsentInput, Attribute, Operator, Parameter, TypeVariable
from ort_ops.opdef.shapes import Shape

Array = NDArray[Any]
_T = TypeVariable("T", ("float64", "float32"))
_I = TypeVariable("I", ("int64", "int32"))


def infer_shape(shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> list[Shape | None]:
    """Return the shape of X for both outputs."""
    x, count = (*shapes, None)[:2]
    if x is not None and len(x) == 0:
        raise SQUARE.error("x", "of rank 1 or more", "[]")
    if count is not None and len(count) != 0:
        raise SQUARE.error("count", "a scalar", f"one of rank {len(count)}")
    return [x, x]


def make_body(opset: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[Any]:
    """Write the operator in standard operators."""
    from onnx import AttributeProto, helper

    gain = helper.make_node("Constant", [], ["gain_float"])
    gain.attribute.append(AttributeProto(name="value_float", type=AttributeProto.FLOAT, ref_attr_name="gain"))
    return [
        gain,
        helper.make_node("CastLike", ["gain_float", "X"], ["gain_like"]),
        helper.make_node("Mul", ["X", "X"], ["square"]),
        helper.make_node("Mul", ["square", "gain_like"], ["Y"]),
        helper.make_node("Constant", [], ["one_float"], value_float=1.0),
        helper.make_node("CastLike", ["one_float", "X"], ["one"]),
        helper.make_node("Greater", ["Y", "one"], ["is_large"]),
        helper.make_node("Sub", ["COUNT", "COUNT"], ["nothing"]),
        helper.make_node("Where", ["is_large", "COUNT", "nothing"], ["MARK"]),
    ]


SQUARE = Operator(
    domain="exporter.tests",
    name="SQUARE",
    since_version=1,
    inputs=(
        Parameter("X", "x", _T),
        Parameter("COUNT", "count", _I, is_optional=True, absent=AbsentInput(0.0)),
    ),
    outputs=(Parameter("Y", "y", _T), Parameter("MARK", "mark", _I, is_optional=True)),
    attributes=(Attribute("gain", 1, "float", default=1.0),),
    doc="Y = gain X^2, and MARK = COUNT where Y > 1, else 0.",
    infer_shape=infer_shape,
    make_body=make_body,
    min_opset=15,
)


def _exact(call: Call) -> Array:
    x = call.array(0)
    assert x is not None
    wide: Array = x.astype(np.float64)
    with np.errstate(all="ignore"):
        return float(np.float32(call.attributes["gain"])) * wide * wide


def reference(call: Call) -> Sequence[Array]:
    """Return Y in float64, and MARK."""
    y = _exact(call)
    count = call.array(1)
    count = np.zeros((), np.int64) if count is None else count
    return [y, np.where(y > 1, count, np.zeros_like(count))]


def bound(call: Call, arithmetic: Arithmetic) -> Sequence[Bound | None]:
    """Derive the bound of Y by two roundings; MARK must be equal."""
    accumulator = call.element_type
    with np.errstate(all="ignore"):
        y = np.abs(_exact(call))
        error = (gamma(2, accumulator.unit_roundoff) + gamma(2, 2.0**-53)) * y + 3 * accumulator.smallest
    return [Bound(error), None]


def samples(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterator[Call]:
    """Yield calls with both outputs."""
    x = generator.standard_normal((3, 4)).astype(types["T"].name)
    yield make_call(SQUARE, [x, np.array(2, types["I"].name)], {"gain": 0.5}, "both outputs")


def compute(x: Tensor, count: Tensor | None = None, *, gain: float = 1.0) -> Any:
    """Compute by torch's own operations."""
    y = x * x * gain
    return y if count is None else (y, torch.where(y > 1, count, torch.zeros_like(count)))


def backward(ctx: Any, grad: Tensor, grad_mark: Tensor | None = None) -> tuple[Tensor, None]:
    """Return 2 gain X G for X."""
    x, _ = ctx.saved_tensors
    return grad * x * (2 * ctx.attributes["gain"]), None


def _examples() -> Iterator[ExampleModule]:
    yield ExampleModule(Square(), (torch.rand(2, 3),))
    yield ExampleModule(Square(gain=0.5, count=3), (torch.rand(2, 3) * 3,), "both outputs")


def _num_outputs(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> int:
    return 1 if inputs[1] is None else 2


TORCH = define_library_op(
    SQUARE, "exporter_tests::square", compute, backward=backward, num_outputs=_num_outputs, examples=_examples
)
KIT = OperatorKit(SQUARE, reference, bound, samples, torch="tests.torch_ops.toy_operator:TORCH")
square = TORCH.function


class Square(nn.Module):
    """The operator as a layer, after a factor for each feature that can be trained."""

    def __init__(self, gain: float = 1.0, count: int | None = None) -> None:
        super().__init__()
        self.gain, self.count = gain, count
        self.factor = nn.Parameter(torch.tensor([1.0, 1.5, 2.0]))

    def forward(self, x: Tensor) -> Any:
        """Return Y, and MARK where there is a count."""
        count = None if self.count is None else torch.tensor(self.count)
        return square(x * self.factor, count, gain=self.gain)
