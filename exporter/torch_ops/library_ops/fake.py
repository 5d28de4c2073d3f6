"""The fake kernel of a library op: shapes and dtypes of the outputs, by the operator's shape rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from exporter.torch_ops.arguments import check_tensors, dtype_name
from ort_ops.opdef.operator import Operator


def make_fake(operator: Operator, compute: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that takes what the op takes, and returns ``count`` outputs without numbers.

    Sizes may be symbolic. Where the shape rule does not know a size then, ``compute`` finds it.
    """
    num_inputs = len(operator.inputs)
    names = [attribute.name for attribute in operator.attributes]

    def fake(*arguments: Any) -> Any:
        inputs: tuple[Tensor | None, ...] = arguments[:num_inputs]
        attributes = dict(zip(names, arguments[num_inputs:], strict=True))
        given = [tensor for tensor in inputs if tensor is not None]
        if all(isinstance(size, int) for tensor in given for size in tensor.shape):
            check_tensors(operator, inputs, attributes)
        types = operator.bind([None if t is None else dtype_name(t.dtype) for t in inputs])
        shapes = operator.infer_shape([None if t is None else list(t.shape) for t in inputs], attributes)
        outputs: list[Tensor] = []
        for output, shape in zip(operator.outputs[:count], shapes, strict=False):
            if shape is None or output.type.name not in types or any(d is None or isinstance(d, str) for d in shape):
                result = compute(*inputs, **attributes)
                outputs = [result] if isinstance(result, Tensor) else list(result)
                outputs = [torch.empty_like(value, memory_format=torch.contiguous_format) for value in outputs]
                break
            dtype = getattr(torch, types[output.type.name].name)
            outputs.append(given[0].new_empty(tuple(shape), dtype=dtype))  # type: ignore[arg-type]  # checked above
        return outputs[0] if count == 1 else tuple(outputs)

    return fake
