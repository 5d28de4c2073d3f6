"""What is recorded in place of an operation of ATen gives what the operation gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from exporter.errors import ExportError
from exporter.training_step.decompositions.scalars import explicit_scalars
from exporter.training_step.decompositions.table import decompositions

aten = torch.ops.aten
Function = Callable[[Tensor], Any]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def recorded(function: Function, x: Tensor, dtype: torch.dtype = torch.float64) -> fx.GraphModule:
    """Record the gradient of a function, with our decompositions."""

    def gradient(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        result = function(leaf)
        results = result if isinstance(result, tuple) else (result,)
        total = sum((r * torch.cos(r)).sum() for r in results if r.is_floating_point())
        return torch.autograd.grad(total, leaf)[0]

    return make_fx(gradient, decomposition_table=decompositions())(x.to(dtype))


def check_gradient(function: Function, x: Tensor) -> fx.GraphModule:
    """Compare the recorded gradient with autograd's, to a few roundings of float64; return the graph."""
    graph = recorded(function, x)
    leaf = x.clone().requires_grad_()
    result = function(leaf)
    results = result if isinstance(result, tuple) else (result,)
    (expected,) = torch.autograd.grad(sum((r * torch.cos(r)).sum() for r in results if r.is_floating_point()), leaf)
    torch.testing.assert_close(graph(x), expected, rtol=1e-12, atol=1e-12)
    names = {str(node.target) for node in graph.graph.nodes}
    assert not any("backward" in name for name in names), names
    return graph


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(2, 3, 3, padding=1), (2, 2, 7)),
    "2d": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 2, 6, 5)),
    "2d with a rest": (nn.Conv2d(2, 3, 2, stride=3), (2, 2, 7, 6)),
    "2d dilated": (nn.Conv2d(2, 3, 2, dilation=2, padding=1, bias=False), (2, 2, 6, 5)),
    "2d in groups": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "2d by channel": (nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), (3, 4, 5, 5)),
    "3d": (nn.Conv3d(1, 2, 2), (2, 1, 3, 3, 3)),
    "1d transposed": (nn.ConvTranspose1d(2, 3, 3, stride=2), (2, 2, 5)),
    "2d transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 2, 4, 3)),
    "2d transposed in groups": (nn.ConvTranspose2d(4, 6, 2, groups=2, dilation=2), (2, 4, 4, 4)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_gradients_of_convolutions(case: str) -> None:
    torch.manual_seed(0)
    layer, shape = CONVOLUTIONS[case]
    layer.double()
    x = drawn(*shape)
    check_gradient(layer, x)
    weight = layer.weight.detach()
    assert isinstance(weight, Tensor)
    check_gradient(lambda w: torch.func.functional_call(layer, {"weight": w}, (x,)), weight)
    if isinstance(bias := layer.bias, Tensor):
        check_gradient(lambda b: torch.func.functional_call(layer, {"bias": b}, (x,)), bias.detach())


POOLINGS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "average": (nn.AvgPool2d(2), (2, 3, 6, 4)),
    "average, overlapping": (nn.AvgPool2d(3, 2, 1), (2, 3, 7, 6)),
    "average, padding not counted": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 7, 6)),
    "average, a window beyond the edge": (nn.AvgPool2d(4, 3, 1, ceil_mode=True), (2, 3, 7, 6)),
    "average with a divisor": (nn.AvgPool2d(3, 2, divisor_override=5), (2, 3, 7, 6)),
    "average by twos with a divisor": (nn.AvgPool2d(2, divisor_override=3), (2, 3, 4, 4)),
    "average of 1d": (nn.AvgPool1d(3, 2, 1), (2, 3, 7)),
    "average of 3d": (nn.AvgPool3d(2, 1), (2, 3, 3, 4, 3)),
    "maximum": (nn.MaxPool2d(2), (2, 3, 6, 4)),
    "maximum, overlapping": (nn.MaxPool2d(3, 1, 1, dilation=1), (2, 3, 5, 6)),
    "maximum of 1d": (nn.MaxPool1d(2), (2, 3, 6)),
    "maximum of 3d": (nn.MaxPool3d(2, 1), (2, 3, 3, 4, 3)),
    "adaptive average": (nn.AdaptiveAvgPool2d((3, 2)), (2, 3, 6, 4)),
    "adaptive average, uneven": (nn.AdaptiveAvgPool2d((4, 3)), (2, 3, 7, 5)),
    "adaptive average of 3d": (nn.AdaptiveAvgPool3d(2), (2, 3, 3, 4, 5)),
    "adaptive maximum": (nn.AdaptiveMaxPool2d(3), (2, 3, 7, 5)),
    "without a batch": (nn.AvgPool2d(3, 2, 1), (3, 7, 6)),
    "maximum without a batch": (nn.MaxPool2d(3, 2, 1), (3, 7, 6)),
    "adaptive maximum without a batch": (nn.AdaptiveMaxPool2d(3), (3, 7, 5)),
    "adaptive average without a batch": (nn.AdaptiveAvgPool2d((4, 3)), (3, 7, 5)),
}


