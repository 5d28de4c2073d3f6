"""The derivative of version 2 in eager mode.

The derivative of relu, sigmoid and tanh reads the result, which the caller has anyway. That of gelu and silu reads the
sum, which is therefore a second result of the autograd function: it can then be differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from exporter.operators.mylinear.autograd import SavedForBackward, linear_gradients
from exporter.operators.mylinear.version_2.activations import ACTIVATIONS
from ort_ops.operators.mylinear.version_2.contract import NONE


class ActivationF(Function):
    """The reverse-mode derivative: that of the activation, then that of the sum."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        """Return the result, and the sum where the derivative reads it."""
        needs = ctx.needs_input_grad
        needs_any = needs[0] or needs[1] or needs[2]
        total = F.linear(x, weight.to(x.dtype), bias)
        result, saved, second = total, None, None
        if activation != NONE:
            known = ACTIVATIONS[activation]
            if known.saves_result or not needs_any:
                result = known.apply_in_place(total)
                saved = result if needs_any else None
            else:
                result, saved, second = known.apply(total), total, total
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None, saved)
        ctx.set_materialize_grads(False)
        ctx.activation, ctx.weight_dtype = activation, weight.dtype
        return result, second

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_total: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients that are needed; ``grad_total`` is that of the sum, in second derivatives."""
        x, weight, saved = ctx.saved_tensors
        if grad is not None:
            if ctx.activation != NONE:
                grad = ACTIVATIONS[ctx.activation].gradient(grad, saved)
            grad = grad if grad_total is None else grad + grad_total
        else:
            grad = grad_total
        if grad is None:
            return None, None, None, None
        if weight is not None:
            weight = weight.to(grad.dtype)
        grad_x, grad_weight, grad_bias = linear_gradients(SavedForBackward((x, weight), ctx.needs_input_grad[:3]), grad)
        if grad_weight is not None:
            grad_weight = grad_weight.to(ctx.weight_dtype)
        return grad_x, grad_weight, grad_bias, None


AUTOGRAD_NODE_NAMES = frozenset({f"{ActivationF.__name__}Backward"})
"""Autograd's names of the nodes that calls leave in its graph."""
