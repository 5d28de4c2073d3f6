"""The operator in PyTorch: autograd functions, library op, and the dispatcher `linear` that picks between them.

Which road runs when (docs/torch_operator.md says why):

- eager: `_PlainLinearF`, past the slow Python wrapper of ``Function.apply``;
- ``torch.func``, forward-mode differentiation, ``torch.onnx.export(dynamo=False)``: `LinearF`, which has it all,
  but for forward mode over forward mode, which torch gets wrong for any autograd function: ``F.linear``;
- ``torch.compile``: `_TraceableLinearF`, which is `LinearF` without ``jvp``, which dynamo cannot trace;
- ``torch.export`` (and so ``torch.onnx.export(dynamo=True)``) and ``torch.jit.trace``: the library op
  ``mylinear::linear``, which stays one node where an autograd function would be dissolved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.overrides import handle_torch_function, has_torch_function_variadic

from exporter.operators.mylinear.arguments import autocast, check
from ort_ops.operators.mylinear.contract import DOMAIN, NAME

_Inputs = tuple[Tensor, Tensor, Tensor | None]
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _save_for_backward(ctx: Any, x: Tensor, weight: Tensor) -> None:
    """Save what `_gradients` will read and nothing else: x for grad_weight, weight for grad_x."""
    needs = ctx.needs_input_grad
    ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None)


def _gradients(ctx: Any, grad: Tensor) -> _Gradients:
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


class _PlainLinearF(Function):
    """The reverse-mode derivative alone, in as few Python calls as there can be: two a forward, one a backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs = ctx.needs_input_grad  # `_save_for_backward`, written out: a call less
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None)
        return F.linear(x, weight, bias)

    backward = staticmethod(_gradients)


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
    def setup_context(ctx: Any, inputs: _Inputs, output: Tensor) -> None:
        _save_for_backward(ctx, inputs[0], inputs[1])

    backward = staticmethod(_gradients)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """Compute all samples at once: as further rows where only x is batched, else as batched products."""
        return _batched(linear, info.batch_size, in_dims, x, weight, bias), 0


class LinearF(_TraceableLinearF):
    """``LinearF.apply(x, weight, bias)`` is ``x @ weight.T + bias`` with the backward of `_gradients`.

    Complete, and checks nothing: `linear` is what to call.

    Args (of apply):
        x: ``[..., in_features]``.
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]`` or None.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: _Inputs, output: Tensor) -> None:
        _save_for_backward(ctx, inputs[0], inputs[1])
        ctx.save_for_forward(inputs[0], inputs[1])

    @staticmethod
    def jvp(
        ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None
    ) -> Tensor | None:
        """Return the forward-mode derivative dX W^T + X dW^T + dB, over the tangents that are given.

        Raises: NotImplementedError in forward mode over forward mode, where torch loses the tangents of this
            function's own products without a word; `linear` takes another road there.
        """
        if (_forward_mode_depth() or 0) > 1:
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


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, with a backward of our own.

    Args:
        x: ``[..., in_features]``; float64, float32, float16, bfloat16 (or complex, which cannot be exported).
        weight: ``[out_features, in_features]``, dtype and device of ``x``.
        bias: ``[out_features]``, dtype and device of ``x``, or None.

    Returns: ``[..., out_features]``, dtype of ``x`` (of autocast where that is on).
    Raises: ContractError (a ValueError) if a shape, dtype or device breaks the contract, TypeError for no tensor.

    >>> linear(torch.tensor([[3.0, 2.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([4.0]))
    tensor([[16.]])
    """
    if torch.compiler.is_compiling():
        return _compiled_linear(x, weight, bias)
    if has_torch_function_variadic(x, weight, bias):  # tensor subclasses, and torch.fx.symbolic_trace
        return handle_torch_function(linear, (x, weight, bias), x, weight, bias)
    if _is_tracing():
        return _traced_linear(x, weight, bias)
    if _is_any_autocast_enabled():
        x, weight, bias = autocast(x, weight, bias)
    check(x, weight, bias)
    for count in _counts:
        count[0] += 1
    if _are_functorch_transforms_active():
        if _forward_mode_depth() in (0, 1):
            return _complete_apply(x, weight, bias)
        return F.linear(x, weight, bias)
    if _forward_mode_level() >= 0:
        return _complete_apply(x, weight, bias)
    return _fast_apply(x, weight, bias)


