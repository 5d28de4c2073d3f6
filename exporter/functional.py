"""The operator in PyTorch: autograd function, library op, and the dispatcher `linear` that picks between them.

Which road runs when:

- eager: `LinearF`, past the slow Python wrapper of ``Function.apply``, or through it under ``torch.func``;
- ``torch.compile``: `_TraceableLinearF`, the same function without ``jvp``, which dynamo cannot trace;
- ``torch.export`` (and so ``torch.onnx.export(dynamo=True)``): the library op ``mylinear::linear``, which
  stays one node where an autograd function would be dissolved;
- ``torch.onnx.export(dynamo=False)``: `LinearF.symbolic`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ort_ops.contract import DOMAIN, ELEMENT_TYPES, MYLINEAR, NAME, infer_shape
from ort_ops.operator import ContractError

# Complex numbers are for torch alone (gradcheck uses them); the ONNX operator does not have them.
_DTYPES = frozenset({getattr(torch, t.name) for t in ELEMENT_TYPES} | {torch.complex64, torch.complex128})

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _gradients(needs: tuple[bool, ...], grad: Tensor, x: Tensor, weight: Tensor) -> _Gradients:
    """Return the gradients of x, weight and bias that ``needs`` asks for; None for the others.

    With G = ``grad`` and the leading dimensions taken together: grad_x = G W, grad_weight = G^T X, and
    grad_bias = sum of G over the leading dimensions. Complex tensors enter by their conjugates.
    """
    if grad.dtype != weight.dtype:  # autocast ran the forward in a smaller dtype than the saved tensors have
        x, weight = x.to(grad.dtype), weight.to(grad.dtype)
    rows = x.shape[:-1].numel()
    grad_x = grad.matmul(weight.conj()) if needs[0] else None
    grad_2d = grad.reshape(rows, weight.shape[0])
    grad_weight = grad_2d.t().mm(x.reshape(rows, weight.shape[1]).conj()) if needs[1] else None
    grad_bias = grad_2d.sum(0) if needs[2] else None
    return grad_x, grad_weight, grad_bias


class _TraceableLinearF(Function):
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
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        x, weight = ctx.saved_tensors
        return _gradients(ctx.needs_input_grad, grad, x, weight)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """Compute all samples at once: as further rows where only x is batched, else as batched products."""
        x_dim, weight_dim, bias_dim = in_dims
        if weight_dim is None and bias_dim is None and x_dim is not None:
            return linear(x.movedim(x_dim, 0), weight, bias), 0
        x, weight = _batch_first(x, x_dim, info.batch_size), _batch_first(weight, weight_dim, info.batch_size)
        rows = x.shape[1:-1].numel()
        out = torch.bmm(x.reshape(info.batch_size, rows, x.shape[-1]), weight.transpose(1, 2))
        if bias is not None:
            out = out + _batch_first(bias, bias_dim, info.batch_size).unsqueeze(1)
        return out.reshape(*x.shape[:-1], weight.shape[1]), 0


class LinearF(_TraceableLinearF):
    """``LinearF.apply(x, weight, bias)`` is ``x @ weight.T + bias`` with the backward of `_gradients`.

    Args (of apply):
        x: ``[..., in_features]``.
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]`` or None.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.save_for_forward(inputs[0], inputs[1])

    @staticmethod
    def jvp(
        ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None
    ) -> Tensor | None:
        """Return the forward-mode derivative dX W^T + X dW^T + dB, over the tangents that are given."""
        x, weight = ctx.saved_tensors
        terms = []
        if x_tangent is not None:
            terms.append(F.linear(x_tangent, weight))
        if weight_tangent is not None:
            terms.append(F.linear(x, weight_tangent))
        if bias_tangent is not None:
            terms.append(bias_tangent.expand(*x.shape[:-1], weight.shape[0]))
        return sum(terms[1:], terms[0]) if terms else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, with a backward of our own.

    Args:
        x: ``[..., in_features]``; float64, float32, float16, bfloat16 (or complex, which cannot be exported).
        weight: ``[out_features, in_features]``, dtype and device of ``x``.
        bias: ``[out_features]``, dtype and device of ``x``, or None.

    Returns: ``[..., out_features]``, dtype of ``x`` (of autocast where that is on).
    Raises: ContractError (a ValueError) if a shape, dtype or device breaks the contract.

    >>> linear(torch.tensor([[3.0, 2.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([4.0]))
    tensor([[16.]])
    """
    if not _is_tracing():  # there, sizes are tensors and a comparison would be recorded
        _check_shapes(x, weight, bias)
    try:
        if torch.compiler.is_exporting():
            return torch.ops.mylinear.linear.default(x, weight, bias)  # type: ignore[no-any-return]
        if torch.compiler.is_dynamo_compiling():
            return _traceable_apply(x, weight, bias)
        return _apply(x, weight, bias)
    except RuntimeError as error:
        _explain(x, weight, bias, error)
        raise


@torch.library.custom_op(f"{DOMAIN}::linear", mutates_args=())
def _linear_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # No default for bias: with one, the dispatcher drops it and backward sees two entries in needs_input_grad.
    return F.linear(x, weight, bias)


@_linear_op.register_fake
def _linear_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    torch._check(x.shape[-1] == weight.shape[1], lambda: f"{NAME}: in_features of x and weight differ")
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _op_setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


def _op_backward(ctx: Any, grad: Tensor) -> _Gradients:
    x, weight = ctx.saved_tensors
    return _gradients(ctx.needs_input_grad, grad, x, weight)


torch.library.register_autograd(f"{DOMAIN}::linear", _op_backward, setup_context=_op_setup_context)
torch.library.register_vmap(f"{DOMAIN}::linear", _TraceableLinearF.vmap)


@contextmanager
def count_calls() -> Iterator[Callable[[], int]]:
    """Count the eager calls of `linear` within the block; yields a function that returns the count so far."""
    count = [0]
    _counts.append(count)
    try:
        yield lambda: count[0]
    finally:
        _counts[:] = [other for other in _counts if other is not count]


_counts: list[list[int]] = []


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``LinearF.apply``, without the signature binding that costs more than a small product does."""
    for count in _counts:
        count[0] += 1
    if _are_functorch_transforms_active():
        return _public_apply(x, weight, bias)
    return _fast_apply(x, weight, bias)


_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
_public_apply: Callable[..., Tensor] = LinearF.apply
_traceable_apply: Callable[..., Tensor] = _TraceableLinearF.apply
# Private to torch, both; without them the public road serves, slower, with the same results.
_are_functorch_transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)
_fast_apply: Callable[..., Tensor] = getattr(super(Function, LinearF), "apply", _public_apply)


def _batch_first(tensor: Tensor, dim: int | None, batch_size: int) -> Tensor:
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise the contract's error for what torch would accept, broadcast or report in other words."""
    if (
        x.dim() == 0
        or weight.dim() != 2
        or x.shape[-1] != weight.shape[1]
        or (bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0]))
    ):
        infer_shape([list(x.shape), list(weight.shape), None if bias is None else list(bias.shape)])
    if x.dtype not in _DTYPES:
        raise ContractError(MYLINEAR.message("x", MYLINEAR.element_type_rule, _name(x.dtype)))


def _explain(x: Tensor, weight: Tensor, bias: Tensor | None, error: RuntimeError) -> None:
    """Raise the contract's error if mixed dtypes or devices are why torch failed; else do nothing."""
    for argument, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            rule = f"{_name(x.dtype)} (the dtype of x)"
            raise ContractError(MYLINEAR.message(argument, rule, _name(tensor.dtype))) from error
        if tensor.device != x.device:
            rule = f"on {x.device} (the device of x)"
            raise ContractError(MYLINEAR.message(argument, rule, f"one on {tensor.device}")) from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
