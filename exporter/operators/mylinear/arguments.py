"""Check and cast the arguments of `functional.linear`, by the contract and as autocast does."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from exporter.torch_ops.arguments import dtype_name
from exporter.torch_ops.library_ops.autocast import cast_tensors
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.contract import ELEMENT_TYPES, MYLINEAR, infer_shape

# Complex numbers are for torch alone (gradcheck uses them); the ONNX operator does not have them.
DTYPES = frozenset({getattr(torch, t.name) for t in ELEMENT_TYPES} | {torch.complex64, torch.complex128})


def autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as F.linear would under autocast; see `cast_tensors`."""
    return cast_tensors(x, weight, bias)  # type: ignore[return-value]  # what is given stays given


def check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise the contract's error for arguments that torch would accept, broadcast, or refuse in other words."""
    if not is_right(x, weight, bias):
        explain(x, weight, bias)


def is_right(x: Tensor, weight: Tensor, bias: Tensor | None, narrow: Collection[torch.dtype] = ()) -> bool:
    """Whether the arguments keep the contract; the weight may have a dtype of ``narrow`` too."""
    if not isinstance(x, Tensor) or not isinstance(weight, Tensor):
        return False
    dtype, device, weight_shape = x.dtype, x.device, weight.shape
    return not (
        x.ndim == 0
        or len(weight_shape) != 2
        or x.shape[-1] != weight_shape[1]
        or (weight.dtype != dtype and weight.dtype not in narrow)
        or weight.device != device
        or dtype not in DTYPES
        or (
            bias is not None
            and (
                not isinstance(bias, Tensor)
                or bias.ndim != 1
                or bias.shape[0] != weight_shape[0]
                or bias.dtype != dtype
                or bias.device != device
            )
        )
    )


def explain(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise the contract's error for the first rule that is broken, or TypeError for anything but a tensor."""
    for argument, value in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and not (argument == "bias" and value is None):
            raise TypeError(MYLINEAR.message(argument, "a torch.Tensor", type(value).__name__))
    infer_shape([list(x.shape), list(weight.shape), None if bias is None else list(bias.shape)])
    if x.dtype not in DTYPES:
        raise ContractError(MYLINEAR.message("x", MYLINEAR.element_type_rule, dtype_name(x.dtype)))
    for argument, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            rule = f"{dtype_name(x.dtype)} (the dtype of x)"
            raise ContractError(MYLINEAR.message(argument, rule, dtype_name(tensor.dtype)))
        if tensor.device != x.device:
            rule = f"on {x.device} (the device of x)"
            raise ContractError(MYLINEAR.message(argument, rule, f"one on {tensor.device}"))
