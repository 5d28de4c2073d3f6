"""Read a model without its weights: a large tensor states where its bytes lie, and they are not read.

Protobuf's own parser reads everything, so a model would cost its weights twice: to inspect it, and to run it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

Read = Callable[[int, int], bytes]
"""(offset, number of bytes) -> the bytes there; fewer at the end of the file."""

SMALL_NBYTES = 1 << 20
"""A model up to this size is read whole, which is faster and takes little memory."""
_MIN_NBYTES = 1024
"""Shorter fields are kept: constants that shape inference reads, and fields that cost nothing."""
_BLOCK_NBYTES = 1 << 13
_MAX_HEADER_NBYTES = 20
_MAX_DEPTH = 100  # protobuf's own
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_TENSOR = onnx.TensorProto.DESCRIPTOR
_DATA_FIELDS = {_TENSOR.fields_by_name[name].number for name in ("raw_data", "float_data", "double_data")}
_EXTERNAL_FIELDS = {_TENSOR.fields_by_name[name].number for name in ("external_data", "data_location")}


class DamageError(Exception):
    """A damaged message; the text says what is wrong with its bytes."""


def read_outline(read: Read, nbytes: int, location: str) -> onnx.ModelProto:
    """Read a model whose large tensors say, as external data, where in the file itself their data lies.

    Args:
        read: reads from the file, of ``nbytes`` bytes; only a small part of it is read.
        location: the file's name, to be stated in the tensors.

    Raises: DamageError for bytes that are not a message; protobuf's DecodeError for contents that are not a model.
    """
    if nbytes <= SMALL_NBYTES:
        return onnx.load_model_from_string(read(0, nbytes))
    return onnx.load_model_from_string(_Outline(read, location).message(0, nbytes, onnx.ModelProto.DESCRIPTOR, 0))


class _Outline:
    def __init__(self, read: Read, location: str) -> None:
        self._read = read
        self._location = location

    def message(self, start: int, end: int, descriptor: Any, depth: int) -> bytes:
        """Return the message that lies from ``start`` to ``end``, with its large tensors outlined."""
        if depth > _MAX_DEPTH:
            raise DamageError(f"it nests deeper than {_MAX_DEPTH} messages")
        fields = descriptor.fields_by_number
        is_tensor = descriptor is _TENSOR
        parts: list[bytes] = []
        data: list[tuple[int, int, int]] = []  # of a tensor: start of the data's field, start of the data, end
        is_external = False
        block, base, at, kept = b"", start, start, start
        while at < end:
            if at + _MAX_HEADER_NBYTES > base + len(block):
                base, block = at, self._read(at, min(end - at, _BLOCK_NBYTES))
            tag, i = _varint(block, at - base, base)
            kind = tag & 7
            if kind == _DELIMITED:
                nbytes, i = _varint(block, i, base)
                first = base + i
                past = first + nbytes
            elif kind == _VARINT:
                first = past = base + _varint(block, i, base)[1]
            elif kind in (_FIXED64, _FIXED32):
                first = past = base + i + (8 if kind == _FIXED64 else 4)
            else:
                raise DamageError(f"there is no field at byte {at}")
            if past > end:
                raise DamageError(f"the field at byte {at} ends at byte {past}, and what it is part of at byte {end}")
            if is_tensor:
                is_external = is_external or tag >> 3 in _EXTERNAL_FIELDS
            if past - first > _MIN_NBYTES:
                field = fields.get(tag >> 3)
                if is_tensor and tag >> 3 in _DATA_FIELDS:
                    data.append((at, first, past))
                elif field is not None and field.message_type is not None:
                    inner = self.message(first, past, field.message_type, depth + 1)
                    parts += [self._between(kept, at), _encode(tag), _encode(len(inner)), inner]
                    kept = past
            at = past
        if len(data) == 1 and not is_external:
            ((at, first, past),) = data
            parts += [self._between(kept, at), self._external(first, past - first)]
            kept = past
        parts.append(self._between(kept, end))
        return b"".join(parts)

    def _between(self, start: int, end: int) -> bytes:
        found = self._read(start, end - start) if start < end else b""
        if len(found) != end - start:
            raise DamageError("it became shorter while it was read")
        return found

    def _external(self, offset: int, nbytes: int) -> bytes:
        """Return the fields of a tensor that say where its data lies."""
        entries = {"location": self._location, "offset": str(offset), "length": str(nbytes)}
        fields = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        for key, value in entries.items():
            fields.external_data.add(key=key, value=value)
        data: bytes = fields.SerializeToString()
        return data


def _varint(block: bytes, i: int, base: int) -> tuple[int, int]:
    """Return the number at index ``i``, and the index after it."""
    value = shift = 0
    start = i
    try:
        while True:
            byte = block[i]
            i += 1
            if byte < 0x80:
                return value | byte << shift, i
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise DamageError(f"there is no number at byte {base + start}")
    except IndexError:
        raise DamageError(f"it ends within the number at byte {base + start}") from None


def _encode(value: int) -> bytes:
    """Return a number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
