"""check_gradients and count_calls; the operator itself is in test_functional_*.py."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from exporter.operators.mylinear.functional import LinearF, linear
from exporter.operators.mylinear.module import MyLinear
from exporter.torch_ops.counting import count_calls
from exporter.torch_ops.gradients import GradientError, check_gradients
from ort_ops.operators.mylinear.contract import MYLINEAR

LEADING = [(), (3,), (0,), (2, 3), (2, 0, 3)]


def sample(leading: tuple[int, ...] = (3,), *, bias: bool = True, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(*leading, 2), (4, 2), (4,)][: 3 if bias else 2]
    return [torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def test_a_wrong_gradient_is_named() -> None:
    class Wrong(LinearF):
        @staticmethod
        def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
            grad_x, grad_weight, grad_bias = LinearF.backward(ctx, grad)
            return grad_x, None if grad_weight is None else 2 * grad_weight, grad_bias

    def wrong(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return Wrong.apply(x, weight, bias)

    inputs = sample()
    with pytest.raises(GradientError, match="the gradient of weight is wrong") as raised:
        check_gradients(wrong, inputs)
    said = str(raised.value)
    assert "\n" not in said
    pattern = (
        r"worst by weight\[(\d), (\d)\] of output 0\[(\d), (\d)\]: numerical (\S+), analytical (\S+), difference (\S+)$"
    )
    found = re.search(pattern, said)
    assert found is not None, said
    i, j, row, column = map(int, found.groups()[:4])
    numerical, analytical, difference = map(float, found.groups()[4:])
    exact = inputs[0][row, j].item() if column == i else 0.0
    assert numerical == pytest.approx(exact, rel=1e-4)
    assert analytical == pytest.approx(2 * exact, rel=1e-4)
    assert difference == pytest.approx(exact, rel=1e-2)
    assert exact == pytest.approx(float(inputs[0].max()))


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
    with pytest.raises(GradientError, match="the second derivative by x is wrong") as raised:
        check_gradients(lambda x: Once.apply(x), torch.tensor([0.5, 0.25, 0.125]))
    assert re.search(
        r"by x\[(\d)\] of the gradient of x\[\1\]: numerical 1\.\d+, analytical 0, diff.*$", str(raised.value)
    )


def test_what_is_no_single_element_keeps_torch_s_words() -> None:
    class Complex(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 2j

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad

    with pytest.raises(
        GradientError, match=r"is wrong, compared with finite differences: .*mismatch for output 0[^\n]+$"
    ):
        check_gradients(Complex.apply, torch.rand(2, dtype=torch.complex128))


def test_calls_are_counted() -> None:
    with count_calls() as calls:
        linear(*sample())
        linear(*sample())
        assert calls == {MYLINEAR.op_type: 2}
    linear(*sample())
    assert calls.total() == 2
