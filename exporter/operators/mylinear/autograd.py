"""The derivatives of MYLINEAR: one autograd function for each way that torch differentiates.

docs/torch_operator.md derives the gradients, and says which function runs when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from exporter.torch_ops.library_ops.vmap import batch_first, loop
from exporter.torch_ops.torch_private import below_autograd, forward_mode_depth
from ort_ops.operators.mylinear.contract import DOMAIN, NAME

Inputs = tuple[Tensor, Tensor, Tensor | None]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def save_for_backward(ctx: Any, x: Tensor, weight: Tensor) -> None:
    """Save only what `linear_gradients` will read: x for grad_weight, weight for grad_x."""
    needs = ctx.needs_input_grad
    ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None)


def linear_gradients(ctx: Any, grad: Tensor) -> Gradients:
    """Return the gradients of x, weight and bias that are needed; None for the others.

    With G = ``grad`` and the leading dimensions taken together: grad_x = G W, grad_weight = G^T X, and
    grad_bias = sum of G over the leading dimensions. Complex tensors enter by their conjugates.
    """
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad
    grad_x = grad_weight = grad_bias = None
    if needs_x:
        grad_x = grad.matmul(weight.conj() if weight.is_complex() else weight)
    if grad.ndim != 2:
        grad = grad.reshape(math.prod(grad.shape[:-1]), grad.shape[-1])
    if needs_weight:
        if x.ndim != 2:
            x = x.reshape(grad.shape[0], x.shape[-1])
        grad_weight = grad.t().mm(x.conj() if x.is_complex() else x)
    if needs_bias:
        grad_bias = grad.sum(0)
    return grad_x, grad_weight, grad_bias


class SavedForBackward(NamedTuple):
    """What `linear_gradients` reads of an autograd function's context."""

    saved_tensors: tuple[Tensor | None, Tensor | None]
    needs_input_grad: Sequence[bool]


class PlainLinearF(Function):
    """The reverse-mode derivative alone, in as few Python calls as possible: two for a forward, one for a backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs = ctx.needs_input_grad  # `save_for_backward` inlined, which saves a call
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None)
        return F.linear(x, weight, bias)

    backward = staticmethod(linear_gradients)


class OpLinearF(Function):
    """The library op's derivative: forward and backward are library ops, and stay one node each in traced graphs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with below_autograd():
            output: Tensor = torch.ops.mylinear.linear.default(x, weight, bias)
        OpLinearF.save(ctx, (x, weight, bias), output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: Inputs, output: Tensor) -> None:
        """Save what backward will read; of the others the op takes the shape alone, so they may change meanwhile."""
        x, weight, _ = inputs
        save_for_backward(ctx, x, weight)
        ctx.unread = x, weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Return the gradients that are needed, by one call of ``mylinear::linear_backward``."""
        tensors = (unread if t is None else t for t, unread in zip(ctx.saved_tensors, ctx.unread, strict=True))
        mask = list(ctx.needs_input_grad)
        found = torch.ops.mylinear.linear_backward.default(grad, *tensors, mask)
        grad_x, grad_weight, grad_bias = (g if is_wanted else None for g, is_wanted in zip(found, mask, strict=True))
        return grad_x, grad_weight, grad_bias


class TraceableLinearF(Function):
    """`LinearF` without forward-mode differentiation, which ``torch.compile`` cannot trace."""

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, bias: Any) -> Any:
        """Emit ``mylinear::MYLINEAR`` for the TorchScript exporter, with type and shape set."""
        out = g.op(f"{DOMAIN}::{NAME}", x, weight, *([] if bias is None else [bias]))
        x_type, weight_sizes = x.type(), weight.type().varyingSizes()
        sizes = x_type.varyingSizes()
        if sizes is not None and weight_sizes is not None:
            out.setType(x_type.with_sizes([*sizes[:-1], weight_sizes[0]]))
        return out

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Inputs, output: Tensor) -> None:
        save_for_backward(ctx, inputs[0], inputs[1])

    backward = staticmethod(linear_gradients)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """Compute all samples at once: as further rows where only x is batched, else as batched products."""
        from exporter.operators.mylinear.functional import linear  # which imports this module

        return batched(linear, info.batch_size, in_dims, x, weight, bias), 0


class LinearF(TraceableLinearF):
    """``LinearF.apply(x, weight, bias)`` is ``x @ weight.T + bias`` with the backward of `linear_gradients`.

    It is complete and checks nothing; call `linear` instead. The arguments are those of ``apply``.

    Args:
        x: ``[..., in_features]``.
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]`` or None.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: Inputs, output: Tensor) -> None:
        save_for_backward(ctx, inputs[0], inputs[1])
        ctx.save_for_forward(inputs[0], inputs[1])

    @staticmethod
    def jvp(
        ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None
    ) -> Tensor | None:
        """Return the forward-mode derivative dX W^T + X dW^T + dB, over the tangents that are given.

        Raises: NotImplementedError in forward mode over forward mode, where torch loses the tangents of this
            function's own products silently; `linear` calls ``F.linear`` there.
        """
        if (forward_mode_depth() or 0) > 1:
            raise NotImplementedError(f"{NAME}: LinearF has no forward mode over forward mode; call linear instead")
        x, weight = ctx.saved_tensors
        terms = []
        if x_tangent is not None:
            terms.append(F.linear(x_tangent, weight))
        if weight_tangent is not None:
            terms.append(F.linear(x, weight_tangent))
        if bias_tangent is not None:
            terms.append(bias_tangent.expand(*x.shape[:-1], weight.shape[0]))
        return sum(terms[1:], terms[0]) if terms else None


AUTOGRAD_NODE_NAMES = frozenset(
    f"{cls.__name__}Backward" for cls in (PlainLinearF, OpLinearF, TraceableLinearF, LinearF)
)
"""Autograd's names of the nodes that calls of `linear` and of the library op leave in its graph."""


def batched(
    linear_of_one: Callable[..., Tensor],
    batch_size: int,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Compute a batch of calls, stacked along dimension 0; ``in_dims`` says where each argument is batched."""
    x_dim, weight_dim, bias_dim = in_dims
    if weight_dim is None and bias_dim is None and x_dim is not None:
        return linear_of_one(x.movedim(x_dim, 0), weight, bias)
    if isinstance(batch_size, int) and (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()):
        # A node for each: ONNX has no batch of the operator, and a product of matrices would lose it.
        return loop(linear_of_one, batch_size, in_dims, (x, weight, bias))  # type: ignore[no-any-return]
    x, weight = batch_first(x, x_dim, batch_size), batch_first(weight, weight_dim, batch_size)
    rows = math.prod(x.shape[1:-1])  # not by Size.numel, which turns a dynamic dimension into a number
    out = torch.bmm(x.reshape(batch_size, rows, x.shape[-1]), weight.transpose(1, 2))
    if bias is not None:
        out = out + batch_first(bias, bias_dim, batch_size).unsqueeze(1)
    return out.reshape(*x.shape[:-1], weight.shape[1])
