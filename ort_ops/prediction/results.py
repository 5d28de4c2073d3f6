"""Write the results of `mylinear run`, unchanged or as classes with their probabilities, as CSV or NPY."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import InputError


class ClassNamer:
    """Turn logits into the most probable class and its probability.

    Args:
        classes: the names, in the order of the logits.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = np.array(classes, np.str_)
        self._dtype = np.dtype([("class", self._names.dtype), ("probability", np.float64)])

    def __call__(self, logits: NDArray[Any], first_row: int) -> NDArray[Any]:
        """Return ``[rows]`` of (class, probability) for ``logits`` of ``[rows, classes]``; softmax in float64.

        Args:
            first_row: number of the first row, for messages.

        Raises: InputError if the logits are not finite, or not one for each class.
        """
        if logits.shape[1:] != (len(self._names),):
            raise InputError(
                f"the model names {len(self._names)} classes and gives {list(logits.shape[1:])} numbers a row; "
                "ask for the numbers with --raw"
            )
        wide = logits.astype(np.float64)
        is_bad = ~np.isfinite(wide).all(axis=1)
        if is_bad.any():
            row = int(is_bad.argmax())
            raise InputError(
                f"row {first_row + row}: the model gives {wide[row][~np.isfinite(wide[row])][0]}, which is no class; "
                "look at the row, or at all numbers with --raw"
            )
        scaled = np.exp(wide - wide.max(axis=1, keepdims=True))
        best = wide.argmax(axis=1)
        result = np.empty(len(wide), self._dtype)
        result["class"] = self._names[best]
        result["probability"] = scaled[np.arange(len(wide)), best] / scaled.sum(axis=1)
        return result


class CsvWriter:
    """Write results as CSV with a header, a line for each row.

    Args:
        name: of the model's output, for the header.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._name = name
        self._has_header = False

    def write(self, result: NDArray[Any], kept: Any = None) -> None:
        """Write the rows of ``result``; numbers read back exactly."""
        names = result.dtype.names
        flat = result if names else result.reshape(len(result), -1)
        if not self._has_header:
            self._writer.writerow(names or self._column_names(flat.shape[1]))
            self._has_header = True
        if names:
            self._writer.writerows(result.tolist())
        elif flat.dtype == np.float64:
            self._writer.writerows(flat.tolist())
        else:  # the shortest text that reads back exactly in this dtype
            self._writer.writerows([str(value) for value in row] for row in flat)

    def finish(self) -> None:
        """Do nothing: everything is written."""

    def _column_names(self, count: int) -> list[str]:
        return [self._name] if count == 1 else [f"{self._name}{i}" for i in range(count)]


class NpyWriter:
    """Write results into a NPY file batch by batch, so that only one batch is in memory.

    bfloat16, which the format does not have, is written as float32, which holds it exactly.

    Args:
        file: one that can be written and sought in.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._dtype: np.dtype[Any] | None = None
        self._row_shape: tuple[int, ...] = ()
        self._count = 0

    def write(self, result: NDArray[Any], kept: Any = None) -> None:
        """Append rows. Raises: InputError if shape or dtype differ from those before."""
        if result.dtype.name == "bfloat16":
            result = result.astype(np.float32)
        if self._dtype is None:
            if result.dtype.hasobject:
                raise InputError(f"a .npy file holds numbers, and the model gives {result.dtype}; name a .csv file")
            self._dtype, self._row_shape = result.dtype, result.shape[1:]
            self._file.write(self._header())
        if result.dtype != self._dtype or result.shape[1:] != self._row_shape:
            raise InputError(
                f"row {self._count + 1}: the model gives {list(result.shape[1:])} numbers, and gave "
                f"{list(self._row_shape)} before; a .npy file cannot hold both, so run them apart"
            )
        self._file.write(np.ascontiguousarray(result).tobytes())
        self._count += len(result)

    def finish(self) -> None:
        """Write the number of rows into the header."""
        header = self._header()
        self._file.seek(0)
        self._file.write(header)

    def _header(self) -> bytes:
        """Return the header for the rows so far; NumPy leaves room in it for the largest number."""
        assert self._dtype is not None
        buffer = io.BytesIO()
        content = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._row_shape),
        }
        np.lib.format.write_array_header_2_0(buffer, content)
        return buffer.getvalue()
