"""The gradients of convolutions, of any rank, grouped or transposed, as convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_aten = torch.ops.aten


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias that ``mask`` asks for; None for the others."""
    rank = x.dim() - 2
    stride, padding, dilation = (list(v) * rank if len(v) == 1 else list(v) for v in (stride, padding, dilation))
    none = [0] * rank
    grad_x = grad_weight = grad_bias = None
    if mask[0] and transposed:
        grad_x = _aten.convolution(grad, weight, None, stride, padding, dilation, False, none, groups)
    elif mask[0]:
        # What the last window did not reach, where the stride does not divide the input.
        rest = [
            x.shape[2 + i]
            - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
            for i in range(rank)
        ]
        grad_x = _aten.convolution(grad, weight, None, stride, padding, dilation, True, rest, groups)
    if mask[1]:
        # A transposed convolution is the gradient of one from its output to its input.
        source, result = (grad, x) if transposed else (x, grad)
        grad_weight = _weight_gradient(source, result, weight.shape[2:], stride, padding, dilation, groups)
    if mask[2]:
        grad_bias = grad.sum([0, *range(2, grad.dim())])
    return grad_x, grad_weight, grad_bias


def _weight_gradient(
    x: Tensor,
    grad: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve the input with the gradient: rows take the place of channels, and stride that of dilation."""
    rank = x.dim() - 2
    per_group = x.shape[1] // groups
    apart = x.reshape(x.shape[0], groups, per_group, *x.shape[2:]).permute(2, 1, 0, *range(3, 3 + rank))
    rows = apart.reshape(per_group, groups * x.shape[0], *x.shape[2:])
    kernels = grad.transpose(0, 1)
    found: Tensor = _aten.convolution(rows, kernels, None, dilation, padding, stride, False, [0] * rank, groups)
    for i in range(rank):
        found = found.narrow(2 + i, 0, kernel[i])
    return found.transpose(0, 1)
