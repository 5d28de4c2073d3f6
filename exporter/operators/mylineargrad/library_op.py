"""The library op ``mylinear::linear_backward``, by which a backward stays one node in traced and exported graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.operators.mylinear.autograd import SavedForBackward, linear_gradients
from exporter.operators.mylineargrad.arguments import check
from exporter.operators.mylineargrad.autograd import LinearBackwardF
from exporter.torch_ops.library_ops.kernels import Kernels, define_overload
from exporter.torch_ops.library_ops.vmap import batch_first, loop
from exporter.torch_ops.registration import WANTED_OUTPUTS, register
from exporter.torch_ops.torch_private import are_transforms_active, forward_mode_level
from ort_ops.operators.mylineargrad.contract import DOMAIN, MYLINEARGRAD, NAME

OP = f"{DOMAIN}::linear_backward"
ARGUMENTS = ("G", "X", "W", WANTED_OUTPUTS)
Gradients = tuple[Tensor, Tensor, Tensor]
_apply: Callable[..., Gradients] = LinearBackwardF.apply


def gradients(grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[bool]) -> Gradients:
    """Compute the gradients by torch's own operations, the same as in eager mode; empty ones where not wanted."""
    found = linear_gradients(SavedForBackward((x, weight), mask), grad)
    grad_x, grad_weight, grad_bias = (grad.new_empty(0) if value is None else value for value in found)
    return grad_x, grad_weight, grad_bias


def _backward_op(grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[bool]) -> Gradients:
    check(grad, x, weight)
    return gradients(grad, x, weight, mask)


def _backward_fake(grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[bool]) -> Gradients:
    if all(isinstance(size, int) for tensor in (grad, x, weight) for size in tensor.shape):
        check(grad, x, weight)
    # By torch._check, because unknown or data-dependent sizes cannot be compared yet.
    torch._check(grad.shape[-1] == weight.shape[0], lambda: f"{NAME}: out_features of grad and weight differ")
    torch._check(x.shape[-1] == weight.shape[1], lambda: f"{NAME}: in_features of x and weight differ")
    shapes = ((*grad.shape[:-1], weight.shape[1]), weight.shape, weight.shape[:1])
    grad_x, grad_weight, grad_bias = (
        grad.new_empty(shape if is_wanted else 0) for shape, is_wanted in zip(shapes, mask, strict=True)
    )
    return grad_x, grad_weight, grad_bias


def _backward_vmap(
    info: Any, in_dims: tuple[Any, ...], grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[bool]
) -> tuple[Gradients, tuple[int, int, int]]:
    """Compute a batch of calls: as a node for each where a graph is exported, which has no batch of the operator."""
    dims, size = in_dims[:3], info.batch_size
    if isinstance(size, int) and (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()):
        op = torch.ops.mylinear.linear_backward.default
        return loop(op, size, (*dims, None), (grad, x, weight, mask)), (0, 0, 0)
    grad, x, weight = (batch_first(t, dim, size) for t, dim in zip((grad, x, weight), dims, strict=True))
    x, weight = (t.conj() if t.is_complex() else t for t in (x, weight))
    rows, x_rows = (t.reshape(size, t.shape[1:-1].numel(), t.shape[-1]) for t in (grad, x))
    return (
        torch.bmm(rows, weight).reshape(x.shape) if mask[0] else grad.new_empty(size, 0),
        torch.bmm(rows.transpose(1, 2), x_rows) if mask[1] else grad.new_empty(size, 0),
        rows.sum(1) if mask[2] else grad.new_empty(size, 0),
    ), (0, 0, 0)


def _backward_autograd(grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[bool]) -> Gradients:
    """Differentiate the op."""
    if are_transforms_active() or forward_mode_level() >= 0:
        check(grad, x, weight)
        return gradients(grad, x, weight, mask)  # right in every transform; there is no graph to keep the op in
    return _apply(grad, x, weight, mask)


_LIBRARY = torch.library.Library(DOMAIN, "FRAGMENT")
define_overload(
    _LIBRARY,
    "linear_backward",
    "(Tensor grad, Tensor x, Tensor weight, bool[3] mask) -> (Tensor, Tensor, Tensor)",
    Kernels(
        compute=_backward_op,
        fake=_backward_fake,
        vmap=_backward_vmap,
        autograd=_backward_autograd,
        backward=LinearBackwardF.backward,
        save=LinearBackwardF.save,
        num_cast=3,
    ),
)
# For TorchScript's tracer, which takes no list of bools.
torch.library.define(
    f"{OP}.ints",
    "(Tensor grad, Tensor x, Tensor weight, int[3] mask) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl(f"{OP}.ints", "CompositeImplicitAutograd")
def _backward_by_ints(grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[int]) -> Gradients:
    wanted = [bool(number) for number in mask]
    return torch.ops.mylinear.linear_backward.default(grad, x, weight, wanted)  # type: ignore[no-any-return]


register(MYLINEARGRAD, OP, ARGUMENTS)
