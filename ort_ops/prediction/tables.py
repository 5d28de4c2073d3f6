"""Turn named columns, of arrays or of Arrow, into inputs of a model; Arrow is imported only for Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import InputError


class Table(Protocol):
    """Columns of equal lengths.

    Attributes:
        names: of the columns, in order.
        num_rows: of each column.
    """

    @property
    def names(self) -> list[str]: ...
    @property
    def num_rows(self) -> int: ...
    def column(self, name: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the values ``[rows, ...]``, and which of them are missing; None where none is.

        Raises: ColumnError for values that no input of a model can take.
        """


class ColumnError(ValueError):
    """A column cannot be used; the message follows its name. ``row`` counts from 0, None for the whole column."""

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason)
        self.row = row


@dataclass(frozen=True)
class ArrayTable:
    """A dictionary of NumPy arrays as a `Table`. Raises: ColumnError for arrays of different lengths."""

    arrays: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        lengths = {name: len(array) if np.ndim(array) else None for name, array in self.arrays.items()}
        if None in lengths.values() or len({*lengths.values()}) > 1:
            raise InputError(f"the arrays of a batch must have the same number of rows, got {lengths}")

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return [*self.arrays]

    @property
    def num_rows(self) -> int:
        """The number of rows; 0 without any array."""
        return len(next(iter(self.arrays.values()), ()))

    def column(self, name: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the array, and where an array of objects has None; NaN is a value. Raises: ColumnError."""
        array = np.asarray(self.arrays[name])
        mask = np.ma.getmaskarray(self.arrays[name]) if isinstance(self.arrays[name], np.ma.MaskedArray) else None
        if mask is not None and mask.any():
            raise ColumnError("has a masked value; fill it in or leave the row out", int(np.argwhere(mask)[0][0]))
        if array.dtype.kind == "U":
            array = array.astype(object)
        if array.dtype.kind == "O":
            wrong = next((value for value in array.flat if not isinstance(value, str | None)), None)
            if wrong is not None or array.ndim > 1:
                what = "an array of objects" if wrong is None else f"an object of type {type(wrong).__name__}"
                raise ColumnError(f"must hold numbers or text, got {what}")
            return array, np.array([value is None for value in array], np.bool_)
        if array.dtype.kind not in "fiubOV" or (array.dtype.kind == "V" and array.dtype.name != "bfloat16"):
            raise ColumnError(f"must hold numbers or text, got dtype {array.dtype}")
        return array, None
