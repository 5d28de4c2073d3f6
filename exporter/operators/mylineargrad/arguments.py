"""Check the arguments of MYLINEARGRAD in torch by the contract; torch alone has it for complex numbers too."""

from __future__ import annotations

from torch import Tensor

from exporter.torch_ops.arguments import check_tensors, dtype_name
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD


def check(grad: Tensor, x: Tensor, weight: Tensor) -> None:
    """Raise the contract's error for the first rule that is broken, or TypeError for anything but a tensor.

    Complex numbers are taken where all three are of one complex dtype.
    """
    tensors = (grad, x, weight)
    if isinstance(grad, Tensor) and grad.is_complex():
        for argument, tensor in (("x", x), ("weight", weight)):
            if tensor.dtype != grad.dtype:
                rule = f"{dtype_name(grad.dtype)} (the dtype of grad)"
                raise MYLINEARGRAD.error(argument, rule, dtype_name(tensor.dtype))
        tensors = (grad.real, x.real, weight.real)
    check_tensors(MYLINEARGRAD, tensors)
