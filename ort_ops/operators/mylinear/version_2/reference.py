"""Version 2 of the operator's definition in NumPy, and as an operator of onnx's ReferenceEvaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from ort_ops.numerics.products import exact_product
from ort_ops.operators.mylinear.contract import DOMAIN, NAME
from ort_ops.operators.mylinear.version_2.activations import activated
from ort_ops.operators.mylinear.version_2.contract import NONE, check_arguments


def linear_activation_float64(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None, activation: str = NONE
) -> NDArray[np.float64]:
    """Return the activation of ``x @ weight.T + bias`` in float64, not rounded to the type of ``x``.

    Args:
        x: ``[..., in_features]``; float64, float32, float16 or bfloat16 (``ml_dtypes.bfloat16``).
        weight: ``[out_features, in_features]``, dtype of ``x``; under float32 also float16 or bfloat16.
        bias: ``[out_features]``, dtype of ``x``, or None.
        activation: the attribute's value.

    Returns: ``[..., out_features]``, float64.
    Raises: ContractError if a shape, dtype or the activation breaks the contract.
    """
    arrays = (x, weight, bias)
    shapes = [None if a is None else a.shape for a in arrays]
    check_arguments(shapes, [None if a is None else a.dtype.name for a in arrays], activation)
    return activated(exact_product(x, weight.T, bias), activation)


def linear_activation(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None, activation: str = NONE
) -> NDArray[Any]:
    """Return what `linear_activation_float64` does, rounded once to the dtype of ``x``.

    >>> linear_activation(np.array([[3.0, 2.0]]), np.array([[2.0, 3.0], [-1.0, 1.0]]), activation="relu")
    array([[12.,  0.]])
    """
    with np.errstate(all="ignore"):
        return linear_activation_float64(x, weight, bias, activation).astype(x.dtype)


class MylinearReference(OpRun):
    """MYLINEAR of both versions, for ``onnx.reference.ReferenceEvaluator(model, new_ops=[MylinearReference])``."""

    op_domain = DOMAIN

    def _run(self, x: Any, weight: Any, bias: Any = None, activation: str | None = None) -> tuple[Any]:
        return (linear_activation(x, weight, bias, activation or NONE),)


MylinearReference.__name__ = NAME  # the evaluator looks operators up by class name
