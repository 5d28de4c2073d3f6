"""The library op ``mylinear::linear_activation``, which stays one node for each call in exported programs.

Where gradients are wanted, it is the op ``mylinear::linear`` and torch's activation: a training step then has one node
for each, keeps what their derivatives read and no more, and computes nothing twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import exporter.operators.mylinear.library_op  # noqa: F401  # which it calls
from exporter.operators.mylinear.version_2.activations import ACTIVATIONS, activated
from exporter.operators.mylinear.version_2.arguments import check, check_activation
from exporter.torch_ops.library_ops.kernels import Kernels, define_overload
from exporter.torch_ops.library_ops.vmap import loop
from exporter.torch_ops.registration import register
from exporter.torch_ops.torch_private import are_transforms_active, below_autograd, forward_mode_level
from ort_ops.operators.mylinear.contract import DOMAIN, NAME
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2, NONE

OP = f"{DOMAIN}::linear_activation"


def _compute(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    check_activation(activation)
    check(x, weight, bias, activation)
    return activated(F.linear(x, weight.to(x.dtype), bias), activation)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    check_activation(activation)
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if all(isinstance(size, int) for tensor in tensors for size in tensor.shape):
        check(x, weight, bias, activation)
    # By torch._check, because unknown or data-dependent sizes cannot be compared yet.
    torch._check(x.shape[-1] == weight.shape[1], lambda: f"{NAME}: in_features of x and weight differ")
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
) -> tuple[Tensor, int]:
    """Compute a batch of calls: further rows where only x is batched, else a call for each."""
    op = torch.ops.mylinear.linear_activation.default
    x_dim, weight_dim, bias_dim, _ = in_dims
    if weight_dim is None and bias_dim is None and x_dim is not None:
        return op(x.movedim(x_dim, 0), weight, bias, activation), 0
    return loop(op, info.batch_size, in_dims, (x, weight, bias, activation)), 0


def _autograd(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Differentiate the op."""
    check_activation(activation)
    if are_transforms_active() or forward_mode_level() >= 0:
        return _compute(x, weight, bias, activation)  # right in every transform
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _composed(x, weight, bias, activation)
    with below_autograd():
        return torch.ops.mylinear.linear_activation.default(x, weight, bias, activation)  # type: ignore[no-any-return]


def _composed(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    check(x, weight, bias, activation)
    return activated(torch.ops.mylinear.linear.default(x, weight.to(x.dtype), bias), activation)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients, of the sum computed again: for a torch that lets no kernel go below autograd."""
    x, weight, bias = ctx.saved_tensors
    wide, mask = weight.to(x.dtype), list(ctx.needs_input_grad[:3])
    if ctx.activation != NONE:
        known = ACTIVATIONS[ctx.activation]
        total = torch.ops.mylinear.linear.default(x, wide, bias)
        grad = known.gradient(grad, known.apply(total) if known.saves_result else total)
    found = torch.ops.mylinear.linear_backward.default(grad, x, wide, mask)
    grad_x, grad_weight, grad_bias = (g if is_wanted else None for g, is_wanted in zip(found, mask, strict=True))
    return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype), grad_bias, None


SCHEMA = "(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor"
KERNELS = Kernels(_compute, _fake, _vmap, _autograd, _backward, _save, num_cast=3)
_LIBRARY = torch.library.Library(DOMAIN, "FRAGMENT")
define_overload(_LIBRARY, "linear_activation", SCHEMA, KERNELS)
register(MYLINEAR_2, OP)
