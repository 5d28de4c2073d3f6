"""Check that type, shape and data of stored tensors agree."""

from __future__ import annotations

import math

import onnx
from onnx import helper

from ort_ops.errors import ModelError
from ort_ops.models.external_data import ExternalData

_STRING = onnx.TensorProto.STRING
_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
_SMALL_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}  # types of 2 bits came with onnx 1.20


def _num_bits(name: str, number: int) -> int:
    """Bits of one element; 8 for a string, which has no size of its own."""
    if name == "STRING":
        return 8
    return _SMALL_BITS.get(name) or 8 * int(helper.tensor_dtype_to_np_dtype(number).itemsize)


_BITS = {number: _num_bits(name, number) for name, number in onnx.TensorProto.DataType.items() if name != "UNDEFINED"}
_FIELDS = {number: helper.tensor_dtype_to_field(number) for number in _BITS}


def is_element_type(value: int) -> bool:
    """Whether ``value`` is an element type that onnx knows."""
    return value in _BITS


def tensor_nbytes(tensor: onnx.TensorProto) -> int:
    """Return the number of bytes of a tensor of this type and shape; one byte for each string."""
    count: int = math.prod(tensor.dims)
    return (count * _BITS[tensor.data_type] + 7) // 8


def check_tensor(tensor: onnx.TensorProto, external: ExternalData | None) -> None:
    """Check that a stored tensor's type is known, and that its data is as large as its shape says.

    Args:
        external: the files that may hold its data; None to skip them.

    Raises: ModelError; its message lacks the name of the model.
    """
    element_type = tensor.data_type
    if element_type not in _BITS:
        raise ModelError(f" is damaged: tensor '{tensor.name}' has the unknown element type {element_type}")
    dims = list(tensor.dims)
    if dims and min(dims) < 0:
        raise ModelError(f" is damaged: tensor '{tensor.name}' has the impossible shape {dims}")
    expected = tensor_nbytes(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if external is not None:
            external.check(tensor, expected)
        return
    if element_type != _STRING and tensor.HasField("raw_data"):
        what, got = "bytes", len(tensor.raw_data)
    else:
        what, got = "elements", len(getattr(tensor, _FIELDS[element_type]))
        if _BITS[element_type] >= 8:  # smaller ones are packed into bytes, and complex ones are two numbers
            expected = math.prod(dims) * (2 if element_type in _COMPLEX else 1)
    if got != expected:
        raise ModelError(f" is damaged: tensor '{tensor.name}' of shape {dims} takes {expected} {what}, not {got}")
