"""The operator's definition in NumPy, and as an operator of onnx's ReferenceEvaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from ort_ops.numerics.products import exact_product
from ort_ops.operators.mylinear.contract import DOMAIN, NAME, check_arguments


def linear_float64(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Return ``x @ weight.T + bias``, summed in float64 and not rounded to the type of ``x``.

    Args:
        x: ``[..., in_features]``; float64, float32, float16 or bfloat16 (``ml_dtypes.bfloat16``).
        weight: ``[out_features, in_features]``, dtype of ``x``.
        bias: ``[out_features]``, dtype of ``x``, or None.

    Returns: ``[..., out_features]``, float64.
    Raises: ContractError if a shape or dtype breaks the contract.
    """
    arrays = (x, weight, bias)
    shapes = [None if a is None else a.shape for a in arrays]
    check_arguments(shapes, [None if a is None else a.dtype.name for a in arrays])
    return exact_product(x, weight.T, bias)


def linear(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return ``x @ weight.T + bias`` as `linear_float64` does, rounded once to the dtype of ``x``.

    >>> linear(np.array([[3.0, 2.0]]), np.array([[2.0, 3.0]]), np.array([4.0]))
    array([[16.]])
    """
    with np.errstate(all="ignore"):
        return linear_float64(x, weight, bias).astype(x.dtype)


class MylinearReference(OpRun):
    """MYLINEAR for ``onnx.reference.ReferenceEvaluator(model, new_ops=[MylinearReference])``."""

    op_domain = DOMAIN

    def _run(self, x: Any, weight: Any, bias: Any = None) -> tuple[Any]:
        return (linear(x, weight, bias),)


MylinearReference.__name__ = NAME  # the evaluator looks operators up by class name
