"""Convert cells of a table and arrays to the element type of a model's input."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import InputError, shown_text
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.prediction.columns import CellError, is_number, parse_number

TEXT = np.dtype(object)
"""The dtype that stands for ONNX's string: arrays of Python strings."""

_TRUTHS = {"true": True, "false": False}
_EXACT = 2**53  # beyond it, float64 does not have every whole number


def numpy_dtype(onnx_name: str) -> np.dtype[Any]:
    """Return the dtype for an element type as onnxruntime names it, such as ``tensor(int64)``.

    Raises: InputError for a type for which onnxruntime takes no NumPy arrays.
    """
    import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16

    if onnx_name == "tensor(string)":
        return TEXT
    for element_type in ELEMENT_TYPES.values():
        if element_type.onnx_name == onnx_name:
            dtype: np.dtype[Any] = np.dtype(element_type.name)
            return dtype
    raise InputError(f"the model's input must be a tensor of {', '.join(ELEMENT_TYPES)} or string, got {onnx_name}")


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether the input takes numbers that are not whole; ``ml_dtypes.bfloat16`` is of NumPy's kind V."""
    return dtype.kind in "fV"


def is_cell(dtype: np.dtype[Any], text: str) -> bool:
    """Whether a cell can be a value rather than the name of a column."""
    if dtype == TEXT:
        return True
    return is_number(text) or (dtype.kind == "b" and text.strip().lower() in _TRUTHS)


def parse_cells(dtype: np.dtype[Any], rows: Sequence[Sequence[str]]) -> NDArray[Any]:
    """Return the values ``[rows, columns]`` of cells, for an input of text, booleans or whole numbers.

    Numbers come as int64 or as Python's own in an array of objects, because float64 would round those beyond 2^53;
    `cast` makes them the model's.

    Raises: CellError for the first cell that is not a number.
    """
    if dtype == TEXT:
        return np.array([[*row] for row in rows], object)
    if dtype.kind != "b" and not any("_" in cell for row in rows for cell in row):  # Python's 1_000 is no number
        try:
            return np.array([[*map(int, row)] for row in rows], np.int64)
        except (ValueError, OverflowError):
            pass
    values = np.empty((len(rows), len(rows[0])), object)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            values[i, j] = _number(i, j, cell, dtype.kind == "b")
    return values


def cast(label: str, rows: NDArray[Any], dtype: np.dtype[Any], num_before: int) -> NDArray[Any]:
    """Return rows in the model's dtype. Raises: InputError for a value that it cannot hold.

    Args:
        label: where the rows are from, for messages.
        num_before: rows before these, for messages.
    """
    if rows.dtype == dtype:
        return rows
    if dtype == TEXT:
        return _as_text(label, rows, num_before)
    with np.errstate(over="ignore", invalid="ignore"):
        if not is_floating(dtype):
            return _as_whole(label, rows, dtype, num_before)
        result = rows.astype(dtype)
    is_lost = ~np.isfinite(result) & np.isfinite(rows)
    if is_lost.any():
        row, value = _first(rows, is_lost, num_before)
        raise InputError(f"{label} row {row}: {value} is too large for the model's {dtype}")
    return result


def _as_whole(label: str, rows: NDArray[Any], dtype: np.dtype[Any], num_before: int) -> NDArray[Any]:
    """Return integers or booleans; floats from 2^53 on may have been another number in a file, and are refused."""
    if rows.dtype.kind == "b":
        return rows.astype(dtype)
    least, largest = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if rows.dtype.kind == "O":
        is_right = np.array([_is_whole(value, least, largest) for value in rows.flat], bool).reshape(rows.shape)
    else:
        if rows.dtype.kind == "f":
            least, largest = max(least, 1 - _EXACT), min(largest, _EXACT - 1)
        is_right = (rows >= least) & (rows <= largest) & (rows.astype(dtype).astype(rows.dtype) == rows)
    if not is_right.all():
        row, value = _first(rows, ~is_right, num_before)
        rule = f"whole numbers from {least} to {largest}"
        raise InputError(f"{label} row {row}: the model's {dtype} must be {rule}, got {value}")
    return rows.astype(dtype)


def _is_whole(value: int | float, least: int, largest: int) -> bool:
    is_exact = isinstance(value, int) or (value.is_integer() and abs(value) < _EXACT)
    return is_exact and least <= value <= largest


def _first(rows: NDArray[Any], is_wrong: NDArray[Any], num_before: int) -> tuple[int, Any]:
    """Return the number of the first row that is wrong, and the value."""
    place = tuple(int(i) for i in np.argwhere(is_wrong)[0])
    return num_before + place[0] + 1, rows[place]


def _as_text(label: str, rows: NDArray[Any], num_before: int) -> NDArray[Any]:
    if rows.dtype.kind == "O":
        return rows
    codes = np.ascontiguousarray(rows, rows.dtype.newbyteorder("=")).view(np.uint32)
    codes = codes.reshape(len(rows), -1) if codes.size else codes
    is_wrong = (codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))  # half a surrogate pair
    if is_wrong.any():
        row, code = _first(codes, is_wrong, num_before)
        raise InputError(f"{label} row {row}: {code:#x} is no character of a text")
    return rows.astype(object)


def _number(row: int, column: int, cell: str, is_truth: bool) -> int | float:
    text = cell.strip()
    if is_truth and text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    try:
        if "_" not in text:
            return int(text)
    except ValueError:
        pass
    try:
        value = parse_number(text)
    except ValueError:
        raise CellError(row, column, f" must be a finite number, got {shown_text(text)}") from None
    if math.isnan(value):
        got = f" (it is {shown_text(text)})" if text else ""
        raise CellError(row, column, f": the value is missing{got}; fill it in or leave the row out")
    return value
