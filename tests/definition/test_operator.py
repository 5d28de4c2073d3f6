"""`exporter.operator`: an operator with a forward, a backward and an attribute, on every path; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import exporter
import ort_ops
from exporter.definition.operator import TorchOperator
from ort_ops import ContractError, DefinitionError, Float, Integer
from ort_ops.models.make import make_model
from ort_ops.opdef import registry
from ort_ops.opdef.operator import Operator
from ort_ops.opdef.signature import read_operator

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
DOMAIN = "tests.definition"
X, W = torch.linspace(-1.9, 2.05, 12).reshape(3, 4), torch.tensor([0.51, -1.03, 1.97, 1.46])


# What a user writes, in under 30 lines.


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, w = ctx.saved_tensors
    kept = grad.unsqueeze(-1) * (x * w > ctx.attributes["floor"]).to(x.dtype)
    return kept * w, (kept * x).sum(tuple(range(x.dim() - 1)))


def kernel(x, w, *, floor):  # type: ignore[no-untyped-def]  # it has the annotations of the function
    return np.maximum(x * w, x.dtype.type(floor)).sum(-1)


def floor_sum(x: Float, w: Float, *, floor: float = 0.1) -> Float:
    return torch.clamp(x * w, min=floor).sum(-1)


Defined = Callable[..., TorchOperator]


@pytest.fixture
def define() -> Iterator[Defined]:
    """Define an operator for one test."""
    made: list[TorchOperator] = []

    def one(name: str, function: Callable[..., Any] = floor_sum, **options: Any) -> TorchOperator:
        options = {"examples": [(X, W)], **options}
        made.append(exporter.operator(f"{DOMAIN}::{name}", **options)(function))
        return made[-1]

    yield one
    for each in made:
        each.remove()


def test_an_operator_goes_through_torch(define: Defined) -> None:
    op = define("FloorSum", backward=backward, kernel=kernel)
    assert torch.equal(op(X, W, floor=0.25), torch.clamp(X * W, min=0.25).sum(-1))
    assert torch.equal(op(X, w=W), op(X, W, floor=0.1))
    op.check_gradients()
    op.check_gradients(X, W, floor=-1.0)
    library_op = torch.ops.tests_definition.floorsum.default
    torch.library.opcheck(library_op, (X.clone().requires_grad_(), W.clone().requires_grad_(), 0.25))
    module = op.module(w=nn.Parameter(W), floor=0.25)
    assert [name for name, _ in module.named_parameters()] == ["w"]
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(X), module(X))


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_an_operator_goes_to_onnx_and_is_proved(define: Defined, engine: str, tmp_path: Path) -> None:
    op = define("Exported", backward=backward, kernel=kernel)
    module = op.module(w=nn.Parameter(W), floor=0.25)
    path = tmp_path / "model.onnx"
    assert exporter.export(module, X, path, engine=engine).num_nodes == {f"{DOMAIN}::Exported": 1}
    (node,) = onnx.load(path).graph.node
    assert [onnx.helper.get_attribute_value(a) for a in node.attribute] == [0.25]
    session = ort_ops.InferenceSession(path)
    assert session.kernels == {f"{DOMAIN}::Exported": "python"}
    plain = onnxruntime.InferenceSession(path)  # which knows nothing of the operator: the body runs
    for one in (session, plain):
        np.testing.assert_allclose(one.run(None, {"x": X.numpy()})[0], module(X).detach().numpy(), rtol=1e-6)
    found = exporter.verify(path, batch_sizes=[2], compile_backend=None)
    assert found.is_ok, found.table()


def test_verify_finds_a_kernel_and_a_backward_that_are_wrong(define: Defined, tmp_path: Path) -> None:
    wrong = define("Wrong", kernel=lambda x, w, floor: np.maximum(x * w, x.dtype.type(2 * floor)).sum(-1))
    exporter.export(wrong.module(w=W), X, tmp_path / "wrong.onnx")
    assert not exporter.verify(tmp_path / "wrong.onnx", batch_sizes=[2], compile_backend=None).is_ok
    op = define("Lost", backward=lambda ctx, grad: (backward(ctx, grad)[0], None))
    with pytest.raises(exporter.GradientError, match="the gradient of w is wrong"):
        op.check_gradients()


def test_torch_and_onnx_compute_with_the_same_attribute(define: Defined) -> None:
    """A node holds 32 bits of 0.1; in float64 torch would see the difference."""
    op = define("Stored", scale, examples=[X])
    assert op(torch.ones(1, dtype=torch.float64), factor=0.1).item() == float(np.float32(0.1))
    assert torch.ops.tests_definition.stored(torch.ones(1).double(), 0.1).item() == float(np.float32(0.1))


def scale(x: Float, *, factor: float = 2.0) -> Float:
    return x * factor


def test_forward_mode_and_batches_are_the_author_s(define: Defined) -> None:
    calls = []

    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        calls.append("jvp")
        return 2 * x * tangent

    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor) -> tuple[Tensor, int | None]:
        calls.append("vmap")
        return x * x, in_dims[0]

    def square(x: Float) -> Float:
        return x * x

    def of_square(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad

    op = define("Square", square, backward=of_square, jvp=jvp, vmap=vmap, examples=[X])
    x, direction = X.double(), X.double().flip(0)
    primal, tangent = torch.func.jvp(op, (x,), (direction,))
    assert torch.equal(tangent, 2 * x * direction)
    assert torch.equal(primal, x * x)
    with torch.autograd.forward_ad.dual_level():
        dual = op(torch.autograd.forward_ad.make_dual(x, direction))
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, 2 * x * direction)
    assert calls == ["jvp", "jvp"]
    assert torch.equal(torch.func.vmap(op, in_dims=1)(x), (x * x).t())
    assert torch.equal(torch.func.vmap(torch.func.grad(lambda x: op(x).sum()))(x), 2 * x)
    assert torch.equal(torch.func.jacfwd(op)(x[0]), torch.diag(2 * x[0]))
    assert "vmap" in calls
    torch.testing.assert_close(torch.func.hessian(lambda x: op(x).sum())(x[0]), 2 * torch.eye(4).double())
    op.check_gradients()


def test_two_outputs_and_no_kernel(define: Defined, tmp_path: Path) -> None:
    """In pure torch: exported, and run by the body."""

    def moments(x: Float, count: Integer, *, shift: int = 1) -> tuple[Float, Integer]:
        return x.mean(-1, keepdim=True) + shift, count + shift

    op = define("Moments", moments, examples=[(X, torch.tensor([1, 2])), (X[0], torch.tensor([1]), {"shift": 3})])
    assert op.operator.infer_shape([["n", 4], ["k"]], {"shift": 1}) == [["n", 1], ["k"]]
    model = make_model(op.operator, [["n", 4], [2]], {"shift": 2}, types={"Float": "float16", "Integer": "int64"})
    feed = {"x": X.half().numpy(), "count": np.array([4, 5])}
    y0, y1 = ort_ops.InferenceSession(model.SerializeToString()).run(None, feed)
    np.testing.assert_allclose(y0, X.half().mean(-1, keepdim=True).numpy() + 2, rtol=1e-2)
    assert y1.tolist() == [6, 7]
    onnx.save(model, tmp_path / "model.onnx")
    assert exporter.verify(tmp_path / "model.onnx", batch_sizes=[2], compile_backend=None).is_ok


def test_a_definition_can_be_made_again(define: Defined) -> None:
    first = define("Again", scale, examples=[X])
    second = define("Again", floor_sum)
    assert torch.equal(first(X, factor=3.0), X * 3)  # what holds it goes on
    assert second(X, W).shape == (3,)
    kits = [kit for kit in registry.kits() if kit.operator.name == "Again"]
    assert [len(kit.operator.inputs) for kit in kits] == [2]


def test_an_operator_that_a_package_describes_is_not_registered_twice() -> None:
    described = read_operator(scale, "tests.package", "Scale")
    op = exporter.operator(described, examples=[X])(scale)
    assert op.kit is None
    assert op.torch_kit.operator is described
    assert registry.find("tests.package", "Scale") is None
    with pytest.raises(DefinitionError, match=r"tests\.package::Scale: kernel must be part of the OperatorKit"):
        exporter.operator(described, kernel=kernel)(scale)


def flat(x: Float) -> Float:
    return x.reshape(x.shape[0], -1).sum(1) if x.dim() == 2 else x.sum()


def cast(x: Float) -> Float:
    return (x.float() * 1.1).to(x.dtype)


def along(x: Float, *, axis: int = 0) -> Float:
    return x.sum(axis)


def optional(x: Float, w: Float | None = None) -> Float:
    return x if w is None else x * w


def of_layer(x: Float) -> Float:
    return exporter.linear(x, torch.eye(4, dtype=x.dtype), None)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (flat, r"gives another y than the function for inputs \[2, 3, 4\]: the shape is \[\] instead of \[2\]"),
        (along, r"cannot be exported \(one of axis decides what is computed\): "),
        (optional, "would need to have input w, which is optional"),
        (of_layer, "must be of standard operators alone, and the function calls mylinear::MYLINEAR"),
    ],
)
def test_a_body_that_is_not_the_function_is_refused(
    define: Defined, function: Callable[..., Any], message: str
) -> None:
    op = define("Refused", function, examples=[X])
    assert op.kit is not None
    with pytest.raises(
        DefinitionError, match=f"^{DOMAIN}::Refused: the body made by exporting the function ({message})"
    ):
        make_model(op.operator, [["n", 4]], types={"Float": "float32"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": []}, "Bad: examples must be calls of the function, to export its body of, got none"),
        ({"examples": [X]}, "each of examples must be tensors for x, w, and perhaps a dict of attributes, got Tensor"),
        ({"examples": [(X, W, {"size": 1})]}, "the attributes must be among floor, got size"),
        ({"jvp": lambda ctx, x, w: x}, "jvp must come with a backward, got none"),
        ({"kernel": lambda x: x}, r"Bad: kernel must take \(x, w, \*, floor\), got \(x\)"),
        ({"library_op": "mylinear::linear"}, "library_op must be a name that torch has no op of"),
        ({"function": lambda x: x}, "Bad: input x must be annotated with a tensor type such as ort_ops.Float"),
    ],
)
def test_a_definition_that_is_wrong_is_named(define: Defined, options: dict[str, Any], message: str) -> None:
    with pytest.raises((DefinitionError, ContractError), match=message):
        define("Bad", **options)
    assert registry.find(DOMAIN, "Bad") is None


@pytest.mark.parametrize("op_type", ["mylinear::X", "ai.onnx::X", "NoDomain", "my.ops::not a name"])
def test_names_are_those_of_operators_of_one_s_own(op_type: str) -> None:
    with pytest.raises(DefinitionError, match=r"the domain must be one of your own|must be named 'domain::Name'"):
        exporter.operator(op_type, examples=[(X, W)])(floor_sum)


def test_shapes_are_the_function_s(define: Defined) -> None:
    op = define("Shapes")
    described: Operator = op.operator
    assert described.infer_shape([["n", "m", 4], [4]], {"floor": 0.0}) == [["n", "m"]]
    assert described.infer_shape([[None, 4], [4]], {"floor": 0.0}) == [[None]]
    assert described.infer_shape([None, [4]], {"floor": 0.0}) == [None]
    with pytest.raises(
        ContractError, match=r"Shapes: the inputs must be of shapes that its function takes \(.*\), got "
    ):
        op(X, W[:3])
