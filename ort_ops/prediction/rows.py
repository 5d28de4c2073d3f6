"""Read the rows for `mylinear run` in batches, from a CSV file, a NPY file, or text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.csv_file import Record, chunks, open_csv
from ort_ops.files.inputs import InputError, shown_names
from ort_ops.files.npy_file import open_npy
from ort_ops.prediction.columns import CellError, Column, encode, feature_fills, is_number, plain_columns
from ort_ops.prediction.elements import TEXT, cast, is_cell, is_floating, parse_cells

SOURCES = ".csv, .npy, .parquet, .arrow or .feather"
"""The files that can be read, for messages; the last three by `table_files`."""


@dataclass(frozen=True)
class Rows:
    """The rows of an input: their number if it is known beforehand, and the batches themselves."""

    count: int | None
    batches: Iterator[NDArray[Any]]


@dataclass(frozen=True)
class RowReader:
    """Read rows for a model's input.

    Attributes:
        shape: of the input; a name or None where a dimension is free.
        dtype: of the input.
        columns: those that the model's metadata names; None if it names none.
        batch_size: rows in a batch.
        is_positional: whether the columns of a CSV file are taken in their order, whatever its header says.
        tell: called with a sentence on how the file was understood, where that is not obvious.
    """

    shape: Sequence[Any]
    dtype: np.dtype[Any]
    columns: tuple[Column, ...] | None
    batch_size: int
    is_positional: bool = False
    tell: Callable[[str], None] = lambda text: None

    def open(self, source: str, start: int = 0) -> Rows:
        """Return the rows of a ``.csv`` or ``.npy`` file, from a row on, or of text.

        Raises: InputError, also when a batch is read.
        """
        suffix = Path(source).suffix.lower()
        if suffix == ".npy":
            return self._open_npy(source, start)
        if len(self.shape) != 2 or not isinstance(self.shape[1], int):
            raise InputError(f"the model takes an input of shape {list(self.shape)}; give it as a .npy file")
        if suffix == ".csv":
            return Rows(None, self._csv_batches(source, start))
        if Path(source).exists():
            raise InputError(f"'{source}' must be a {SOURCES} file")
        return self._parse_text(source)

    @property
    def _all_columns(self) -> tuple[Column, ...]:
        """The columns that a row must have; without names in the model, one for each number that it takes."""
        if self.columns is not None:
            return self.columns
        return plain_columns([f"x{i}" for i in range(self.shape[1])])

    def _parse_text(self, text: str) -> Rows:
        if self.dtype == TEXT:  # it could be any text, also a misspelt file name
            raise InputError(f"the input must be an existing {SOURCES} file, for a model that takes text, got '{text}'")
        columns = self._all_columns
        rows = [row.split(",") for row in text.split(";")]
        if not any(is_cell(self.dtype, cell) for cell in rows[0]) and len(rows[0]) != len(columns):
            raise InputError(f"the input must be an existing {SOURCES} file, or numbers such as \"3,2\", got '{text}'")
        for number, cells in enumerate(rows, 1):
            if len(cells) != len(columns):
                raise InputError(f"row {number} of '{text}' must have {_count(columns)}, got {len(cells)}")
        try:
            encoded = _encode(columns, rows, self.dtype)
        except CellError as error:
            raise InputError(
                f'the input must be an existing {SOURCES} file, or numbers such as "3,2", '
                f"got '{text}': row {error.row + 1}, column {error.column + 1}{error.reason}"
            ) from None
        return Rows(len(encoded), self._cast_batches(text, encoded))

    def _open_npy(self, source: str, start: int) -> Rows:
        array = open_npy(source, is_text=self.dtype == TEXT)
        if array.dtype.kind == "V":
            if self.dtype.name != "bfloat16":
                raise InputError(f"'{source}' must hold numbers, got dtype {array.dtype}")
            array = array.view(self.dtype)
        shape = list(self.shape)
        wrong = [i for i, dim in enumerate(shape[1:], 1) if isinstance(dim, int) and array.shape[i : i + 1] != (dim,)]
        if array.ndim != len(shape) or wrong:
            raise InputError(f"'{source}' must have shape {shape}, as the model's input, got {list(array.shape)}")
        if array.ndim == 0 or len(array) == 0:
            raise InputError(f"'{source}' has no rows")
        return Rows(max(0, len(array) - start), self._cast_batches(source, array, start))

    def _cast_batches(self, source: str, rows: NDArray[Any], first: int = 0) -> Iterator[NDArray[Any]]:
        for start in range(first, len(rows), self.batch_size):
            batch = self._filled(np.asarray(rows[start : start + self.batch_size]))
            yield cast(f"'{source}'", batch, self.dtype, start)

    def _filled(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the batch with the columns' numbers for missing ones in place of NaN."""
        if self.columns is not None and batch.dtype.kind == "f":
            fills = feature_fills(self.columns)
            if not np.isnan(fills).all():
                return np.where(np.isnan(batch), fills, batch)
        return batch

    def _csv_batches(self, source: str, start: int) -> Iterator[NDArray[Any]]:
        columns = self._all_columns
        parts: list[NDArray[Any]] = []
        filled, done = 0, start
        with open_csv(source) as records:
            first = next(records, None)
            if first is None:
                return
            is_header, chosen = self._understand(source, first[1])
            rest = records if is_header else chain([first], records)
            for chunk in chunks(islice(rest, start, None), len(first[1]), self.batch_size):
                encoded = _encode_chunk(source, columns, chosen, chunk, len(first[1]), self.dtype)
                encoded = cast(f"'{source}'", encoded, self.dtype, done)
                done += len(chunk)
                while filled + len(encoded) >= self.batch_size:
                    part, encoded = np.split(encoded, [self.batch_size - filled])
                    yield np.concatenate([*parts, part])
                    parts, filled = [], 0
                if len(encoded):
                    parts.append(encoded)
                    filled += len(encoded)
        if parts:
            yield np.concatenate(parts)

    def _understand(self, source: str, cells: list[str]) -> tuple[bool, list[int] | None]:
        """Return whether a file's first line is a header, and the places of the columns; None for their own order.

        Raises: InputError for a header that does not name all columns, and for a wrong number of columns.
        """
        names = [cell.strip() for cell in cells]
        columns = self._all_columns
        if self.columns is not None and not self.is_positional:
            chosen = _places(source, names, [column.name for column in columns])
            if chosen is not None:
                return True, chosen
        if len(names) != len(columns):
            raise InputError(f"'{source}' must have {len(columns)} columns{self._named()}; it has {len(names)}")
        is_header = not any(is_cell(self.dtype, name) for name in names) and not _can_be_row(columns, names)
        if self.is_positional or self.dtype == TEXT:
            what = "its first line is taken as a header" if is_header else "its first line is taken as a row"
            self.tell(f"'{source}': columns are taken in their order{self._named()}; {what}")
        return is_header, None

    def _named(self) -> str:
        return "" if self.columns is None else f": {shown_names([column.name for column in self.columns])}"


