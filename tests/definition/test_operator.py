"""`exporter.operator`: an operator with a forward, a backward and an attribute, on every path; and what it refuses."""

from __future__ import annotations

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
from exporter.promises.result import Outcome
from ort_ops import ContractError, DefinitionError, Float, Integer
from ort_ops.models.make import make_model
from ort_ops.numerics.bound import ROUNDED
from ort_ops.numerics.compare import Verdict, compare
from ort_ops.opdef import registry
from ort_ops.opdef.call import make_call
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.opdef.operator import Operator
from ort_ops.opdef.signature import read_operator

from .functions import DOMAIN, Defined, W, X, backward, floor_sum, kernel, scale

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


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


@pytest.mark.long
def test_check_asks_no_more_of_one_example_than_it_can_prove(define: Defined) -> None:
    op = define("Checked", scale, examples=[X])
    found = exporter.check_operator(op.operator.op_type, compile_backend=None)
    assert found.is_ok, found.table()
    (few,) = found.of(Outcome.FEW)
    assert few.detail == "8 calls; add to examples= what they lack: an empty array, two values of factor"
    (not_run,) = found.of(Outcome.NOT_RUN)
    assert (not_run.promise, not_run.subject) == ("body", "body, bfloat16")
    assert not_run.detail == "onnxruntime has no Mul in bfloat16; give a body= that casts to float32 and back"
    assert ", on few samples; not run here: body (body, bfloat16)" in found.conclusion()
    op = define("Checked", scale, examples=[X, (X, {"factor": 0.5}), torch.ones(0, 4)])
    found = exporter.check_operator(op.operator.op_type, compile_backend=None)
    assert found.is_ok, found.table()
    assert not found.of(Outcome.FEW)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_body_of_the_author_s_is_compared_with_the_function(define: Defined, is_right: bool, tmp_path: Path) -> None:
    def make_body(opset: int, types: Any) -> list[onnx.NodeProto]:
        factor = onnx.helper.make_node("Constant", [], ["wide"])
        factor.attribute.append(onnx.AttributeProto(name="value_float", type="FLOAT", ref_attr_name="factor"))
        like = onnx.helper.make_node("CastLike", ["wide", "x"], ["f"])
        return [factor, like, onnx.helper.make_node("Mul" if is_right else "Add", ["x", "f"], ["y"])]

    op = define("OwnBody", scale, examples=[X], body=make_body)
    onnx.save(make_model(op.operator, [["n", 4]], {"factor": 0.3}, types={"Float": "float32"}), tmp_path / "own.onnx")
    if is_right:
        assert exporter.verify(tmp_path / "own.onnx", batch_sizes=[2], compile_backend=None).is_ok
        return
    with pytest.raises(DefinitionError, match="OwnBody: the body given by body= gives another y than the function for"):
        exporter.verify(tmp_path / "own.onnx", batch_sizes=[2], compile_backend=None)


def test_torch_and_onnx_compute_with_the_same_attribute(define: Defined) -> None:
    """A node holds 32 bits of 0.1; in float64 torch would see the difference."""
    op = define("Stored", scale, examples=[X])
    assert op(torch.ones(1, dtype=torch.float64), factor=0.1).item() == float(np.float32(0.1))
    assert torch.ops.tests_definition.stored(torch.ones(1).double(), 0.1).item() == float(np.float32(0.1))


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


def norm(x: Float, g: Float, *, eps: float = 1e-5) -> Float:
    centered = x - x.mean(-1, keepdim=True)
    return centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps) * g


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_body_is_made_for_the_element_type_of_a_model(define: Defined, dtype: str) -> None:
    op = define("Norm", norm, examples=[(X, W)])
    model = make_model(op.operator, [["n", 4], [4]], {"eps": 1e-3}, types={"Float": dtype})
    x, w = X.numpy().astype(dtype), W.numpy().astype(dtype)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x, "g": w})
    exact = norm(torch.from_numpy(x).double(), torch.from_numpy(w).double(), eps=float(np.float32(1e-3))).numpy()
    call = make_call(op.operator, [x, w], {"eps": 1e-3})
    assert op.kit is not None
    (error,) = op.kit.bound(call, ROUNDED)
    assert error is not None
    assert compare(y, exact, error, call.element_type).verdict is Verdict.OK


def test_one_body_serves_one_element_type(define: Defined) -> None:
    op = define("Mixed", norm, examples=[(X, W)])
    with pytest.raises(DefinitionError, match=r"is for one element type in a model, and the model has .*float"):
        make_function(op.operator, 20, {"Float": ["float32", "float16"]})


def test_a_function_may_return_its_input(define: Defined) -> None:
    op = define("Same", same, examples=[X])
    model = make_model(op.operator, [["n", 4]], types={"Float": "float32"})
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X.numpy()})
    assert np.array_equal(y, X.numpy())
    assert torch.equal(op(X), X)


def same(x: Float) -> Float:
    return x


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
