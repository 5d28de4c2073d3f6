"""The derivative of MYLINEARGRAD, made of the library ops themselves, so that it can be differentiated again.

With the upstream gradients A of GX, B of GW and c of GB:

    grad_G = A W^T + X B^T + c      two calls of ``mylinear::linear``
    grad_X = G B                    GX of (G, X, B)
    grad_W = G^T A                  GW of (G, A, W): one call of ``mylinear::linear_backward`` gives both

Complex X and W enter the operator conjugated; then B and A do in grad_X and grad_W, which the operator does itself, and
grad_G is as above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from exporter.torch_ops.torch_private import below_autograd

Inputs = tuple[Tensor, Tensor, Tensor, Sequence[bool]]


class LinearBackwardF(Function):
    """The derivative of the library op ``mylinear::linear_backward``, around a forward that stays the op."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[bool]) -> tuple[Tensor, ...]:
        with below_autograd():
            output: tuple[Tensor, ...] = torch.ops.mylinear.linear_backward.default(grad, x, weight, mask)
        LinearBackwardF.save(ctx, (grad, x, weight, mask), output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: Inputs, output: tuple[Tensor, ...]) -> None:
        """Keep the inputs; an output that was not wanted has no derivative."""
        *tensors, mask = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(value for value, is_wanted in zip(output, mask, strict=True) if not is_wanted))
        ctx.mask = mask

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the gradients of grad, x and weight that are needed."""
        grad, x, weight = ctx.saved_tensors
        of_grad_x, of_grad_weight, of_grad_bias = (
            value if is_wanted else None for value, is_wanted in zip(upstream, ctx.mask, strict=True)
        )
        needs = ctx.needs_input_grad
        grad_grad = _gradient_of_grad(grad, x, weight, of_grad_x, of_grad_weight, of_grad_bias) if needs[0] else None
        mask = [needs[1] and of_grad_weight is not None, needs[2] and of_grad_x is not None, False]
        if not any(mask):
            return grad_grad, None, None, None
        grad_of_x, grad_of_weight, _ = torch.ops.mylinear.linear_backward.default(
            grad, x if of_grad_x is None else of_grad_x, weight if of_grad_weight is None else of_grad_weight, mask
        )
        return grad_grad, grad_of_x if mask[0] else None, grad_of_weight if mask[1] else None, None


def _gradient_of_grad(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    of_grad_x: Tensor | None,
    of_grad_weight: Tensor | None,
    of_grad_bias: Tensor | None,
) -> Tensor | None:
    """Return A W^T + X B^T + c, of the terms that there are; None for none."""
    linear = torch.ops.mylinear.linear.default
    if of_grad_x is not None:
        total: Tensor = linear(of_grad_x, weight, of_grad_bias)
        return total if of_grad_weight is None else total + linear(x, of_grad_weight, None)
    if of_grad_weight is not None:
        total = linear(x, of_grad_weight, of_grad_bias)
        return total
    return None if of_grad_bias is None else of_grad_bias.expand(grad.shape)
