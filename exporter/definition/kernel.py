"""The Python kernel of an operator of `exporter.operator`: a NumPy function, annotated or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from ort_ops.opdef.operator import DefinitionError, Operator
from ort_ops.python_kernels.decorator import PythonKernel, implements


def make_kernel(
    operator: Operator, kernel: Callable[..., Any] | PythonKernel[..., Any], function: Callable[..., Any]
) -> PythonKernel[..., Any]:
    """Return a NumPy function as the operator's kernel.

    Args:
        function: the torch function, whose annotations a kernel without any has.

    Raises: DefinitionError for one that does not take what the operator has.
    """
    if isinstance(kernel, PythonKernel):
        if kernel.operator != operator:
            got = kernel.operator.op_type
            raise DefinitionError(f"{operator.name}: kernel must be a NumPy function, got the kernel of {got}")
        return kernel
    signature = inspect.signature(kernel)
    if getattr(kernel, "__annotations__", None):
        return implements(operator)(kernel)
    try:
        signature.bind(*operator.inputs, **dict.fromkeys(attribute.name for attribute in operator.attributes))
    except TypeError:
        inputs = [parameter.argument for parameter in operator.inputs]
        attributes = [attribute.name for attribute in operator.attributes]
        wanted = ", ".join([*inputs, *(["*", *attributes] if attributes else [])])
        raise DefinitionError(f"{operator.name}: kernel must take ({wanted}), got {signature}") from None

    @wraps(function)  # which gives it the annotations
    def annotated(*inputs: Any, **attributes: Any) -> Any:
        return kernel(*inputs, **attributes)

    return implements(operator)(annotated)
