"""`linear`, which picks the implementation of the operator for the place where it is called.

docs/torch_operator.md says why:

- eager: `PlainLinearF`, past the slow Python wrapper of ``Function.apply``;
- ``torch.func``, forward-mode differentiation, ``torch.onnx.export(dynamo=False)``: `LinearF`, which is
  complete; for forward mode over forward mode, which torch gets wrong for any autograd function, ``F.linear``;
- ``torch.compile``: `TraceableLinearF`, which is `LinearF` without ``jvp``, which dynamo cannot trace;
- ``torch.export`` (and so ``torch.onnx.export(dynamo=True)``) and ``torch.jit.trace``: the library op
  ``mylinear::linear``, which stays one node where an autograd function would be dissolved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

import exporter.operators.mylinear.library_op as library_op
from exporter.operators.mylinear.arguments import autocast, is_right
from exporter.operators.mylinear.autograd import LinearF, PlainLinearF, TraceableLinearF
from exporter.operators.mylinear.version_2.functional import linear_activation
from exporter.torch_ops.counting import counters
from exporter.torch_ops.torch_private import (
    are_transforms_active,
    fast_apply,
    forward_mode_depth,
    forward_mode_level,
    is_any_autocast_enabled,
    is_tracing,
)
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.version_2.contract import NONE

__all__ = ["LinearF", "library_op", "linear"]

_OP_TYPE = MYLINEAR.op_type
_complete_apply: Callable[..., Tensor] = LinearF.apply
_traceable_apply: Callable[..., Tensor] = TraceableLinearF.apply
_fast_apply: Callable[..., Tensor] = fast_apply(PlainLinearF)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, or an activation of it, with a backward of our own.

    The numbers are those of ``torch.nn.functional.linear`` and torch's activation. In float16 and bfloat16 torch rounds
    the sum before the activation; the operator's kernels in onnxruntime do not, and are nearer to the exact result.

    Args:
        x: ``[..., in_features]``; float64, float32, float16, bfloat16 (or complex, which cannot be exported).
        weight: ``[out_features, in_features]``, dtype and device of ``x``; also float16 or bfloat16 where ``x`` is
            float32: the sums are then of ``weight.float()``, and its gradient has the dtype of the weight.
        bias: ``[out_features]``, dtype and device of ``x``, or None.
        activation: relu, gelu, gelu_tanh, silu, sigmoid or tanh; None or ``none`` for none.

    Returns: ``[..., out_features]``, dtype of ``x`` (of autocast where that is on).
    Raises: ContractError (a ValueError) if a shape, dtype or device breaks the contract, TypeError for no tensor.

    >>> linear(torch.tensor([[3.0, 2.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([4.0]))
    tensor([[16.]])
    >>> linear(torch.tensor([[3.0, 2.0]]), torch.tensor([[-2.0, -3.0]]), activation="relu")
    tensor([[0.]])
    """
    if activation is not None:
        return linear_activation(x, weight, bias, activation)
    if torch.compiler.is_compiling():
        return _compiled_linear(x, weight, bias)
    if has_torch_function_variadic(x, weight, bias):  # tensor subclasses, and torch.fx.symbolic_trace
        return handle_torch_function(linear, (x, weight, bias), x, weight, bias)
    if is_tracing():
        return _traced_linear(x, weight, bias)
    if is_any_autocast_enabled():
        x, weight, bias = autocast(x, weight, bias)
    if not is_right(x, weight, bias):
        return linear_activation(x, weight, bias, NONE)
    for counter in counters:
        counter[_OP_TYPE] += 1
    if are_transforms_active():
        if forward_mode_depth() in (0, 1):
            return _complete_apply(x, weight, bias)
        return F.linear(x, weight, bias)
    if forward_mode_level() >= 0:
        return _complete_apply(x, weight, bias)
    return _fast_apply(x, weight, bias)


def _of_tensors(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Be `linear` for torch.fx, which unwraps what it traces, and takes every parameter for one to be given."""
    return linear(x, weight, bias)


linear.__signature__ = inspect.signature(linear)  # type: ignore[attr-defined]
linear.__wrapped__ = _of_tensors  # type: ignore[attr-defined]


def _compiled_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `linear` under torch.compile and torch.export, which trace into it."""
    x, weight, bias = autocast(x, weight, bias)
    if not is_right(x, weight, bias):
        return linear_activation(x, weight, bias, NONE)
    if torch.compiler.is_exporting():
        return torch.ops.mylinear.linear.default(x, weight, bias)  # type: ignore[no-any-return]
    if torch.compiler.is_dynamo_compiling():
        return _traceable_apply(x, weight, bias)
    return _complete_apply(x, weight, bias)


def _traced_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `linear` under TorchScript's tracer, where sizes are tensors and comparing them would be recorded."""
    if x.dtype != weight.dtype:
        return linear_activation(x, weight, bias, NONE)
    if torch.onnx.is_in_onnx_export():
        if is_any_autocast_enabled():
            x, weight, bias = autocast(x, weight, bias)
        for counter in counters:
            counter[_OP_TYPE] += 1
        return _complete_apply(x, weight, bias)
    return torch.ops.mylinear.linear.default(x, weight, bias)  # type: ignore[no-any-return]
