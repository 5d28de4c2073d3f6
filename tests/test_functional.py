"""The torch operator: gradients, forward-mode, vmap, compile, export, dtypes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacfwd, jacrev, vmap

from exporter import functional
from exporter.functional import LinearF, linear
from exporter.gradients import GradientError, check_gradients
from exporter.module import MyLinear

LEADING = [(), (3,), (0,), (2, 3), (2, 0, 3)]


def sample(leading: tuple[int, ...] = (3,), *, bias: bool = True, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(*leading, 2), (4, 2), (4,)][: 3 if bias else 2]
    return [torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_first_and_second_derivatives(leading: tuple[int, ...], bias: bool) -> None:
    check_gradients(linear, sample(leading, bias=bias))


@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_library_op_derivatives(leading: tuple[int, ...]) -> None:
    check_gradients(torch.ops.mylinear.linear.default, sample(leading))


@pytest.mark.parametrize("wanted", range(8))
def test_only_the_gradients_asked_for_are_computed(wanted: int) -> None:
    tensors = [tensor.requires_grad_(bool(wanted >> i & 1)) for i, tensor in enumerate(sample())]
    out = linear(*tensors)
    assert out.requires_grad is (wanted != 0)
    if not wanted:
        return

    out.sum().backward()
    expected = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    F.linear(*expected).sum().backward()
    for tensor, other in zip(tensors, expected, strict=True):
        assert (tensor.grad is None) == (other.grad is None)
        if tensor.grad is not None:
            torch.testing.assert_close(tensor.grad, other.grad)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward-mode code
@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_functional_derivatives_equal_torch_s(transform: object) -> None:
    ours = transform(linear, (0, 1, 2))(*sample())  # type: ignore[operator]
    theirs = transform(F.linear, (0, 1, 2))(*sample())  # type: ignore[operator]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "in_dims", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (1, None, 0)], ids=str
)
def test_vmap_over_any_argument(in_dims: tuple[int | None, ...]) -> None:
    tensors = []
    for tensor, dim in zip(sample((3,)), in_dims, strict=True):
        stacked = torch.stack([tensor, 2 * tensor, tensor - 1], dim) if dim is not None else tensor
        tensors.append(stacked)
    torch.testing.assert_close(vmap(linear, in_dims)(*tensors), vmap(F.linear, in_dims)(*tensors))


def test_a_wrong_gradient_is_named() -> None:
    class Wrong(LinearF):
        @staticmethod
        def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
            grad_x, grad_weight, grad_bias = LinearF.backward(ctx, grad)
            return grad_x, None if grad_weight is None else 2 * grad_weight, grad_bias

    def wrong(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return Wrong.apply(x, weight, bias)

    with pytest.raises(GradientError, match="the gradient of weight is wrong"):
        check_gradients(wrong, sample())


def test_a_wrong_parameter_gradient_of_a_module_is_named() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = MyLinear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            self.layer.bias.register_hook(lambda grad: grad * 3) if self.layer.bias.requires_grad else None
            return y + (self.layer.bias.detach() - self.layer.bias)

    with pytest.raises(GradientError, match=r"the gradient of layer\.bias is wrong"):
        check_gradients(Wrong(), torch.rand(3, 2), second_order=False)


def test_a_wrong_second_derivative_is_found() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)  # type: ignore[attr-defined]
            return x**2

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
            return grad * 2 * x.detach()

    check_gradients(Once.apply, torch.rand(3), second_order=False)
    with pytest.raises(GradientError, match="the second derivative by"):
        check_gradients(Once.apply, torch.rand(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_eager_values_equal_torch_s_bit_for_bit(dtype: torch.dtype) -> None:
    tensors = sample((5, 3), dtype=dtype)
    assert torch.equal(linear(*tensors), F.linear(*tensors))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_gives_the_same_bits_as_nn_linear(dtype: torch.dtype) -> None:
    results = []
    for layer in (MyLinear, nn.Linear):
        torch.manual_seed(0)
        model = nn.Sequential(layer(8, 16, dtype=dtype), nn.ReLU(), layer(16, 3, dtype=dtype))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.rand(32, 8, dtype=dtype)).square().mean().backward()
            optimizer.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_autocast_runs_forward_and_backward() -> None:
    module = MyLinear(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.rand(3, 2))
    out.float().sum().backward()
    assert out.dtype is torch.bfloat16
    assert module.weight.grad is not None
    assert module.weight.grad.dtype is torch.float32


@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_compile_traces_the_function_whole() -> None:
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    tensors = [tensor.requires_grad_() for tensor in sample()]
    torch.testing.assert_close(compiled(*tensors), F.linear(*tensors))
    compiled(*tensors).sum().backward()
    assert all(tensor.grad is not None for tensor in tensors)


@pytest.mark.parametrize("strict", [True, False])
def test_export_keeps_one_node_per_call(strict: bool) -> None:
    program = torch.export.export(nn.Sequential(MyLinear(2, 4), MyLinear(4, 1)), (torch.rand(3, 2),), strict=strict)
    nodes = [node for node in program.graph.nodes if node.target is torch.ops.mylinear.linear.default]
    assert len(nodes) == 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(3,), (0,), (2, 3)])
def test_library_op_passes_opcheck(leading: tuple[int, ...], bias: bool) -> None:
    tensors = [tensor.requires_grad_() for tensor in sample(leading, bias=bias)]
    torch.library.opcheck(torch.ops.mylinear.linear.default, (*tensors, *([] if bias else [None])))


def test_module_is_a_drop_in_for_nn_linear() -> None:
    ours, theirs = MyLinear(2, 4), nn.Linear(2, 4)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(3, 2)
    assert torch.equal(ours(x), theirs(x))
    assert MyLinear(2, 4, bias=False).bias is None
    torch.manual_seed(1)
    ours.reset_parameters()
    torch.manual_seed(1)
    theirs.reset_parameters()
    assert torch.equal(ours.weight, theirs.weight)


def test_fx_traces_the_module_as_one_call() -> None:
    graph = torch.fx.symbolic_trace(MyLinear(2, 4))
    assert sum(node.op == "call_function" for node in graph.graph.nodes) == 1


def test_the_public_road_serves_where_torch_s_private_names_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "_are_functorch_transforms_active", lambda: True)
    check_gradients(linear, sample())


def test_mixed_devices_give_the_contract_s_message() -> None:
    x, weight, bias = sample()
    with pytest.raises(ValueError, match=r"MYLINEAR: weight must be on meta \(the device of x\), got one on cpu"):
        linear(x.to("meta"), weight, bias)


def test_calls_are_counted() -> None:
    with functional.count_calls() as num_calls:
        linear(*sample())
        linear(*sample())
        assert num_calls() == 2
    linear(*sample())
    assert num_calls() == 2
