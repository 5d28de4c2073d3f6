"""Version 2 of MYLINEAR as a Python kernel, in NumPy: what ``kernels="python"`` runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.error_function import NumpyOperations, erf_formula
from ort_ops.opdef.signature import Out
from ort_ops.operators.mylinear.version_2.activations import TANH_CUBE, TANH_SCALE
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2, NONE, check_arguments
from ort_ops.python_kernels.decorator import implements

Array = NDArray[Any]
Real = Annotated[NDArray[Any], MYLINEAR_2.inputs[0].type]
Weight = Annotated[NDArray[Any], MYLINEAR_2.inputs[1].type]


def _relu(x: Array) -> Any:
    return np.maximum(x, 0)


def _gelu(x: Array) -> Any:
    return x / 2 * (1 + erf_formula(x * math.sqrt(0.5), NumpyOperations, np.float64))


def _gelu_tanh(x: Array) -> Any:
    return x / 2 * (1 + np.tanh(TANH_SCALE * (x + TANH_CUBE * x * x * x)))


def _silu(x: Array) -> Any:
    return x / (1 + np.exp(-x))


def _sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


FUNCTIONS: dict[str, Callable[[Array], Any]] = {
    "relu": _relu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}
"""The activations; all but relu take float64, and their results are rounded once."""


def compute(x: Array, weight: Array, bias: Array | None = None, activation: str = NONE) -> Array:
    """Return the activation of ``x @ weight.T + bias`` in the dtype of ``x``, as the contract says.

    Args:
        x: ``[..., in_features]``; float64, float32, float16 or bfloat16 (``ml_dtypes.bfloat16``).
        weight: ``[out_features, in_features]``, dtype of ``x``; under float32 also float16 or bfloat16.
        bias: ``[out_features]``, dtype of ``x``, or None.
        activation: the attribute's value.

    Raises: ContractError if a shape, dtype or the activation breaks the contract.
    """
    arrays = (x, weight, bias)
    shape = check_arguments(
        [None if a is None else a.shape for a in arrays],
        [None if a is None else a.dtype.name for a in arrays],
        activation,
    )
    result: Array = np.empty(tuple(shape), x.dtype)  # type: ignore[arg-type]  # checked: numbers
    _fill(x, weight, bias, activation=activation, out=result)
    return result


def _fill(x: Real, weight: Weight, bias: Real | None = None, *, activation: str = NONE, out: Out) -> Real:
    """Compute the operator of checked arguments, into ``out``."""
    y: Array = out
    with np.errstate(all="ignore"):  # NaN and infinities are results here, not mistakes
        sums = np.float64 if x.itemsize == 8 else np.float32
        x, weight = x.astype(sums, copy=False), weight.astype(sums, copy=False)
        if x.ndim == 2:
            total = np.matmul(x, weight.T)
        else:  # one product; matmul would loop over batches
            total = np.matmul(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight.T).reshape(y.shape)
        if bias is not None:
            total += bias.astype(sums, copy=False)
        if activation == NONE:
            y[...] = total
        elif activation == "relu":
            y[...] = _relu(total)
        else:
            y[...] = FUNCTIONS[activation](total.astype(np.float64, copy=False))
    return y


KERNEL = implements(MYLINEAR_2)(_fill)
