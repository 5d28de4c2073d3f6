"""Write the few messages of protobuf that a training file is put together from, without copying its tensors.

Protobuf's own writer needs a model three times in memory: as arrays, as a message and as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_VARINT, _DELIMITED = 0, 2
# Numbers of fields in onnx.proto, part of the ONNX standard.
MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_INITIALIZER = 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
_EXTERNAL = 1

Piece = bytes | memoryview


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def nbytes_of(pieces: Iterable[Piece]) -> int:
    """Return how long pieces are together."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in pieces)


def message(number: int, pieces: Sequence[Piece]) -> list[Piece]:
    """Return the field of a message that has these pieces."""
    return [varint(number << 3 | _DELIMITED) + varint(nbytes_of(pieces)), *pieces]


def entry(number: int, key: str, value: str) -> list[Piece]:
    """Return the field of one ``StringStringEntryProto``."""
    return message(number, [*_text(1, key), *_text(2, value)])


def tensor(name: str, onnx_type: int, shape: Sequence[int], data: Piece) -> list[Piece]:
    """Return a ``TensorProto`` with its data inside."""
    return [*_tensor_head(name, onnx_type, shape), *message(_RAW_DATA, [data])]


def external_tensor(name: str, onnx_type: int, shape: Sequence[int], where: Mapping[str, str]) -> list[Piece]:
    """Return a ``TensorProto`` that says where its data lies."""
    pieces = _tensor_head(name, onnx_type, shape)
    for key, value in where.items():
        pieces += entry(_EXTERNAL_DATA, key, value)
    return [*pieces, varint(_DATA_LOCATION << 3 | _VARINT) + varint(_EXTERNAL)]


def _tensor_head(name: str, onnx_type: int, shape: Sequence[int]) -> list[Piece]:
    pieces: list[Piece] = [varint(_DIMS << 3 | _VARINT) + varint(dim) for dim in shape]
    return [*pieces, varint(_DATA_TYPE << 3 | _VARINT) + varint(onnx_type), *_text(_NAME, name)]


def _text(number: int, text: str) -> list[Piece]:
    return message(number, [text.encode()])
