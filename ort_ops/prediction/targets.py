"""Say which columns of a table make which input of a model, and put them together a few rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import InputError, shown_names
from ort_ops.prediction.columns import CellError, Column, encode_column, plain_columns
from ort_ops.prediction.elements import TEXT, cast
from ort_ops.prediction.served import ModelInput, ServedModel
from ort_ops.prediction.tables import ColumnError, Table


@dataclass(frozen=True)
class Target:
    """An input of the model, and the columns that it is made of.

    Attributes:
        input: of the model.
        columns: one that has a row of the input in each cell, or several of one number each, beside one another.
    """

    input: ModelInput
    columns: tuple[Column, ...]

    def take(self, label: str, table: Table, num_before: int = 0) -> Taken:
        """Look up the columns of a table. Raises: InputError that names the row and the column.

        Args:
            label: what the table is, for messages.
            num_before: rows before these, for messages.
        """
        missing = [column.name for column in self.columns if column.name not in table.names]
        if missing:
            raise InputError(
                f"{label} lacks {len(missing)} of the model's {len(self.columns)} columns: {shown_names(missing)}; "
                f"it has {shown_names(table.names) or 'none'}"
            )
        parts = [self._part(label, table, column, num_before) for column in self.columns]
        if len(parts) == 1:
            parts = [self._as_input(label, parts[0], self.columns[0].name)]
        elif self._is_wrong(width := sum(1 if part.ndim == 1 else part.shape[1] for part in parts)):
            raise InputError(f"the model takes {list(self.input.shape)}, and {label} gives it {width} columns")
        return Taken(label, parts, self.input.dtype, num_before)

    def _is_wrong(self, width: int) -> bool:
        return len(self.input.shape) != 2 or (isinstance(self.input.shape[1], int) and self.input.shape[1] != width)

    def _part(self, label: str, table: Table, column: Column, num_before: int) -> NDArray[Any]:
        try:
            values, is_missing = table.column(column.name)
            if len(self.columns) > 1 and values.ndim != 1:
                raise ColumnError(f"must hold one value in each row, got {list(values.shape[1:])}")
            return _encoded(column, values, is_missing, self.input.dtype)
        except ColumnError as error:
            place = "" if error.row is None else f" row {num_before + error.row + 1},"
            raise InputError(f"{label}{place} column '{column.name}' {error}") from None

    def _as_input(self, label: str, values: NDArray[Any], name: str) -> NDArray[Any]:
        """Return the values in the shape of the input: a list in each row can be flat where the model's is not."""
        inner = self.input.shape[1:]
        fixed = [size for size in inner if isinstance(size, int)]
        if len(fixed) == len(inner) and values.size == len(values) * int(np.prod(fixed)):
            return values.reshape(len(values), *fixed)
        if values.ndim == len(self.input.shape) and all(
            not isinstance(size, int) or size == got for size, got in zip(inner, values.shape[1:], strict=True)
        ):
            return values
        raise InputError(
            f"{label} column '{name}' must have rows of shape {list(inner)}, as the model's input, "
            f"got {list(values.shape[1:])}"
        )


@dataclass(frozen=True)
class Taken:
    """Columns of a table for an input, to be put beside one another a few rows at a time."""

    label: str
    parts: list[NDArray[Any]]
    dtype: np.dtype[Any]
    num_before: int

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return the input for some rows. Raises: InputError for a value that the model's type does not hold."""
        parts = [part[start:stop] for part in self.parts]
        if any(part.dtype != parts[0].dtype for part in parts):  # one type for all could round integers
            parts = [cast(self.label, part, self.dtype, self.num_before + start) for part in parts]
        block = parts[0] if len(parts) == 1 else _beside(parts)
        return np.ascontiguousarray(cast(self.label, block, self.dtype, self.num_before + start))


