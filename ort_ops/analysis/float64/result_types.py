"""Which element type a model holds the result of a node in, from what it says and from the node's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import onnx
from onnx import TensorProto, defs

from ort_ops.opdef.element_types import FLOATS, ElementType

FLOATS_BY_ONNX_TYPE = {element_type.onnx_type: element_type for element_type in FLOATS}


def result_type(
    proto: onnx.NodeProto, index: int, types: Sequence[Any], declared: ElementType | None
) -> ElementType | None:
    """Return the type of a floating-point result: as cast, as declared, or that of the inputs of its kind."""
    if proto.op_type == "Cast":
        return FLOATS_BY_ONNX_TYPE.get(next(a.i for a in proto.attribute if a.name == "to"))
    if proto.op_type == "CastLike":
        return cast("ElementType | None", types[1])
    if declared is not None and declared.is_floating:
        return declared
    if proto.op_type in ("Constant", "ConstantOfShape"):
        tensor = next((a.t for a in proto.attribute if a.name == "value"), None)
        return FLOATS_BY_ONNX_TYPE.get(TensorProto.FLOAT if tensor is None else tensor.data_type)
    for letter, element_type in zip(_letters(proto, len(types)), types, strict=True):
        if element_type is not None and letter == _letter_of_result(proto, index):
            return cast("ElementType", element_type)
    return next((t for t in types if t is not None), None)


def _letters(proto: onnx.NodeProto, count: int) -> list[str | None]:
    schema = _schema(proto)
    if schema is None or not schema.inputs:
        return [None] * count
    return [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(count)]


def _letter_of_result(proto: onnx.NodeProto, index: int) -> str | None:
    schema = _schema(proto)
    if schema is None or not schema.outputs:
        return ""
    letter: str = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    return letter


def _schema(proto: onnx.NodeProto) -> Any:
    try:
        return defs.get_schema(proto.op_type, domain=proto.domain)
    except Exception:  # an operator that onnx does not know
        return None
