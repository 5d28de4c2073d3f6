"""Turn the columns of a table into inputs of a network, in the same way for training and for `mylinear run`.

A checkpoint and an exported model carry the columns with them, so a row means the same to both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import shown_names, shown_text

MISSING_NUMBERS = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"})
"""Texts that stand for a missing number, in lower case."""


class CellError(ValueError):
    """A cell does not fit its column.

    Attributes:
        row: number of the record, from 0.
        column: number of the column, from 0.
        reason: what the cell must be, and what it is; follows the name of its place.
    """

    def __init__(self, row: int, column: int, reason: str) -> None:
        super().__init__(reason)
        self.row, self.column, self.reason = row, column, reason


@dataclass(frozen=True)
class Column:
    """A column of a table, and how its cells become inputs.

    Attributes:
        name: in the table's header.
        fill: the number that stands for a missing one; None where none may be missing.
        categories: the texts that the column may hold, each of which becomes an input that is 1 where the cell is that
            text, else 0; None for a column of numbers, which is an input itself.
    """

    name: str
    fill: float | None = None
    categories: tuple[str, ...] | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of its inputs.

        >>> Column("colour", categories=("blue", "red")).feature_names
        ('colour=blue', 'colour=red')
        """
        if self.categories is None:
            return (self.name,)
        return tuple(f"{self.name}={category}" for category in self.categories)

    @property
    def is_plain(self) -> bool:
        """Whether it takes finite numbers and passes them on unchanged."""
        return self.fill is None and self.categories is None


def feature_names(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the names of all inputs, in order."""
    return tuple(chain.from_iterable(column.feature_names for column in columns))


def feature_fills(columns: Sequence[Column]) -> NDArray[np.float64]:
    """Return the number that replaces a missing one in each input; NaN where none may be missing."""
    fills = [[math.nan if c.fill is None else c.fill] * len(c.feature_names) for c in columns]
    return np.array([*chain.from_iterable(fills)], np.float64)


def plain_columns(names: Sequence[str]) -> tuple[Column, ...]:
    """Return columns of finite numbers."""
    return tuple(Column(name) for name in names)


def encode(columns: Sequence[Column], records: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return the inputs ``[records, features]`` for the cells of each record, a cell for each column.

    Raises: CellError for the first cell, by rows, that does not fit its column.
    """
    if all(column.is_plain for column in columns):
        numbers = plain_numbers([*chain.from_iterable(records)])
        if numbers is not None:
            return numbers.reshape(len(records), len(columns))
    parts: list[NDArray[np.float64]] = []
    errors: list[CellError] = []
    for index, (column, cells) in enumerate(zip(columns, zip(*records, strict=True), strict=True)):
        try:
            parts.append(encode_column(column, cells))
        except CellError as error:
            errors.append(CellError(error.row, index, error.reason))
    if errors:
        raise min(errors, key=lambda error: (error.row, error.column))
    return np.concatenate(parts, axis=1)


def encode_column(column: Column, cells: Sequence[str]) -> NDArray[np.float64]:
    """Return the inputs ``[cells, features]`` of one column. Raises: CellError, whose column is 0."""
    if column.categories is not None:
        return _one_hot(column.categories, cells)
    numbers = plain_numbers(cells)
    if numbers is None:
        numbers = np.array([_filled_number(column, row, cell) for row, cell in enumerate(cells)], np.float64)
    return numbers[:, None]


def parse_number(text: str) -> float:
    """Return ``text`` as a finite number, or NaN for a missing one.

    Raises: ValueError for anything else, also for Python's 1_000.

    >>> parse_number(" 2.5"), parse_number("NA")
    (2.5, nan)
    """
    if text.strip().lower() in MISSING_NUMBERS:
        return math.nan
    value = float(text)
    if "_" in text or not math.isfinite(value):
        raise ValueError(text)
    return value


def is_number(text: str) -> bool:
    """Whether ``text`` is a finite number."""
    try:
        return math.isfinite(parse_number(text))
    except ValueError:
        return False


def numbers_or_missing(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the numbers of a column, NaN for missing ones; None where a cell is neither."""
    numbers = plain_numbers(cells)
    if numbers is not None:
        return numbers
    try:
        return np.array([parse_number(cell) for cell in cells], np.float64)
    except ValueError:
        return None


def to_json(columns: Sequence[Column]) -> str:
    """Return the columns as JSON, without the fields that are not set."""
    entries: list[dict[str, Any]] = []
    for column in columns:
        entry: dict[str, Any] = {"name": column.name}
        if column.fill is not None:
            entry["fill"] = column.fill
        if column.categories is not None:
            entry["categories"] = list(column.categories)
        entries.append(entry)
    return json.dumps(entries)


def from_json(text: str) -> tuple[Column, ...]:
    """Read the JSON of `to_json`. Raises: ValueError that says what is wrong."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError("it must be a list of columns")
    columns = tuple(_column(entry) for entry in entries)
    if len({column.name for column in columns}) < len(columns):
        raise ValueError("two columns have the same name")
    return columns


def _column(entry: Any) -> Column:
    if not isinstance(entry, dict) or not entry.keys() <= {"name", "fill", "categories"}:
        raise ValueError("a column must have a name, and may have fill or categories")
    name, fill, categories = entry.get("name"), entry.get("fill"), entry.get("categories")
    if not isinstance(name, str):
        raise ValueError("a column's name must be text")
    if fill is not None and (isinstance(fill, bool) or not isinstance(fill, int | float) or not math.isfinite(fill)):
        raise ValueError(f"fill of column '{name}' must be a finite number, got {fill!r:.40}")
    if categories is None:
        return Column(name, None if fill is None else float(fill))
    is_right = isinstance(categories, list) and categories and all(isinstance(text, str) for text in categories)
    if not is_right or len(set(categories)) < len(categories) or fill is not None:
        raise ValueError(f"categories of column '{name}' must be different texts, without fill")
    return Column(name, None, tuple(categories))


def plain_numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the numbers, or None unless all are finite numbers."""
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() and "_" not in "".join(cells) else None


def _filled_number(column: Column, row: int, cell: str) -> float:
    try:
        number = parse_number(cell)
    except ValueError:
        raise CellError(row, 0, f" must be a finite number, got {shown_text(cell.strip())}") from None
    if not math.isnan(number):
        return number
    if column.fill is None:
        got = f" (it is {shown_text(cell.strip())})" if cell.strip() else ""
        raise CellError(row, 0, f": the value is missing{got}; fill it in or leave the row out")
    return column.fill


def _one_hot(categories: tuple[str, ...], cells: Sequence[str]) -> NDArray[np.float64]:
    place = {category: index for index, category in enumerate(categories)}
    one_hot = np.zeros((len(cells), len(categories)))
    for row, cell in enumerate(cells):
        index = place.get(cell.strip())
        if index is None:
            got = shown_text(cell.strip()) if cell.strip() else "nothing"
            raise CellError(row, 0, f" must be one of the categories {shown_names(categories)}, got {got}")
        one_hot[row, index] = 1.0
    return one_hot