def _compiled_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` under torch.compile and torch.export, which look into it."""
    x, weight, bias = autocast(x, weight, bias)
    check(x, weight, bias)
    if torch.compiler.is_exporting():
        return torch.ops.mylinear.linear.default(x, weight, bias)  # type: ignore[no-any-return]
    if torch.compiler.is_dynamo_compiling():
        return _traceable_apply(x, weight, bias)
    return _complete_apply(x, weight, bias)


def _traced_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` under the tracer of TorchScript; sizes are tensors there, and to compare them would be recorded."""
    if torch.onnx.is_in_onnx_export():
        if _is_any_autocast_enabled():
            x, weight, bias = autocast(x, weight, bias)
        for count in _counts:
            count[0] += 1
        return _complete_apply(x, weight, bias)
    return torch.ops.mylinear.linear.default(x, weight, bias)  # type: ignore[no-any-return]


# No default for bias: with one, the dispatcher drops it and backward sees two entries in needs_input_grad.
torch.library.define(
    f"{DOMAIN}::linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)


@torch.library.impl(f"{DOMAIN}::linear", "default")
def _linear_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    check(x, weight, bias)
    return F.linear(x, weight, bias)


def _linear_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if all(isinstance(size, int) for tensor in tensors for size in tensor.shape):
        check(x, weight, bias)
    # By torch._check, because sizes that are not known, or depend on data, have no answer yet.
    torch._check(x.shape[-1] == weight.shape[1], lambda: f"{NAME}: in_features of x and weight differ")
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _linear_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, int]:
    return _batched(torch.ops.mylinear.linear.default, info.batch_size, in_dims, x, weight, bias), 0


class _OpLinearF(_PlainLinearF):
    """The op's derivative: the same, around a forward that stays the op."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _save_for_backward(ctx, x, weight)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mylinear.linear.default(x, weight, bias)  # type: ignore[no-any-return]


def _linear_autograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Differentiate the op. `torch.library.register_autograd` would lose forward-mode tangents without a word."""
    if _are_functorch_transforms_active() or _forward_mode_level() >= 0:
        check(x, weight, bias)
        return F.linear(x, weight, bias)  # right in every transform, and there is no graph here to keep the op in
    return _op_apply(x, weight, bias)


def _op_setup_context(ctx: Any, inputs: _Inputs, output: Tensor) -> None:
    _save_for_backward(ctx, inputs[0], inputs[1])


def _register_autocast(device_type: str, dispatch_key: str) -> None:
    """Let the op cast under autocast as `linear` does; `torch.library.register_autocast` knows one dtype only."""

    def cast_and_call(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        inputs = autocast(x, weight, bias)
        with _without_autocast(device_type, dispatch_key):
            return torch.ops.mylinear.linear.default(*inputs)  # type: ignore[no-any-return]

    _LIBRARY.impl("linear", cast_and_call, dispatch_key)


def _without_autocast(device_type: str, dispatch_key: str) -> AbstractContextManager[Any]:
    if hasattr(torch._C, "_ExcludeDispatchKeyGuard"):  # leaves no trace in an exported graph
        keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, dispatch_key))
        return torch._C._ExcludeDispatchKeyGuard(keys)
    return torch.autocast(device_type, enabled=False)


torch.library.register_fake(f"{DOMAIN}::linear", _linear_fake)
torch.library.register_vmap(f"{DOMAIN}::linear", _linear_vmap)
_LIBRARY = torch.library.Library(DOMAIN, "FRAGMENT")
if hasattr(torch._C, "_AutoDispatchBelowAutograd"):
    _LIBRARY.impl("linear", _linear_autograd, "Autograd")
else:
    torch.library.register_autograd(f"{DOMAIN}::linear", _gradients, setup_context=_op_setup_context)
_register_autocast("cpu", "AutocastCPU")
_register_autocast("cuda", "AutocastCUDA")


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

AUTOGRAD_NODE_NAMES = frozenset(f"{cls.__name__}Backward" for cls in (_PlainLinearF, _TraceableLinearF, LinearF))
"""What autograd calls the nodes that eager calls of `linear` leave in its graph."""

_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
_complete_apply: Callable[..., Tensor] = LinearF.apply
_traceable_apply: Callable[..., Tensor] = _TraceableLinearF.apply
_op_apply: Callable[..., Tensor] = _OpLinearF.apply
# Private to torch, all that follow; where one is missing the public road serves, slower, with the same results.
_are_functorch_transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)
_is_any_autocast_enabled: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
_fast_apply: Callable[..., Tensor] = getattr(super(Function, _PlainLinearF), "apply", _PlainLinearF.apply)


def _forward_mode_depth() -> int | None:
    """How many torch.func transforms of forward mode are nested here; None where torch does not say."""
    try:
        stack = torch._C._functorch.get_interpreter_stack()
        return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack or ())
    except AttributeError:
        return None


def _forward_mode_level() -> int:
    """The level of torch.autograd.forward_ad, -1 outside of one; 0 where torch does not say."""
    return getattr(forward_ad, "_current_level", 0)


def _batched(
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
        return torch.stack(
            [
                linear_of_one(
                    _taken(x, x_dim, i),
                    _taken(weight, weight_dim, i),
                    bias if bias is None else _taken(bias, bias_dim, i),
                )
                for i in range(batch_size)
            ]
        )
    x, weight = _batch_first(x, x_dim, batch_size), _batch_first(weight, weight_dim, batch_size)
    rows = math.prod(x.shape[1:-1])  # not by Size.numel, which makes a number of a dynamic dimension
    out = torch.bmm(x.reshape(batch_size, rows, x.shape[-1]), weight.transpose(1, 2))
    if bias is not None:
        out = out + _batch_first(bias, bias_dim, batch_size).unsqueeze(1)
    return out.reshape(*x.shape[:-1], weight.shape[1])


def _taken(tensor: Tensor, dim: int | None, index: int) -> Tensor:
    return tensor if dim is None else tensor.select(dim, index)


def _batch_first(tensor: Tensor, dim: int | None, batch_size: int) -> Tensor:
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
