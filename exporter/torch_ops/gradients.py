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
from ort_ops.opdef.operator import Operator

_STEP, _ATOL, _RTOL = 1e-6, 1e-5, 1e-3  # those of torch's gradcheck
_MOST_ELEMENTS = 2000  # each takes two calls


class GradientError(MylinearError, ArithmeticError):
    """A backward that is not the derivative of its forward; the message names the argument and the worst element."""


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
        GradientError: naming, in one line, the argument or parameter whose gradient is wrong, and its worst element:
            where it is, the numerical and the analytical derivative, and their difference.

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
                what, compared, outputs = f"the gradient of {chosen[0]}", call, []
                gradcheck(call, values)
            if second_order:
                what, compared = f"the second derivative by {' and '.join(chosen)}", _backward_of(call)
                outputs = [f"the gradient of {name}" for name in chosen]
                gradgradcheck(call, values)
        except GradcheckError as error:
            found = explain(error, compared, values, list(arguments), outputs)
            # Not from the error, since a traceback would show its Jacobians.
            raise GradientError(f"{what} is wrong, compared with finite differences: {found}") from None


def _backward_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function from arguments to their gradients, for the same random gradients of outputs at each call."""

    def backward(*values: Any) -> Any:
        outputs = [y for y in _as_tuple(call(*values)) if _is_differentiable(y) and y.requires_grad]
        generator = torch.Generator().manual_seed(0)
        seeds = [torch.rand(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
        by = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
        return torch.autograd.grad(outputs, by, seeds, create_graph=True, materialize_grads=True)

    return backward


def _argument_names(function: Any, count: int) -> list[str]:
    described = getattr(getattr(function, "__self__", None), "operator", None)  # of a function that a TorchKit has
    if isinstance(described, Operator):
        return [parameter.argument for parameter in described.inputs[:count]]
    found = inspect.signature(getattr(function, "forward", function)).parameters.values()
    names = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return names if len(names) == count else [f"input {i}" for i in range(count)]


def _widened(value: Any) -> Any:
    if not _is_differentiable(value):
        return value
    return value.detach().to(torch.complex128 if value.is_complex() else torch.float64)


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def explain(
    error: GradcheckError,
    call: Callable[..., Any],
    values: Sequence[Any],
    names: Sequence[str],
    output_names: Sequence[str] = (),
) -> str:
    """Return in one line what torch's gradcheck found: the worst element, or torch's words without the Jacobians.

    Args:
        call, values: what was checked.
        names: of the arguments.
        output_names: by default ``output 0``, ``output 1``.
    """
    count = sum(value.numel() for value in values if isinstance(value, Tensor) and value.requires_grad)
    found = _worst_element(call, values, names, output_names) if count <= _MOST_ELEMENTS else ""
    return found or str(error).strip().partition("\n")[0].rstrip(",")


def _worst_element(
    call: Callable[..., Any], values: Sequence[Any], names: Sequence[str], output_names: Sequence[str]
) -> str:
    """Return where the derivative of `call` differs most from finite differences, in units of what gradcheck allows.

    Returns: input, output, both values and their difference in one line; empty if nothing differs, or a complex number
        is among the values.
    """
    worst, found = 1.0, ""
    results = _as_tuple(call(*values))
    if any(isinstance(t, Tensor) and t.is_complex() for t in (*values, *results)):
        return ""
    for number, value in enumerate(values):
        if not isinstance(value, Tensor) or not value.requires_grad:
            continue
        for output, result in enumerate(results):
            if not _is_differentiable(result) or not result.numel() * value.numel():
                continue
            numerical, analytical = _jacobians(call, values, number, output)
            error = (numerical - analytical).abs()
            excess = torch.nan_to_num(error / (_ATOL + _RTOL * analytical.abs()), nan=torch.inf)
            place = int(excess.argmax())
            if not excess.flatten()[place] > worst:
                continue
            worst = float(excess.flatten()[place])
            row, column = divmod(place, numerical.shape[1])
            pair = float(numerical[row, column]), float(analytical[row, column])
            of = output_names[output] if output_names else f"output {output}"
            found = (
                f"worst by {names[number]}{_index(column, value.shape)} of {of}"
                f"{_index(row, result.shape)}: numerical {pair[0]:.6g}, analytical {pair[1]:.6g}, "
                f"difference {abs(pair[0] - pair[1]):.3g}"
            )
    return found


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    """Return one output, or several, as a tuple."""
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _jacobians(call: Callable[..., Any], values: Sequence[Any], number: int, output: int) -> tuple[Tensor, Tensor]:
    """Return finite differences and the derivative, each ``[elements of the output, elements of the argument]``."""
    value = values[number]

    def flat(moved: Tensor) -> Tensor:
        moved_values = [moved if i == number else v for i, v in enumerate(values)]
        result: Tensor = _as_tuple(call(*moved_values))[output].flatten()
        return result

    y = flat(value)
    if not y.requires_grad:
        analytical = y.new_zeros(y.numel(), value.numel())
    else:
        rows = [torch.autograd.grad(e, value, retain_graph=True, materialize_grads=True)[0].flatten() for e in y]
        analytical = torch.stack(rows)
    columns = []
    for element in range(value.numel()):
        step = value.new_zeros(value.numel())
        step[element] = _STEP
        step = step.reshape(value.shape)
        ahead, behind = (flat((value.detach() + sign * step).requires_grad_()).detach() for sign in (1, -1))
        columns.append((ahead - behind) / (2 * _STEP))
    return torch.stack(columns, 1), analytical.detach()


def _index(place: int, shape: torch.Size) -> str:
    return str([int(i) for i in torch.unravel_index(torch.tensor(place), shape)]) if len(shape) else ""
