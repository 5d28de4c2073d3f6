"""`check_gradients`: is the backward of an operator or a module the derivative of its forward?"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from torch.func import functional_call

from ort_ops.errors import MylinearError


class GradientError(MylinearError, ArithmeticError):
    """A backward that is not the derivative of its forward; the message names the argument."""


def check_gradients(
    module_or_function: nn.Module | Callable[..., Any],
    inputs: Tensor | Sequence[Tensor | None],
    *,
    second_order: bool = True,
) -> None:
    """Compare first and second derivatives with finite differences, in float64 (complex128), one argument at a time.

    Args:
        module_or_function: what to check. A module is copied; its parameters are checked as well as its inputs.
        inputs: the positional arguments; floating-point tensors are taken to float64, complex ones to complex128, and
            others passed as they are.
        second_order: whether to check the derivatives of the backward too.

    Raises:
        GradientError: naming the argument or parameter whose gradient is wrong, with torch's own comparison.

    >>> check_gradients(lambda x, y: x * y.sin(), (torch.rand(3, 2), torch.rand(2)))
    """
    positional = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    names = _argument_names(module_or_function, len(positional))
    arguments: dict[str, Any] = dict(zip(names, map(_widened, positional), strict=True))
    if isinstance(module_or_function, nn.Module):
        module = copy.deepcopy(module_or_function).double()
        parameters = {name: _widened(value).clone() for name, value in module.named_parameters()}
        arguments.update(parameters)

        def call(*values: Any) -> Any:
            state = dict(zip(parameters, values[len(names) :], strict=True))
            return functional_call(module, state, values[: len(names)])
    else:
        call = module_or_function

    differentiable = [name for name, value in arguments.items() if _is_differentiable(value)]
    for chosen in [[name] for name in differentiable] + ([differentiable] if second_order else []):
        values = [v.clone().requires_grad_() if name in chosen else v for name, v in arguments.items()]
        try:
            if len(chosen) == 1:
                what = f"the gradient of {chosen[0]}"
                gradcheck(call, values)
            if second_order:
                what = f"the second derivative by {' and '.join(chosen)}"
                gradgradcheck(call, values)
        except GradcheckError as error:
            raise GradientError(f"{what} is wrong, compared with finite differences: {error}") from error


def _argument_names(function: Any, count: int) -> list[str]:
    parameters = list(inspect.signature(getattr(function, "forward", function)).parameters)[:count]
    return parameters if len(parameters) == count else [f"input {i}" for i in range(count)]


def _widened(value: Any) -> Any:
    if not _is_differentiable(value):
        return value
    return value.detach().to(torch.complex128 if value.is_complex() else torch.float64)


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
