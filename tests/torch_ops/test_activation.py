"""Activations after the sum, and 16-bit weights under float32: the numbers, derivatives and memory of torch's own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap
from torch.utils.checkpoint import checkpoint

from exporter.operators.mylinear.functional import linear
from exporter.operators.mylinear.module import MyLinear
from ort_ops.opdef.operator import ContractError

THEIRS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
OP = torch.ops.mylinear.linear_activation.default
EVERY = pytest.mark.parametrize("name", THEIRS)
# torch's own forward-mode code calls torch.jit.script
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def sample(dtype: torch.dtype = torch.float64, *, rows: int = 5, needs: str = "111") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, 7), (37, 7), (37,)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    return [t.requires_grad_(need == "1") for t, need in zip(tensors, needs, strict=True)]


def plain(name: str) -> Callable[..., Tensor]:
    return lambda x, weight, bias=None: THEIRS[name](F.linear(x, weight, bias))


def ours(name: str) -> Callable[..., Tensor]:
    return lambda x, weight, bias=None: linear(x, weight, bias, activation=name)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_values_and_gradients_are_torch_s_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    results = []
    for function in (ours(name), plain(name)):
        tensors = sample(dtype)
        with torch.no_grad():
            silent = function(*tensors)
            special = function(torch.tensor([[float("nan")] * 7, [float("inf")] * 7], dtype=dtype), *tensors[1:])
        y = function(*tensors)
        y.square().sum().backward()
        results.append([silent, special, y.detach(), *(t.grad for t in tensors)])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


@EVERY
@pytest.mark.parametrize("needs", ["100", "010", "001", "110"])
def test_what_needs_no_gradient_gets_none_and_is_not_saved(name: str, needs: str) -> None:
    def run(function: Callable[..., Tensor]) -> tuple[int, list[Tensor | None]]:
        tensors, held = sample(needs=needs), {}

        def pack(tensor: Tensor) -> Tensor:
            held[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = function(*tensors)
        y.sum().backward()
        return sum(held.values()), [t.grad for t in tensors]

    (nbytes, mine), (most, other) = run(ours(name)), run(plain(name))
    assert nbytes <= most
    assert [g is None for g in mine] == [g is None for g in other]
    assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True) if a is not None and b is not None)


@EVERY
@pytest.mark.parametrize("form", ["linear", "op"])
def test_derivatives_by_finite_differences(name: str, form: str) -> None:
    function = ours(name) if form == "linear" else lambda *t: OP(*t, name)
    tensors = [t.detach()[..., :4].requires_grad_() if t.ndim == 1 else t for t in sample(rows=2)]
    tensors[1] = tensors[1].detach()[:4].clone().requires_grad_()
    gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    gradgradcheck(function, tensors, check_fwd_over_rev=True)


@EVERY
def test_torch_checks_the_op(name: str) -> None:
    torch.library.opcheck(OP, (*sample(), name))
    x, weight, _ = sample(torch.float32, needs="000")
    torch.library.opcheck(OP, (x, weight.bfloat16(), None, name))


@EVERY
def test_transforms(name: str) -> None:
    tensors = [t.detach() for t in sample()]

    def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *t: function(*t).square().sum()

    mine, other = ours(name), plain(name)
    torch.testing.assert_close(hessian(loss(mine))(*tensors), hessian(loss(other))(*tensors))
    for dims in ((0, None, None), (None, 0, 0)):
        batch = [t if dim is None else torch.stack([t, -t]) for t, dim in zip(tensors, dims, strict=True)]
        for function in (mine, lambda *t: OP(*t, name)):
            torch.testing.assert_close(vmap(function, dims)(*batch), vmap(other, dims)(*batch))
        gradients = (vmap(grad(loss(function), (0, 1, 2)), dims)(*batch) for function in (mine, other))
        torch.testing.assert_close(*gradients)
    tangents = tuple(map(torch.cos, tensors))
    torch.testing.assert_close(jvp(mine, tuple(tensors), tangents), jvp(other, tuple(tensors), tangents))


@pytest.mark.filterwarnings("ignore")  # the compilers' own
def test_compile_export_and_checkpoint() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(MyLinear(7, 7, activation=name) for name in THEIRS))
    other = nn.Sequential(*(nn.Sequential(nn.Linear(7, 7), Of(name)) for name in THEIRS))
    other.load_state_dict(dict(zip(other.state_dict(), model.state_dict().values(), strict=True)))
    x = torch.randn(3, 7)
    other(x).sum().backward()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for call in (model, compiled, lambda t: checkpoint(model, t, use_reentrant=False)):
        model.zero_grad()
        call(x).sum().backward()
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for found in (program, program.run_decompositions()):
        assert sum(node.target is OP for node in found.graph.nodes) == len(THEIRS)
        torch.testing.assert_close(found.module()(x[:2]), other(x[:2]))
    traced = torch.jit.trace(model, x)
    assert str(traced.inlined_graph).count("mylinear::linear_activation") == len(THEIRS)
    torch.testing.assert_close(traced(x[:2]), other(x[:2]))
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(x), model(x))


class Of(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return THEIRS[self.name](x)


@EVERY
def test_autocast_casts_as_for_linear(name: str) -> None:
    results = []
    for function in (ours(name), plain(name), lambda *t: OP(*t, name)):
        tensors = sample(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*tensors)
        y.float().square().sum().backward()
        results.append([y.detach(), *(t.grad for t in tensors)])
    assert results[0][0].dtype is torch.bfloat16
    for mine, other, op in zip(*results, strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(op, other)


@pytest.mark.filterwarnings("ignore")  # the compilers' own
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [None, "relu", "gelu"])
def test_small_weights_under_float32(dtype: torch.dtype, name: str | None) -> None:
    x, weight, bias = sample(torch.float32)
    small = weight.detach().to(dtype).requires_grad_()
    act = THEIRS[name] if name else lambda t: t
    expected = act(F.linear(x, small.float(), bias))
    upstream = torch.rand_like(expected)
    theirs = torch.autograd.grad(expected, (x, small, bias), upstream)
    y = linear(x, small, bias, activation=name)
    assert torch.equal(y, expected)
    mine = torch.autograd.grad(y, (x, small, bias), upstream)
    assert mine[1].dtype is dtype
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, small, bias, activation=name), expected)
    assert torch.equal(vmap(lambda t: linear(t, small, bias, activation=name))(x), expected)


def test_errors_are_the_contract_s() -> None:
    x, weight, bias = sample(torch.float32)
    names = "none, relu, gelu, gelu_tanh, silu, sigmoid or tanh"
    for bad in ("gellu", 3):
        with pytest.raises(ContractError, match=f"MYLINEAR: attribute activation must be {names}, got {bad}"):
            linear(x, weight, bias, activation=bad)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="activation must be none"):
        MyLinear(2, 3, activation="Relu")
    with pytest.raises(
        ContractError, match=r"weight must be float32, float16 or bfloat16 \(x is float32\), got float64"
    ):
        linear(x, weight.double(), bias, activation="relu")
    with pytest.raises(ContractError, match=r"weight must be bfloat16 \(the dtype of x\), got float16"):
        linear(x.bfloat16(), weight.half())
    with pytest.raises(ContractError, match=r"bias must be float32 \(the dtype of x\), got bfloat16"):
        linear(x, weight.bfloat16(), bias.bfloat16())
    with pytest.raises(ContractError, match=r"weight must be .* is it transposed"):
        linear(x, weight.t().bfloat16(), bias)
    with pytest.raises(ContractError, match=r"x must be float64, .* got complex64"):
        linear(x.cfloat(), weight.cfloat(), activation="tanh")


def test_the_module_keeps_its_activation() -> None:
    layer = MyLinear(7, 3, activation="gelu")
    assert "activation=gelu" in repr(layer)
    assert list(layer.state_dict()) == ["weight", "bias"]
    copied: Any = pickle.loads(pickle.dumps(layer))
    x = torch.rand(2, 7)
    assert torch.equal(copied(x), F.gelu(F.linear(x, layer.weight, layer.bias)))
    assert torch.equal(MyLinear(7, 3, activation="none")(x).sign().abs(), torch.ones(2, 3))


def test_where_this_torch_lets_no_kernel_go_below_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter.operators.mylinear.version_2 import library_op
    from exporter.torch_ops.library_ops import kernels

    monkeypatch.setattr(kernels, "CAN_GO_BELOW_AUTOGRAD", False)
    library = torch.library.Library("exporter_tests", "FRAGMENT")
    op = kernels.define_overload(library, "plain_activation", library_op.SCHEMA, library_op.KERNELS)
    for name in THEIRS:
        gradcheck(lambda *t, name=name: op(*t, name), sample(rows=1))
        gradgradcheck(lambda *t, name=name: op(*t, name), sample(rows=1), fast_mode=True)
