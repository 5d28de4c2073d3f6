"""Check the arguments of version 2 in torch by the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.operators.mylinear.arguments import explain, is_right
from exporter.operators.mylinear.version_2.activations import ACTIVATIONS, NONE
from exporter.torch_ops.arguments import dtype_name
from ort_ops.operators.mylinear.contract import MYLINEAR

SMALL_WEIGHTS = (torch.float16, torch.bfloat16)
"""Dtypes that a weight may have where x is float32."""


def check_activation(activation: str | None) -> None:
    """Raise the contract's error for an unknown name; None stands for none."""
    if activation is None or (isinstance(activation, str) and (activation == NONE or activation in ACTIVATIONS)):
        return
    rule = f"one of {', '.join((NONE, *ACTIVATIONS))}"
    raise MYLINEAR.error("activation", rule, repr(activation))


def check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> None:
    """Raise the contract's error for the first rule that is broken, or TypeError for anything but a tensor."""
    if not is_right(x, weight, bias):
        may_be_small = isinstance(x, Tensor) and x.dtype == torch.float32
        explain(x, weight, bias, small_weights=SMALL_WEIGHTS if may_be_small else ())
    if activation != NONE and x.is_complex():
        raise MYLINEAR.error("x", f"{MYLINEAR.element_type_rule} for an activation", dtype_name(x.dtype))
