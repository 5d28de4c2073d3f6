"""MYLINEARGRAD as a Python kernel, in NumPy: what ``kernels="python"`` runs."""

from __future__ import annotations

import math

import numpy as np

from ort_ops.opdef.signature import Float, Out
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD
from ort_ops.python_kernels.decorator import implements


def _fill(grad: Float, x: Float, weight: Float, *, out: Out) -> tuple[Float | None, Float | None, Float | None]:
    """Compute MYLINEARGRAD of checked arguments, into those of ``out`` that are there."""
    grad_x, grad_weight, grad_bias = out
    rows = math.prod(grad.shape[:-1])
    with np.errstate(all="ignore"):  # NaN and infinities are results here, not mistakes
        grad = grad.reshape(rows, grad.shape[-1])
        if grad.itemsize < 4:
            grad = grad.astype(np.float32)
        if grad_x is not None:  # one product; matmul would loop over batches
            grad_x[...] = np.matmul(grad, weight.astype(grad.dtype, copy=False)).reshape(grad_x.shape)
        if grad_weight is not None:
            grad_weight[...] = np.matmul(grad.T, x.reshape(rows, x.shape[-1]).astype(grad.dtype, copy=False))
        if grad_bias is not None:
            grad_bias[...] = grad.sum(axis=0)
    return out  # type: ignore[no-any-return]


KERNEL = implements(MYLINEARGRAD)(_fill)