def _beside(parts: list[NDArray[Any]]) -> NDArray[Any]:
    widths = [1 if part.ndim == 1 else part.shape[1] for part in parts]
    block = np.empty((len(parts[0]), sum(widths)), parts[0].dtype)
    at = 0
    for part, width in zip(parts, widths, strict=True):
        if part.ndim == 1:
            block[:, at] = part
        else:
            block[:, at : at + width] = part
        at += width
    return block


def _encoded(
    column: Column, values: NDArray[Any], is_missing: NDArray[np.bool_] | None, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return what a column gives to the input. Raises: ColumnError."""
    if column.categories is not None:
        if values.dtype != TEXT:
            raise ColumnError(f"must hold text, one of its categories, got {values.dtype}")
        cells = values.tolist() if is_missing is None else np.where(is_missing, "", values).tolist()
        try:
            return encode_column(column, cells)
        except CellError as error:
            raise ColumnError(error.reason.strip(), error.row) from None
    if (values.dtype == TEXT) != (dtype == TEXT):
        wanted, got = ("text", values.dtype) if dtype == TEXT else ("numbers", "text")
        raise ColumnError(f"must hold {wanted}, got {got}")
    if column.fill is not None and values.dtype.kind == "f":
        is_missing = np.isnan(values) if is_missing is None else is_missing | np.isnan(values)
    if is_missing is None or not is_missing.any():
        return values
    if column.fill is None:
        raise ColumnError("has no value; fill it in or leave the row out", int(is_missing.argmax()))
    return _filled(values, is_missing, column.fill)


def _filled(values: NDArray[Any], is_missing: NDArray[np.bool_], fill: float) -> NDArray[Any]:
    """Return the values with another for missing ones; integers stay integers where it is one too."""
    if values.dtype.kind in "iu" and fill.is_integer():
        limits = np.iinfo(values.dtype)
        if limits.min <= int(fill) <= limits.max:
            return np.where(is_missing, values.dtype.type(int(fill)), values)
    return np.where(is_missing, fill, values)


def choose_targets(
    label: str,
    model: ServedModel,
    names: Sequence[str],
    columns: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
) -> list[Target]:
    """Return the columns of each input of the model.

    Args:
        label: what the table is, for messages.
        names: of the table's columns.
        columns: for each input, or for the only one; None for those that the model names: in its metadata, else by the
            names of its inputs, else as many as its only input takes, in their order.

    Raises: InputError if that does not say it.
    """
    inputs = model.inputs
    if isinstance(columns, Mapping):
        if {*columns} != {found.name for found in inputs}:
            raise InputError(f"columns must name the model's inputs {[i.name for i in inputs]}, got {[*columns]}")
        wanted = {name: [each] if isinstance(each, str) else each for name, each in columns.items()}
        return [Target(found, plain_columns(wanted[found.name])) for found in inputs]
    if len(inputs) == 1:
        if columns is not None:
            return [Target(inputs[0], _described(model.labels.columns, columns))]
        if model.labels.columns is not None:
            return [Target(inputs[0], model.labels.columns)]
    elif columns is not None:
        raise InputError(f"columns must be a dictionary, by input, since the model has {[i.name for i in inputs]}")
    if all(found.name in names for found in inputs):
        return [Target(found, plain_columns([found.name])) for found in inputs]
    width = inputs[0].shape[1] if len(inputs) == 1 and len(inputs[0].shape) == 2 else None
    if width is not None and (width == len(names) or not isinstance(width, int)):
        return [Target(inputs[0], plain_columns(names))]
    shapes = {found.name: list(found.shape) for found in inputs}
    raise InputError(
        f"{label} must have a column for each input of the model, {shapes}, or as many columns as its only input "
        f"takes; it has {shown_names([*names]) or 'none'}; say which ones by columns"
    )


def _described(known: Sequence[Column] | None, names: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of these names, each with what the model's metadata says of the one in its place."""
    if known is None or len(known) != len(names):
        return plain_columns(names)
    return tuple(Column(name, column.fill, column.categories) for name, column in zip(names, known, strict=True))
