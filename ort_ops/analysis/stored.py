"""Tensors of a model, read when they are needed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ort_ops.errors import ModelError
from ort_ops.models.external_data import ExternalData
from ort_ops.models.validation.tensors import tensor_nbytes

Array = NDArray[Any]
_MAPPED_NBYTES = 2**20
"""Of a tensor beside the model that is mapped into memory, not read: its pages can go again, and are not copied."""


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
        """Return its numbers in their own dtype; those of a file beside the model cannot be written to.

        Raises: ModelError for a file that is not there, too short, or outside the model's folder.
        """
        if self.tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(self.tensor)
        mapped = self._map()
        if mapped is not None:
            return mapped
        header = TensorProto()  # onnx puts the numbers into the tensor, where they would stay
        header.CopyFrom(self.tensor)
        return numpy_helper.to_array(header, base_dir=str(self.folder or ""))

    def _map(self) -> Array | None:
        """Return the numbers as they lie in their file; None for few, and for types that share bytes."""
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(self.tensor.data_type))
        nbytes = tensor_nbytes(self.tensor)
        if nbytes < _MAPPED_NBYTES or nbytes != dtype.itemsize * math.prod(self.shape) or sys.byteorder != "little":
            return None
        folder = self.folder or Path()
        try:
            ExternalData(folder / "model.onnx", may_be_linked=False).check(self.tensor, nbytes)
        except ModelError as error:
            raise ModelError(f"the model{error}") from error
        entries = {entry.key: entry.value for entry in self.tensor.external_data}
        raw = np.memmap(folder / entries["location"], np.uint8, "r", int(entries.get("offset", "0")), (nbytes,))
        return np.asarray(raw).view(dtype).reshape(self.shape)


@dataclass(frozen=True)
class Derived(Stored):
    """A tensor whose numbers are made from those of a tensor of the model, each time that they are needed.

    Attributes:
        change: makes them.
    """

    change: Callable[[Array], Array] = lambda array: array

    def load(self) -> Array:
        """Return the numbers that ``change`` makes."""
        return self.change(super().load())
