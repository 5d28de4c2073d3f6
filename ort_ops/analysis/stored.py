"""Tensors of a model, read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

Array = NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """A tensor of the model.

    Attributes:
        folder: of its external data.
    """

    tensor: TensorProto
    folder: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, without reading the numbers."""
        return tuple(self.tensor.dims)

    def load(self) -> Array:
        """Return its numbers in their own dtype."""
        if self.tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(self.tensor)
        header = TensorProto()  # onnx puts the numbers into the tensor, where they would stay
        header.CopyFrom(self.tensor)
        return numpy_helper.to_array(header, base_dir=str(self.folder or ""))
