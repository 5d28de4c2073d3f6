"""Check the arguments of an operator in torch by its contract, in the contract's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ort_ops.console.counts import counted
from ort_ops.opdef.operator import Operator
from ort_ops.opdef.shapes import format_shape


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


def check_results(
    operator: Operator,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, Any],
    outputs: Sequence[Any],
    count: int,
) -> None:
    """Check what an operator's function returned: how many tensors, of which shapes and element types.

    Raises: ContractError naming the first output that is not what the operator describes.
    """
    if len(outputs) != count:
        raise operator.error("the outputs of the torch function", counted(count, "tensor"), str(len(outputs)))
    types = operator.bind([None if t is None else dtype_name(t.dtype) for t in inputs])
    shapes = operator.infer_shape([None if t is None else list(t.shape) for t in inputs], attributes)
    for parameter, value, shape in zip(operator.outputs, outputs, shapes, strict=False):
        argument = f"output {parameter.argument} of the torch function"
        if not isinstance(value, Tensor):
            raise operator.error(argument, "a torch.Tensor", type(value).__name__)
        expected = types.get(parameter.type.name)
        if expected is not None and dtype_name(value.dtype) != expected.name:
            raise operator.error(argument, f"of {expected.name}", dtype_name(value.dtype))
        is_known = shape is not None and all(isinstance(dim, int) for dim in shape)
        if shape is not None and is_known and list(shape) != list(value.shape):
            raise operator.error(argument, format_shape(shape), format_shape([*value.shape]))
