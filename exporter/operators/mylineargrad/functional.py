"""`linear_backward`, the function behind the gradients of MYLINEAR's library op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import exporter.operators.mylinear.library_op  # noqa: F401  # the derivative calls it
from exporter.operators.mylineargrad import library_op
from exporter.torch_ops.counting import counters
from exporter.torch_ops.torch_private import is_tracing
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD


def linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mask: Sequence[bool] = (True, True, True)
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``exporter.linear(x, weight, bias)`` for an upstream gradient.

    Args:
        grad: ``[..., out_features]``; float64, float32, float16, bfloat16 (or complex, which cannot be exported).
        x: ``[..., in_features]``, leading dimensions and dtype of ``grad``.
        weight: ``[out_features, in_features]``.
        mask: which of the three gradients to compute.

    Returns: the gradients of x, weight and bias; a tensor of size 0 for one that is not wanted.
    Raises: ContractError (a ValueError) if a shape, dtype or device breaks the contract, TypeError for no tensor.

    >>> grad, x, weight = torch.ones(2, 1), torch.tensor([[3.0, 2.0], [1.0, 0.0]]), torch.tensor([[2.0, 3.0]])
    >>> linear_backward(grad, x, weight)
    (tensor([[2., 3.],
            [2., 3.]]), tensor([[4., 2.]]), tensor([2.]))
    """
    for counter in counters:
        counter[MYLINEARGRAD.op_type] += 1
    if is_tracing():
        return torch.ops.mylinear.linear_backward.ints(  # type: ignore[no-any-return]
            grad, x, weight, [int(is_wanted) for is_wanted in mask]
        )
    return torch.ops.mylinear.linear_backward.default(grad, x, weight, list(mask))  # type: ignore[no-any-return]


__all__ = ["library_op", "linear_backward"]
