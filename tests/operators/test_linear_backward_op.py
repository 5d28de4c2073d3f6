"""``mylinear::linear_backward``: values, derivatives, transforms, and one node in every kind of graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

import exporter
from exporter.operators.mylineargrad.functional import linear_backward
from exporter.torch_ops.gradients import check_gradients
from exporter.verification.verify import verify
from ort_ops.models.make import make_model
from ort_ops.opdef.operator import ContractError
from ort_ops.opdef.signature import Float, Out
from ort_ops.operators.mylineargrad import numpy_kernel
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD
from ort_ops.python_kernels.decorator import implements

# torch's own, in forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
LINEAR, BACKWARD = torch.ops.mylinear.linear.default, torch.ops.mylinear.linear_backward.default
MASKS = [mask for mask in itertools.product((True, False), repeat=3) if any(mask)]
LEADING: list[tuple[int, ...]] = [(3,), (), (2, 3), (0,)]


def sample(leading: tuple[int, ...] = (3,), dtype: torch.dtype = torch.float64, batch: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((*leading, 4), (*leading, 5), (4, 5))
    lead = (batch,) if batch else ()
    return [torch.rand(*lead, *shape, generator=generator, dtype=dtype) for shape in shapes]


def formula(grad: Tensor, x: Tensor, weight: Tensor, mask: Any = (True, True, True)) -> tuple[Tensor, ...]:
    rows, x_rows = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    found = (grad @ weight.conj(), rows.T @ x_rows.conj(), rows.sum(0))
    return tuple(value if wanted else grad.new_empty(0) for value, wanted in zip(found, mask, strict=True))


def wanted(function: Callable[..., Any], mask: tuple[bool, ...]) -> Callable[..., tuple[Tensor, ...]]:
    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(v for v, is_wanted in zip(function(*tensors, list(mask)), mask, strict=True) if is_wanted)

    return call


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_what_is_wanted_is_computed_and_the_rest_is_empty(mask: tuple[bool, ...], leading: tuple[int, ...]) -> None:
    tensors = sample(leading)
    for got, expected in zip(linear_backward(*tensors, mask), formula(*tensors, mask), strict=True):
        assert got.shape == expected.shape
        assert torch.allclose(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128])
def test_the_backward_of_the_op_has_the_bits_of_eager_mode(dtype: torch.dtype) -> None:
    results = []
    for function in (exporter.linear, LINEAR):
        grad, x, weight = sample((2, 3), dtype)
        leaves = [x.requires_grad_(), weight.requires_grad_(), torch.rand(4).to(dtype).fill_(0.5).requires_grad_()]
        results.append(torch.autograd.grad(function(*leaves), leaves, grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.rand(2, 4)}, r"MYLINEARGRAD: grad must be \[3, 4\] \(x is \[3, 5\]\), got \[2, 4\]"),
        ({2: torch.rand(5, 4)}, r"MYLINEARGRAD: weight must be \[out_features, 5\].*; is it transposed\?"),
        ({1: torch.rand(3, 5).double()}, r"MYLINEARGRAD: x must be float32 \(the dtype of grad\), got float64"),
        ({0: torch.rand(3, 4, dtype=torch.complex64)}, r"MYLINEARGRAD: x must be complex64 \(the dtype of grad\)"),
        ({0: torch.ones(3, 4, dtype=torch.int64)}, r"MYLINEARGRAD: grad must be float64, float32, .* got int64"),
    ],
)
def test_the_contract_is_checked(change: dict[int, Tensor], message: str) -> None:
    tensors = sample(dtype=torch.float32)
    for index, tensor in change.items():
        tensors[index] = tensor
    with pytest.raises(ContractError, match=message):
        linear_backward(*tensors)


@pytest.mark.parametrize(
    ("dtype", "mask"), [*((torch.float64, mask) for mask in MASKS), (torch.complex128, MASKS[0])], ids=str
)
def test_the_op_has_first_and_second_derivatives(dtype: torch.dtype, mask: tuple[bool, ...]) -> None:
    tensors = [tensor.requires_grad_() for tensor in sample((2,), dtype)]
    assert gradcheck(wanted(BACKWARD, mask), tensors)
    assert gradgradcheck(wanted(BACKWARD, mask), tensors)


def test_mylinear_s_op_has_three_derivatives() -> None:
    def of_gradients(*leaves: Tensor) -> Tensor:
        y = LINEAR(*leaves).tanh().sum()
        return torch.stack([g.pow(3).sum() for g in torch.autograd.grad(y, leaves, create_graph=True)]).sum()

    leaves = [torch.rand(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3), (2, 3), (2,))]
    assert gradcheck(of_gradients, leaves)
    assert gradgradcheck(of_gradients, leaves)
    check_gradients(LINEAR, leaves)


def test_what_backward_does_not_read_may_change_meanwhile() -> None:
    x, weight = torch.rand(3, 5, requires_grad=True), torch.rand(4, 5)
    inner = x * 1
    y = LINEAR(inner, weight, None)
    inner.add_(1)  # only weight is read, and it is not a leaf that needs a gradient
    y.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.sum(0).expand(3, 5))
    y = LINEAR(x * 1, weight.requires_grad_(), None)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("mask", [(True, True, True), (False, True, False)], ids=str)
def test_torch_checks_the_op(mask: tuple[bool, ...]) -> None:
    leading = (2, 3) if all(mask) else (3,)
    torch.library.opcheck(BACKWARD, (*(t.requires_grad_() for t in sample(leading)), list(mask)))


@pytest.mark.parametrize("dims", [d for d in itertools.product((0, None), repeat=3) if any(x == 0 for x in d)], ids=str)
@pytest.mark.parametrize("leading", [(3,), (), (2, 3)], ids=str)
def test_vmap(leading: tuple[int, ...], dims: tuple[int | None, ...]) -> None:
    pairs = zip(sample(leading, batch=6), sample(leading), dims, strict=True)
    tensors = [one if dim is None else many for many, one, dim in pairs]
    for mask in ((True, True, True), (True, False, False)):
        got, expected = (torch.func.vmap(f, in_dims=(*dims, None))(*tensors, mask) for f in (BACKWARD, formula))
        assert all(a.shape == b.shape and torch.allclose(a, b) for a, b in zip(got, expected, strict=True))


def test_transforms_and_forward_mode() -> None:
    tensors = sample()

    def total(function: Callable[..., Any]) -> Callable[..., Tensor]:
        return lambda *t: torch.stack([o.sin().sum() for o in function(*t, [True, True, True])]).sum()

    for transform in (
        lambda f: torch.func.grad(f, (0, 1, 2))(*tensors),
        lambda f: torch.func.jvp(f, tuple(tensors), tuple(t + 1 for t in tensors)),
        lambda f: (torch.func.hessian(f, 0)(*tensors),),
    ):
        assert all(
            torch.allclose(a, b) for a, b in zip(transform(total(BACKWARD)), transform(total(formula)), strict=True)
        )
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, torch.ones_like(t)) for t in tensors]
        for pair in zip(BACKWARD(*duals, [True] * 3), formula(*duals), strict=True):
            assert torch.allclose(*(forward_ad.unpack_dual(value).tangent for value in pair))


def test_autocast_casts_as_linear_does() -> None:
    results = []
    for function in (LINEAR, F.linear):
        leaves = [t.requires_grad_() for t in (*sample(dtype=torch.float32)[1:], torch.rand(4).fill_(0.5))]
        with torch.autocast("cpu", torch.bfloat16):
            loss = function(*leaves).float().square().sum()
            results.append(torch.autograd.grad(loss, leaves))  # within autocast too
    assert all(torch.equal(a, b) and a.dtype is torch.float32 for a, b in zip(*results, strict=True))


def count_ops(graph: torch.fx.Graph) -> dict[str, int]:
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    return {name: names.count(name) for name in names if name.startswith("mylinear") or "mm" in name}


def test_a_traced_backward_keeps_one_node_for_each_layer() -> None:
    def step(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        loss = LINEAR(LINEAR(x, first, None).tanh(), second, None).square().mean()
        return torch.autograd.grad(loss, (first, second))

    leaves = [torch.rand(4, 3), torch.rand(5, 3, requires_grad=True), torch.rand(2, 5, requires_grad=True)]
    graph = make_fx(step, tracing_mode="symbolic")(*leaves).graph
    assert count_ops(graph) == {"mylinear.linear.default": 2, "mylinear.linear_backward.default": 2}
    masks = [node.args[3] for node in graph.nodes if str(node.target) == "mylinear.linear_backward.default"]
    assert masks == [[True, True, False], [False, True, False]]


def test_a_traced_second_derivative_is_made_of_the_ops_alone() -> None:
    def forces(x: Tensor, weight: Tensor) -> Tensor:
        (force,) = torch.autograd.grad(LINEAR(x, weight, None).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(force.square().sum(), weight)[0]

    tensors = torch.rand(4, 3, requires_grad=True), torch.rand(5, 3, requires_grad=True)
    traced = make_fx(forces)(*tensors)
    assert set(count_ops(traced.graph)) == {"mylinear.linear.default", "mylinear.linear_backward.default"}
    assert torch.allclose(traced(*tensors), forces(*tensors))


def nodes_of(path: Path) -> list[tuple[str, list[str]]]:
    return [(node.op_type, list(node.output)) for node in onnx.load(path).graph.node]


class Weights(nn.Module):
    """Gradients of the weight alone, of a call that gives all, and of one that wants one; and one that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, 3))

    def forward(self, grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        other = linear_backward(x @ self.weight.T, x, self.weight, (False, True, False))
        return linear_backward(grad, x, self.weight)[1], other[1], other[2]


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_each_call_is_one_node_without_the_outputs_that_nobody_reads(engine: str, tmp_path: Path) -> None:
    path, args = tmp_path / "m.onnx", (torch.rand(4, 2), torch.rand(4, 3))
    result = exporter.export(Weights(), args, path, engine=engine, output_names=["a", "b", "c"])
    assert result.num_nodes == {"mylinear::MYLINEARGRAD": 2}
    found = [outputs for op_type, outputs in nodes_of(path) if op_type == "MYLINEARGRAD"]
    assert sorted(found) == [["", "a", ""], ["", "b", ""]]  # and c, which is empty in torch, is an empty constant
    assert onnx.load(path).graph.output[2].type.tensor_type.shape.dim[0].dim_value == 0


MISTAKES: dict[str, Callable[..., Any]] = {
    "GX by the transposed weight": lambda g, x, w, out: np.matmul(g, w.T, out=out[0]),
    "GX of X": lambda g, x, w, out: np.matmul(x, w, out=out[0]),
    "GW transposed": lambda g, x, w, out: np.copyto(out[1], out[1].T.copy()),
    "GB of one leading dimension": lambda g, x, w, out: np.copyto(out[2], g[0].sum(0) if g.ndim > 2 else g[0]),
}


@pytest.mark.parametrize("mistake", [None, *MISTAKES])
def test_verify_proves_a_right_kernel_and_catches_a_wrong_one(
    mistake: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = numpy_kernel.KERNEL

    def kernel(grad: Float, x: Float, weight: Float, *, out: Out) -> tuple[Float | None, Float | None, Float | None]:
        right(grad, x, weight, out=out)
        if mistake is not None:
            with np.errstate(all="ignore"):
                MISTAKES[mistake](grad, x, weight, out)
        return out  # type: ignore[no-any-return]

    monkeypatch.setattr(numpy_kernel, "KERNEL", implements(MYLINEARGRAD)(kernel))
    shapes = [["batch", 4, 5], ["batch", 4, 5], np.eye(5, dtype=np.float32) + np.triu(np.ones((5, 5), np.float32))]
    onnx.save(make_model(MYLINEARGRAD, shapes), tmp_path / "square.onnx")  # square: no shape gives a mistake away
    result = verify(tmp_path / "square.onnx", compile_backend=None, batch_sizes=[3])
    assert {row.backend for row in result.rows if row.is_violated} == ({"python"} if mistake else set()), result.table()
    assert any(row.backend == "python" and row.comparison is not None for row in result.rows)
