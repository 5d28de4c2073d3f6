"""MYLINEAR as a Python kernel, in NumPy: what ``kernels="python"`` runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.signature import Float, Out
from ort_ops.operators.mylinear.contract import MYLINEAR, check_arguments
from ort_ops.python_kernels.decorator import implements


def compute(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return ``x @ weight.T + bias`` in the dtype of ``x``; float16 and bfloat16 sum in float32 and round once.

    Args:
        x: ``[..., in_features]``; float64, float32, float16 or bfloat16 (``ml_dtypes.bfloat16``).
        weight: ``[out_features, in_features]``, dtype of ``x``.
        bias: ``[out_features]``, dtype of ``x``, or None.

    Raises: ContractError if a shape or dtype breaks the contract.
    """
    arrays = (x, weight, bias)
    shape = check_arguments(
        [None if a is None else a.shape for a in arrays], [None if a is None else a.dtype.name for a in arrays]
    )
    result: NDArray[Any] = np.empty(tuple(shape), x.dtype)  # type: ignore[arg-type]  # checked: numbers
    _fill(x, weight, bias, out=result)
    return result


def _fill(x: Float, weight: Float, bias: Float | None = None, *, out: Out) -> Float:
    """Compute MYLINEAR of checked arguments, into ``out``."""
    y: Float = out
    with np.errstate(all="ignore"):  # NaN and infinities are results here, not mistakes
        if x.itemsize < 4:
            x, weight = x.astype(np.float32), weight.astype(np.float32)
        if x.ndim == 2:
            product = np.matmul(x, weight.T)
        else:  # one product; matmul would loop over batches
            product = np.matmul(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight.T).reshape(y.shape)
        if bias is None:
            y[...] = product
        elif x.itemsize == y.itemsize:
            np.add(product, bias, out=y)
        else:
            y[...] = product + bias.astype(np.float32)
    return y


KERNEL = implements(MYLINEAR)(_fill)
