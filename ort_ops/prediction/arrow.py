"""Arrow's columns as NumPy arrays and back, and the one place that says what to install for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.errors import MylinearError
from ort_ops.installation.extras import install_extra
from ort_ops.prediction.tables import ColumnError


class ExtraError(MylinearError, ImportError):
    """A package that only some users need is missing; the message has the command that installs it."""


def import_pyarrow(what: str, module: str = "pyarrow") -> Any:
    """Return the module ``pyarrow``, or one inside of it. Raises: ExtraError where it is missing.

    Args:
        what: is to be done with it, for the message.
        module: such as ``pyarrow.parquet``, which takes as long to import as half of pyarrow.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ExtraError(f"{what} needs pyarrow ({error}): {install_extra('pyarrow')}") from error


@dataclass
class ArrowTable:
    """A ``pyarrow.RecordBatch`` or ``pyarrow.Table`` as a `Table`; each column is converted once."""

    source: Any
    _columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        names: list[str] = self.source.schema.names
        return names

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self.source.num_rows)

    def column(self, name: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the values ``[rows, ...]`` without a copy where Arrow allows it, and which of them are missing.

        Raises: ColumnError.
        """
        if name not in self._columns:
            if self.names.count(name) > 1:
                raise ColumnError("is there twice")
            self._columns[name] = _to_numpy(self.source.column(name))
        return self._columns[name]


def to_arrow(results: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return Arrow's arrays for results ``[rows, ...]``: a number in each row, or a list of numbers.

    bfloat16, which Arrow does not have, becomes float32, which holds it exactly. A list is Arrow's variable one, since
    Spark reads no other.
    """
    return {name: _from_numpy(array) for name, array in results.items()}


def _from_numpy(array: NDArray[Any]) -> Any:
    pa = import_pyarrow("a table of Arrow")
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.ndim == 1:
        if array.dtype.kind in "OU":
            return pa.array(array.tolist(), pa.string())
        return pa.array(array) if array.dtype.kind == "b" else _from_numbers(pa, array)
    inner = _from_numpy(np.ascontiguousarray(array).reshape(-1, *array.shape[2:]))
    num_values, make = len(array) * array.shape[1], pa.ListArray
    if num_values >= 2**31:
        make = pa.LargeListArray
    offsets = np.arange(len(array) + 1, dtype=np.int64) * array.shape[1]
    return make.from_arrays(_from_numbers(pa, offsets.astype(np.int32 if make is pa.ListArray else np.int64)), inner)


def _from_numbers(pa: Any, array: NDArray[Any]) -> Any:
    """Return Arrow's array over the same memory; ``pa.array`` would import pandas, where that is installed."""
    buffer = pa.py_buffer(np.ascontiguousarray(array))
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), [None, buffer])


def _to_numpy(column: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    pa = import_pyarrow("a table of Arrow")
    if isinstance(column, pa.ChunkedArray):
        chunks = column.chunks or [pa.array([], column.type)]
        column = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    if isinstance(column, pa.ExtensionArray):
        shape: Any = getattr(column.type, "shape", None)
        values, is_missing = _to_numpy(column.storage)
        is_tensor = shape is not None and values.size == len(values) * int(np.prod(shape))
        if not is_tensor:
            return values, is_missing
        order = getattr(column.type, "permutation", None) or range(len(shape))  # of the dimensions as they lie
        return values.reshape((len(values), *shape)).transpose(0, *(axis + 1 for axis in order)), is_missing
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(column), None
    is_missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return np.array(column.to_pylist(), object), is_missing
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), np.ones(len(column), np.bool_)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ColumnError(f"must hold numbers, text or lists of them, got {kind}; cast it first")
    if pa.types.is_boolean(kind):
        column = column if is_missing is None else column.fill_null(False)
        return column.to_numpy(zero_copy_only=False), is_missing
    return _numbers(column), is_missing


def _numbers(column: Any) -> NDArray[Any]:
    """Return the numbers without a copy, any where one is missing; Arrow's own ways would import pandas."""
    types, kind = import_pyarrow("a table of Arrow").types, column.type
    letter = "f" if types.is_floating(kind) else "u" if types.is_unsigned_integer(kind) else "i"
    dtype, data = np.dtype(f"{letter}{kind.bit_width // 8}"), column.buffers()[1]
    if len(column) == 0 or data is None:
        return np.zeros(len(column), dtype)
    return np.frombuffer(data, dtype, len(column), column.offset * dtype.itemsize)


def _lists(column: Any) -> NDArray[Any]:
    """Return lists of the same length as ``[rows, length, ...]``. Raises: ColumnError for others."""
    if column.null_count:
        row = int(column.is_null().to_numpy(zero_copy_only=False).argmax())
        raise ColumnError("has no value; fill it in or leave the row out", row)
    width = getattr(column.type, "list_size", None)
    if width is None:
        lengths = np.diff(_numbers(column.offsets))
        width = int(lengths[0]) if len(lengths) else 0
        if (lengths != width).any():
            row = int((lengths != width).argmax())
            raise ColumnError(f"must hold lists of the same length, got {lengths[row]} after {width}", row)
    values, is_missing = _to_numpy(column.flatten())
    if is_missing is not None and is_missing.any():
        raise ColumnError("has a missing value in its list; fill it in", int(is_missing.argmax()) // width)
    return values.reshape(len(column), width, *values.shape[1:])
