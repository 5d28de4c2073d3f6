"""Check the arguments of version 2 in torch by the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.operators.mylinear.arguments import explain, is_right
from exporter.torch_ops.arguments import check_tensors
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, MYLINEAR_2, NARROW_WEIGHTS, NONE

_NARROW = tuple(getattr(torch, name) for name in NARROW_WEIGHTS)


def check_activation(activation: str | None) -> None:
    """Raise the contract's error for an unknown name; None stands for none."""
    if activation is not None and not (isinstance(activation, str) and activation in ACTIVATIONS):
        MYLINEAR_2.check_values({"activation": activation})


def check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> None:
    """Raise the contract's error for the first rule that is broken, or TypeError for anything but a tensor."""
    is_float32 = isinstance(x, Tensor) and x.dtype == torch.float32
    if is_right(x, weight, bias, _NARROW if is_float32 else ()) and not (activation != NONE and x.is_complex()):
        return
    if activation == NONE and not is_float32:
        explain(x, weight, bias)  # there is nothing that version 1 has not
    check_tensors(MYLINEAR_2, (x, weight, bias), {"activation": activation})
