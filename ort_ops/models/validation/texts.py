"""Check that all text in a model is UTF-8, which protobuf demands when it writes but not when it reads."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import onnx

from ort_ops.errors import ModelError


def _text_fields(message: Any) -> tuple[str, ...]:
    """Return the names of a message's fields that hold one text."""
    return tuple(f.name for f in message.DESCRIPTOR.fields if f.type == f.TYPE_STRING and not f.is_repeated)


_MESSAGES = (
    onnx.ModelProto,
    onnx.GraphProto,
    onnx.FunctionProto,
    onnx.NodeProto,
    onnx.AttributeProto,
    onnx.TensorProto,
    onnx.ValueInfoProto,
    onnx.OperatorSetIdProto,
)
_FIELDS = {message: _text_fields(message) for message in _MESSAGES}


def check_texts(messages: Sequence[Any]) -> None:
    """Check the texts and the metadata of messages of one type, but not of the messages inside.

    Raises: ModelError; its message lacks the name of the model.
    """
    if not messages:
        return
    for name in _FIELDS[type(messages[0])]:
        for text in set(map(attrgetter(name), messages)):
            if isinstance(text, bytes):  # what protobuf returns where it cannot decode
                raise ModelError(f" is damaged: a {name} is not in UTF-8: {text[:60]!r}")
    if not isinstance(messages[0], onnx.AttributeProto | onnx.OperatorSetIdProto):
        for message in messages:
            for entry in message.metadata_props or ():
                if isinstance(entry.key, bytes) or isinstance(entry.value, bytes):
                    raise ModelError(f" is damaged: the metadata entry {entry.key!r} is not in UTF-8")