@pytest.mark.parametrize("case", POOLINGS)
def test_gradients_of_poolings(case: str) -> None:
    function, shape = POOLINGS[case]
    check_gradient(function, drawn(*shape))


BILINEAR = drawn(2, 4, 4)
OTHERS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "cumulative product": (lambda x: x.cumprod(-1), (2, 5)),
    "layer norm": (lambda x: functional.layer_norm(x, (5,), eps=1e-3), (3, 5)),
    "group norm": (lambda x: functional.group_norm(x, 2), (3, 4, 2)),
    "RMS norm": (lambda x: functional.rms_norm(x, (5,), eps=1e-3), (3, 5)),
    "batch norm": (lambda x: functional.batch_norm(x, None, None, training=True), (4, 3)),
    "NLL loss": (lambda x: functional.nll_loss(x, torch.tensor([1, 0, 2])), (3, 4)),
    "NLL loss with weights": (lambda x: functional.nll_loss(x, torch.tensor([1, 0, 2]), x.detach()[0] ** 2), (3, 4)),
    "cross entropy of images": (lambda x: functional.cross_entropy(x, torch.ones(2, 3, dtype=torch.long)), (2, 4, 3)),
    "product": (lambda x: x.prod(-1), (3, 5)),
    "product, kept": (lambda x: x.prod(0, keepdim=True), (4, 2)),
    "product of all": (lambda x: x.prod(), (3, 3)),
    "bilinear": (lambda x: functional.bilinear(x, x, BILINEAR), (3, 4)),
    "variance": (lambda x: x.var(-1, keepdim=True, correction=2), (3, 5)),
    "variance of all": (lambda x: x.var(), (3, 5)),
    "standard deviation and mean": (lambda x: torch.std_mean(x, 0), (4, 3)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_gradients_of_other_operations(case: str) -> None:
    function, shape = OTHERS[case]
    graph = check_gradient(function, drawn(*shape))
    names = {node.target.__name__.partition(".")[0] for node in graph.graph.nodes if node.op == "call_function"}
    made_up = {"nll_loss_forward", "native_batch_norm", "native_group_norm", "native_layer_norm", "_fused_rms_norm"}
    assert not names & (made_up | {"prod", "cumprod", "var", "std_mean", "var_mean", "_trilinear"})


def test_layer_norm_of_float32_stays_one_node() -> None:
    graph = recorded(lambda x: functional.layer_norm(x, (5,)), drawn(3, 5), torch.float32)
    assert aten.native_layer_norm.default in {node.target for node in graph.graph.nodes}


def with_scalars(function: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> fx.GraphModule:
    """Record a function of a batch of 4 that may change, and make tensors of its numbers."""
    graph = make_fx(function, tracing_mode="symbolic")(drawn(4, 3).to(dtype))
    assert any(isinstance(node.meta.get("val"), torch.SymFloat) for node in graph.graph.nodes)
    explicit_scalars(graph)
    reading = {node for node in graph.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    numbers = [n for node in reading for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.SymFloat)]
    assert not numbers
    return graph


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * (2 / x.shape[0]),
        lambda x: torch.ops.aten.div.Scalar(x, 3.0 * x.shape[0] ** 0.5),
        lambda x: torch.ops.aten.add.Scalar(x, -(1 / x.shape[0])),
        lambda x: x + torch.full((x.shape[0], 2), 1 / x.shape[0], dtype=x.dtype)[:, :1],
        lambda x: x + torch.full((), 1 / (x.shape[0] - 1.5), dtype=x.dtype),
        lambda x: torch.full_like(x, 1 / x.shape[0]) + x,
    ],
    ids=["product", "root", "negative", "filled", "number", "alike"],
)
@pytest.mark.parametrize("batch", [4, 7])
def test_numbers_of_the_batch_are_exact(function: Callable[[Tensor], Tensor], batch: int) -> None:
    x = drawn(batch, 3, seed=1)
    assert torch.equal(with_scalars(function)(x), function(x))


def test_a_number_of_the_batch_is_rounded_once() -> None:
    x = drawn(7, 3).to(torch.float32)
    assert torch.equal(with_scalars(lambda x: x * (2 / x.shape[0]), torch.float32)(x), x * (2 / 7))


def test_a_number_that_no_tensor_can_stand_for_is_refused() -> None:
    with pytest.raises(ExportError, match=r"sym_sin|sin.* cannot be exported exactly"):
        with_scalars(lambda x: x * torch._sym_sin(1 / x.shape[0]))