def _places(source: str, names: list[str], wanted: list[str]) -> list[int] | None:
    """Return where the wanted columns are in a header; None if the first line has values and is not a header.

    Raises: InputError for a header that lacks one of them, or has one twice.
    """
    place: dict[str, int] = {}
    twice: set[str] = set()
    for index, name in enumerate(names):
        if name in place:
            twice.add(name)
        place.setdefault(name, index)
    missing = [name for name in wanted if name not in place]
    if not missing:
        for name in wanted:
            if name in twice:
                raise InputError(f"'{source}' line 1: two columns are called '{name}'")
        return [place[name] for name in wanted]
    if len(missing) == len(wanted) and any(is_number(name) for name in names):
        return None
    known = set(wanted)
    unknown = [name for name in names if name not in known]
    raise InputError(
        f"'{source}' line 1 lacks {len(missing)} of the model's {len(wanted)} columns: {shown_names(missing)}; "
        f"it has columns that the model does not know: {shown_names(unknown) or 'none'}; "
        "rename them in the file, or say --positional if its columns are the model's, in their order"
    )


def _can_be_row(columns: Sequence[Column], cells: list[str]) -> bool:
    """Whether a line without numbers is a row all the same, of categories that the model knows."""
    try:
        encode(columns, [cells])
    except CellError:
        return False
    return any(column.categories is not None for column in columns)


def _encode(columns: Sequence[Column], rows: Sequence[Sequence[str]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the inputs for the cells of each row; float64 where the model takes numbers. Raises: CellError."""
    if is_floating(dtype) or not all(column.is_plain for column in columns):
        return encode(columns, rows)
    return parse_cells(dtype, rows)


def _encode_chunk(
    source: str,
    columns: Sequence[Column],
    chosen: list[int] | None,
    chunk: list[Record],
    width: int,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    for line, cells in chunk:
        if len(cells) != width:
            raise InputError(f"'{source}' line {line} must have {width} columns, got {len(cells)}")
    rows: list[Any] = [cells for _, cells in chunk]
    if chosen is not None and chosen != [*range(width)]:
        take = itemgetter(*chosen) if len(chosen) > 1 else lambda cells: (cells[chosen[0]],)
        rows = [take(cells) for cells in rows]
    try:
        return _encode(columns, rows, dtype)
    except CellError as error:
        place = f"{error.column + 1}" if chosen is None else f"'{columns[error.column].name}'"
        raise InputError(f"'{source}' line {chunk[error.row][0]}, column {place}{error.reason}") from None


def _count(columns: Sequence[Column]) -> str:
    what = "numbers" if all(column.categories is None for column in columns) else "values"
    return f"{len(columns)} {what}"
