"""Check the arguments of an operator in torch by its contract, in the contract's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ort_ops.opdef.operator import Operator


def check_tensors(operator: Operator, tensors: Sequence[Any], attributes: Mapping[str, Any] | None = None) -> None:
    """Check that the arguments are tensors of one device, and that shapes and element types keep the contract.

    Args:
        tensors: in the operator's order, None for an absent one. Sizes that are not known yet are not checked.

    Raises: TypeError for what is no tensor; ContractError for the first rule that is broken.
    """
    first: Tensor | None = None
    for parameter, value in zip(operator.inputs, tensors, strict=True):
        if value is None and parameter.is_optional:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(operator.message(parameter.argument, "a torch.Tensor", type(value).__name__))
        if first is None:
            first, first_argument = value, parameter.argument
        elif value.device != first.device:
            rule = f"on {first.device} (the device of {first_argument})"
            raise operator.error(parameter.argument, rule, f"one on {value.device}")
    operator.check_arguments(
        [None if t is None else list(t.shape) for t in tensors],
        [None if t is None else dtype_name(t.dtype) for t in tensors],
        attributes,
    )


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as the contract has it: ``float32``."""
    return str(dtype).removeprefix("torch.")
