"""Write a model whose tensors are arrays: from their own memory, completely or not at all, of any size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ort_ops.errors import ModelError
from ort_ops.files.atomic import OutputError, is_stream, open_atomically
from ort_ops.models.external_data import data_files, data_in_use, free_data_file, remove_quietly
from ort_ops.models.files import look_at_model
from ort_ops.opdef.element_types import ONNX_TYPES
from ort_ops.training.file_format import KEY
from ort_ops.training.storage import wire

Array = NDArray[Any]

MAX_NBYTES_INSIDE = 3 * 2**29
"""More than 1.5 GiB goes to a file beside the model: protobuf ends at 2 GiB."""
_ALIGNMENT = 4096  # lets a runtime map the tensors into memory


def write_model(
    path: str | os.PathLike[str], rest: Sequence[wire.Piece], graph: Sequence[wire.Piece], tensors: Mapping[str, Array]
) -> None:
    """Write a model with tensors as initializers of its graph.

    Tensors that are too large for one file lie in a second one beside it. A kill at any moment leaves the old model or
    the new one, each with its data: the second file has a name that no other file has, and the old one's is removed at
    the end.

    Args:
        rest: the fields of the model, without its graph.
        graph: the fields of the graph, without these initializers.
        tensors: by name.

    Raises: OutputError.
    """
    nbytes = sum(array.nbytes for array in tensors.values()) + wire.nbytes_of([*rest, *graph])
    used, left_over = ([], []) if is_stream(path) else _data_files(path)
    if nbytes <= MAX_NBYTES_INSIDE:
        with open_atomically(path) as temporary, temporary.open("r+b") as file:
            _write_file(file, rest, graph, [_inside(name, array) for name, array in tensors.items()])
        remove_quietly([*used, *left_over])
        return
    if is_stream(path) or Path(path).is_symlink():
        raise OutputError(
            f"'{path}' must be a regular file, and no symbolic link: {nbytes / 2**20:.0f} MiB of it lie in a file "
            "beside it"
        )
    data = free_data_file(Path(path))
    places = {}
    with open_atomically(data) as temporary, temporary.open("r+b") as file:
        for name, array in tensors.items():
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            places[name] = {"location": data.name, "offset": str(file.tell()), "length": str(array.nbytes)}
            file.write(_bytes_of(array))
    fields = [
        wire.external_tensor(name, ONNX_TYPES[array.dtype.name], array.shape, places[name])
        for name, array in tensors.items()
    ]
    with open_atomically(path) as temporary, temporary.open("r+b") as file:
        _write_file(file, rest, graph, fields)
    remove_quietly([*used, *left_over])


def _inside(name: str, array: Array) -> list[wire.Piece]:
    return wire.tensor(name, ONNX_TYPES[array.dtype.name], array.shape, _bytes_of(array))


def _write_file(
    file: BinaryIO, rest: Sequence[wire.Piece], graph: Sequence[wire.Piece], tensors: Sequence[list[wire.Piece]]
) -> None:
    fields = [*graph]
    for pieces in tensors:
        fields += wire.message(wire.GRAPH_INITIALIZER, pieces)
    for piece in (*rest, *wire.message(wire.MODEL_GRAPH, fields)):
        file.write(piece)


def _bytes_of(array: Array) -> memoryview:
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data


def _data_files(path: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
    """Return the data's files that the model of this name uses now, and those that a kill left over.

    What lies beside a file that is no training file may belong to another one.
    """
    files = data_files(Path(path))
    if not files:
        return [], []
    try:
        model = look_at_model(Path(path))
    except ModelError:  # it is not there, or no model
        return [], []
    is_ours = any(entry.key == KEY for entry in model.metadata_props)
    used = data_in_use(Path(path), model)
    return used, [file for file in files if file not in used] if is_ours else []
