"""`linear_activation`, which `linear` calls for what version 1 has not: activations, and 16-bit weights under float32.

Which implementation runs where:

- eager: `ActivationF`;
- ``torch.func`` and forward-mode differentiation: torch's own operations, which are right in each of them;
- ``torch.compile``: `linear` and torch's own activation, which the compiler fuses, and decides what to save;
- ``torch.export`` and TorchScript's tracer: the library op ``mylinear::linear_activation``, which stays one node.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from exporter.operators.mylinear.arguments import autocast
from exporter.operators.mylinear.autograd import TraceableLinearF
from exporter.operators.mylinear.version_2 import library_op
from exporter.operators.mylinear.version_2.activations import ACTIVATIONS, activated
from exporter.operators.mylinear.version_2.arguments import check, check_activation
from exporter.operators.mylinear.version_2.autograd import ActivationF
from exporter.torch_ops.counting import counters
from exporter.torch_ops.torch_private import (
    are_transforms_active,
    fast_apply,
    forward_mode_level,
    is_any_autocast_enabled,
    is_tracing,
)
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.version_2.contract import NONE

__all__ = ["library_op", "linear_activation"]

_OP_TYPE = MYLINEAR.op_type
_fast_apply: Callable[..., tuple[Tensor, Tensor | None]] = fast_apply(ActivationF)
_traceable_apply: Callable[..., Tensor] = TraceableLinearF.apply


def linear_activation(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = NONE) -> Tensor:
    """Return an activation of ``x @ weight.T + bias``: `exporter.linear`, which calls this.

    >>> linear_activation(torch.tensor([[3.0, 2.0]]), torch.tensor([[-2.0, -3.0]]), activation="relu")
    tensor([[0.]])
    """
    check_activation(activation)
    if torch.compiler.is_compiling():
        return _compiled(x, weight, bias, activation)
    if has_torch_function_variadic(x, weight, bias):  # tensor subclasses, and torch.fx.symbolic_trace
        return handle_torch_function(linear_activation, (x, weight, bias), x, weight, bias, activation)
    if is_any_autocast_enabled():
        x, weight, bias = autocast(x, weight, bias)
    if is_tracing():
        if torch.onnx.is_in_onnx_export():
            _count()
        return torch.ops.mylinear.linear_activation.default(x, weight, bias, activation)  # type: ignore[no-any-return]
    check(x, weight, bias, activation)
    _count()
    if are_transforms_active() or forward_mode_level() >= 0:
        return activated(F.linear(x, weight.to(x.dtype), bias), activation)
    if not torch.is_grad_enabled():  # inside of an autograd function torch does not say so
        total = F.linear(x, weight.to(x.dtype), bias)
        return total if activation == NONE else ACTIVATIONS[activation].apply_in_place(total)
    return _fast_apply(x, weight, bias, activation)[0]


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Compute under torch.compile and torch.export, which trace into it."""
    x, weight, bias = autocast(x, weight, bias)
    check(x, weight, bias, activation)
    if torch.compiler.is_exporting():
        return torch.ops.mylinear.linear_activation.default(x, weight, bias, activation)  # type: ignore[no-any-return]
    if torch.compiler.is_dynamo_compiling():
        return activated(_traceable_apply(x, weight.to(x.dtype), bias), activation)
    return activated(F.linear(x, weight.to(x.dtype), bias), activation)


def _count() -> None:
    for counter in counters:
        counter[_OP_TYPE] += 1
