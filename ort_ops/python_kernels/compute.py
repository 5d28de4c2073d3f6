"""Call a Python kernel on arrays, without onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.python_kernels.decorator import PythonKernel


def compute(
    kernel: PythonKernel[..., Any], arrays: Sequence[NDArray[Any] | None], attributes: Mapping[str, Any] | None = None
) -> list[Any]:
    """Return the outputs of a kernel for arguments that are checked before.

    Args:
        arrays: the inputs, None for an absent one; of element types that the operator accepts.
        attributes: without those that have a default.

    Raises: ContractError if a shape or dtype breaks the operator's contract, PythonKernelError for a wrong result.
    """
    operator = kernel.operator
    arrays = [*arrays, *[None] * (len(operator.inputs) - len(arrays))]
    given = operator.defaults | dict(attributes or {})
    names = [None if array is None else array.dtype.name for array in arrays]
    types = operator.bind(names)
    shapes = operator.check_arguments([None if array is None else array.shape for array in arrays], names, given)
    function: Any = kernel
    if not kernel.writes_output:
        result = function(*arrays, **given)
        return [result] if len(operator.outputs) == 1 else list(result)
    outputs = []
    for parameter, shape in zip(operator.outputs, shapes, strict=True):
        if shape is None:
            raise kernel.error(f"the shape of {parameter.argument}", "known before the call", "unknown")
        outputs.append(np.empty([int(dim or 0) for dim in shape], types[parameter.type.name].name))
    function(*arrays, out=outputs[0] if len(outputs) == 1 else tuple(outputs), **given)
    return outputs
