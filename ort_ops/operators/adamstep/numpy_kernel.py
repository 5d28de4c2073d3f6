"""ADAMSTEP as a Python kernel, in NumPy: what ``kernels="python"`` runs."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.signature import Out
from ort_ops.operators.adamstep.contract import ADAMSTEP, COUNT, SCALAR, T
from ort_ops.python_kernels.decorator import implements

Real = Annotated[NDArray[Any], T]
Count = Annotated[NDArray[Any], COUNT]
Scalar = Annotated[NDArray[Any], SCALAR]


def _fill(
    parameter: Real,
    grad: Real,
    exp_avg: Real,
    exp_avg_sq: Real,
    step: Count,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: Scalar,
    weight_decay: Scalar,
    *,
    out: Out,
) -> tuple[Real, Real, Real]:
    """Compute ADAMSTEP of checked arguments into ``out``."""
    next_parameter, next_exp_avg, next_exp_avg_sq = out
    of_type = parameter.dtype.type
    with np.errstate(all="ignore"):  # NaN and infinities are results here, not mistakes
        steps = np.float64(step)
        root = of_type(np.sqrt(1 - beta2**steps))
        step_size = of_type(-(lr / (1 - beta1**steps)))
        next_exp_avg[...] = exp_avg + of_type(1 - beta1) * (grad - exp_avg)
        next_exp_avg_sq[...] = exp_avg_sq * of_type(beta2) + of_type(1 - beta2) * grad * grad
        denominator = np.sqrt(next_exp_avg_sq) / root + of_type(eps)
        next_parameter[...] = parameter * of_type(1 - lr * weight_decay) + step_size * next_exp_avg / denominator
    return out  # type: ignore[no-any-return]


KERNEL = implements(ADAMSTEP)(_fill)
