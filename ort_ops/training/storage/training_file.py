"""Read a training file with its state left in the file until there is memory for it, and write one anew.

The state is read once, straight into the memory that onnxruntime trains in, and written straight from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ort_ops.errors import ModelError
from ort_ops.models.files import look_at_model
from ort_ops.models.graphs import tensors
from ort_ops.opdef.element_types import BY_ONNX_TYPE, element_type_name
from ort_ops.training.check import read_training
from ort_ops.training.file_format import KEY, TrainingMetadata
from ort_ops.training.storage import wire
from ort_ops.training.storage.write import write_model

Array = NDArray[Any]


@dataclass(frozen=True)
class Skeleton:
    """A training file without its state and its own metadata, serialized: what `save` writes beside the state.

    Attributes:
        graph: the fields of the graph.
        rest: the fields of the model.
    """

    graph: bytes
    rest: bytes

    def model(self) -> onnx.ModelProto:
        """Return the model, without its state and metadata of training."""
        model = onnx.ModelProto()
        model.ParseFromString(self.rest)
        model.graph.ParseFromString(self.graph)
        return model

    def write(self, path: str | os.PathLike[str], metadata: TrainingMetadata, state: Mapping[str, Array]) -> None:
        """Write the file completely or not at all. Raises: OutputError."""
        rest = [self.rest, *wire.entry(wire.MODEL_METADATA, KEY, metadata.to_json())]
        write_model(path, rest, [self.graph], state)


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a tensor lie; in memory where they are short."""

    file: Path
    offset: int
    data: bytes | None = None


class TrainingFile:
    """A training file that was read, but for its state.

    Attributes:
        path: of the file.
        metadata: checked.
        model: without the first values of its state; other large tensors are read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file. Raises: ModelError if it is no training file, or damaged."""
        self.path = Path(path)
        before = _stamp(self.path)
        self.model = look_at_model(self.path)
        self.metadata = read_training(self.model, f"'{self.path}'")
        if self.model.training_info:
            raise ModelError(f"'{self.path}' has ONNX's own training information, which onnxruntime does not read")
        graph = self.model.graph
        stored = {*self.metadata.stored}
        self._places = {t.name: _place(t, self.path) for t in graph.initializer if t.name in stored}
        kept = [tensor for tensor in graph.initializer if tensor.name not in stored]
        copies = onnx.GraphProto(initializer=kept)
        del graph.initializer[:]
        graph.initializer.extend(copies.initializer)
        self._stamp = before
        for tensor in tensors(self.model):
            self._bring_inside(tensor)

    def read(self, name: str, into: Array) -> None:
        """Read the first value of a state into memory of its type and shape. Raises: ModelError."""
        place = self._places[name]
        target = into.reshape(-1).view(np.uint8)
        if place.data is not None:
            target[:] = np.frombuffer(place.data, np.uint8)
            return
        with self._opened(place.file) as file:
            file.seek(place.offset)
            if file.readinto(target.data) != target.nbytes:
                raise self._changed()

    def skeleton(self) -> Skeleton:
        """Return what `Skeleton.write` puts around the state."""
        return Skeleton(self.model.graph.SerializeToString(), _without_graph(self.model).SerializeToString())

    def check_unchanged(self) -> None:
        """Raise ModelError if the file was replaced while it was read."""
        if _stamp(self.path) != self._stamp:
            raise self._changed()

    def _bring_inside(self, tensor: onnx.TensorProto) -> None:
        """Read the data of a tensor that is no state."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return
        place = _place(tensor, self.path)
        length = next(int(entry.value) for entry in tensor.external_data if entry.key == "length")
        with self._opened(place.file) as file:
            file.seek(place.offset)
            data = file.read(length)
        if len(data) != length:
            raise self._changed()
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data

    @contextmanager
    def _opened(self, file: Path) -> Iterator[FileIO]:
        try:
            with FileIO(file) as opened:
                yield opened
        except OSError as error:
            raise ModelError(f"'{file}' cannot be read: {error.strerror or error}") from error

    def _changed(self) -> ModelError:
        return ModelError(f"'{self.path}' was changed while it was read; open it again")


def numpy_dtype(onnx_type: int) -> np.dtype[Any]:
    """Return NumPy's dtype of an element type. Raises: ModelError for one that no kernel here takes."""
    import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16

    if onnx_type not in BY_ONNX_TYPE:
        raise ModelError(
            f": inputs must be of {', '.join(t.name for t in BY_ONNX_TYPE.values())}, got one of "
            f"{element_type_name(onnx_type)}"
        )
    return np.dtype(BY_ONNX_TYPE[onnx_type].name)


def _place(tensor: onnx.TensorProto, path: Path) -> _Place:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return _Place(path, 0, np.asarray(numpy_helper.to_array(tensor), order="C").tobytes())
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return _Place(path.parent / entries["location"], int(entries.get("offset", "0")))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:  # `look_at_model` says what is wrong
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of what is not the graph, without the entry that `Skeleton.write` writes."""
    rest = onnx.ModelProto()
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if model.HasField(name):
            setattr(rest, name, getattr(model, name))
    rest.opset_import.extend(model.opset_import)
    rest.functions.extend(model.functions)
    rest.metadata_props.extend(entry for entry in model.metadata_props if entry.key != KEY)
    return rest
