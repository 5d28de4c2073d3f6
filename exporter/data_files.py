"""Datasets from CSV and NPZ files; whatever is wrong in one is reported with its line and column."""

from __future__ import annotations

import csv
import math
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.data import DataError, Dataset, Task

MAX_INFERRED_CLASSES = 20
"""An integer target with more different values than this is taken as a number to predict, not as a class."""

_DELIMITERS = ",;\t"


def load_data(path: str | Path, target: str | None = None, task: Task | None = None) -> Dataset:
    """Read a dataset: an NPZ file by its suffix, anything else as CSV.

    Args:
        target: the CSV column to predict; an NPZ file has its array ``y`` for that.
        task: by default a classification for a target of text, or of integers with few different values.

    Raises: DataError that names file, line and column.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        if target is not None:
            raise DataError(f"'{path}' is an NPZ file, which has its target in array y; leave the target column out")
        return load_npz(path, task)
    return load_csv(path, target, task)


def load_csv(path: str | Path, target: str | None, task: Task | None = None) -> Dataset:
    """Read a CSV file with a header: one numeric column for each feature, and the target column.

    UTF-8; separated by commas, or by semicolons or tabs where the header has those and no comma; empty lines are
    passed over. The target may be text.

    Raises: DataError that names file, line and column.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _read_csv(path, file, target, task)
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not a CSV file: it is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def load_npz(path: str | Path, task: Task | None = None) -> Dataset:
    """Read an NPZ file, as ``np.savez(path, x=x, y=y)`` writes it.

    ``x`` is ``[rows, in_features]``, numbers; ``y`` is ``[rows]``, numbers, integers or text, or ``[rows, outputs]``,
    numbers to predict together. Columns are called x0, x1 and so on.

    Raises: DataError that names file, array and position.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"'{path}' is not an NPZ file; write one with np.savez(path, x=x, y=y)")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [name for name in ("x", "y") if name not in archive.files]
                if missing:
                    has = ", ".join(archive.files) or "none"
                    raise DataError(f"'{path}' has no array {' and no array '.join(missing)} (it has: {has})")
                x, y = archive["x"], archive["y"]
    except OSError as error:
        raise _unreadable(path, error) from error
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy report damage in many ways
        raise DataError(f"'{path}' cannot be read as an NPZ file of plain arrays: {error}") from error
    if x.dtype.kind not in "fiub" or x.ndim != 2:
        raise DataError(f"'{path}': array x must be numbers [rows, in_features], got {x.dtype} {list(x.shape)}")
    if y.dtype.kind not in "fiubUS" or y.ndim not in (1, 2) or len(y) != len(x):
        raise DataError(f"'{path}': array y must be [{len(x)}] or [{len(x)}, outputs], got {y.dtype} {list(y.shape)}")
    features = x.astype(np.float64)
    _require_finite(path, "x", features)
    names = tuple(f"x{i}" for i in range(x.shape[1]))
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind in "fiub":
        _require_finite(path, "y", y.astype(np.float64))
    if task is None:
        may_be_classes = y.ndim == 1 and (y.dtype.kind in "US" or (y.dtype.kind in "iub" and _are_few(y)))
        task = "classification" if may_be_classes else "regression"
    if task == "classification":
        if y.ndim != 1:
            raise DataError(f"'{path}': array y must be [{len(x)}] for a classification, got {list(y.shape)}")
        labels, class_names = _classes(y)
        return Dataset(path.name, task, features, labels, names, class_names)
    if y.dtype.kind in "US":
        raise DataError(f"'{path}': array y must be numbers for a regression, got text")
    return Dataset(path.name, task, features, y.astype(np.float64).reshape(len(x), -1), names)


def _read_csv(path: Path, file: Any, target: str | None, task: Task | None) -> Dataset:
    header_line = file.readline()
    file.seek(0)
    if "\0" in header_line:
        raise DataError(f"'{path}' is not a CSV file: it holds binary data")
    delimiter = next((d for d in _DELIMITERS if d in header_line), ",")
    records = _records(path, csv.reader(file, delimiter=delimiter, strict=True))
    _, names = next(records, (0, None))
    if names is None:
        raise DataError(f"'{path}' is empty; it must have a header with the columns' names, and a line for each row")
    names = [name.strip() for name in names]
    _check_header(path, names)
    if target is None:
        raise DataError(f"'{path}': name the column to predict as target; the columns are {', '.join(names)}")
    if target not in names:
        raise DataError(f"'{path}' has no column '{target}'; the columns are {', '.join(names)}")
    target_index = names.index(target)
    feature_names = tuple(name for name in names if name != target)
    if not feature_names:
        raise DataError(f"'{path}' has no column beside the target '{target}' to predict it from")

    values, texts, lines = array("d"), [], array("q")
    for line, record in records:
        if len(record) != len(names):
            raise DataError(f"'{path}' line {line}: {len(record)} columns, and the header has {len(names)}")
        text = record.pop(target_index).strip()
        if not text:
            raise _bad_value(path, line, target, text)
        try:
            values.extend([_number(cell) for cell in record])
        except ValueError:
            column = next(i for i, cell in enumerate(record) if not _is_number(cell))
            raise _bad_value(path, line, feature_names[column], record[column]) from None
        texts.append(text)
        lines.append(line)
    if not texts:
        raise DataError(f"'{path}' has a header and no rows")
    features = np.array(values).reshape(len(texts), len(feature_names))
    task, targets, class_names = _csv_targets(path, target, texts, lines, task)
    return Dataset(path.name, task, features, targets, feature_names, class_names)


def _csv_targets(
    path: Path, column: str, texts: list[str], lines: Sequence[int], task: Task | None
) -> tuple[Task, NDArray[Any], tuple[str, ...] | None]:
    """Decide on the task where that is left open, and return it with the targets and the classes' names."""
    numeric = [_is_number(text) for text in texts]
    if task is None and not any(numeric):
        if len(set(texts)) > max(2, len(texts) // 2):
            raise DataError(
                f"'{path}', column '{column}': {len(set(texts))} different texts in {len(texts)} rows are no classes; "
                "name another target, or the task classification if this is meant"
            )
        task = "classification"
    if task == "classification":
        labels, class_names = _classes(np.array([float(t) for t in texts] if all(numeric) else texts))
        return task, labels, class_names
    if not all(numeric):
        index = numeric.index(False)
        hint = "; name the task classification if the target is a class" if task is None else ""
        raise _bad_value(path, lines[index], column, texts[index], hint)
    numbers = np.array([float(text) for text in texts])
    if task is None and all(text.lstrip("+-").isdigit() for text in texts) and _are_few(numbers):
        return "classification", *_classes(numbers)
    return "regression", numbers[:, None], None


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that are not empty, each with the number of its line."""
    try:
        for record in reader:
            if record:
                yield reader.line_num, record
    except csv.Error as error:
        raise DataError(f"'{path}' line {reader.line_num}: {error}") from error


def _check_header(path: Path, names: list[str]) -> None:
    if all(_is_number(name) for name in names):
        raise DataError(f"'{path}' line 1 must be a header with the columns' names, got the numbers {', '.join(names)}")
    for index, name in enumerate(names):
        if not name:
            raise DataError(f"'{path}' line 1: column {index + 1} has no name")
        if name in names[:index]:
            raise DataError(f"'{path}' line 1: two columns are called '{name}'")


def _number(text: str) -> float:
    """Return the finite number that ``text`` is. Raises: ValueError; Python's own 1_000 is none here."""
    value = float(text)
    if "_" in text or not math.isfinite(value):
        raise ValueError(text)
    return value


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _bad_value(path: Path, line: int, column: str, text: str, hint: str = "") -> DataError:
    shown = f"'{text}'" if len(text) <= 40 else f"'{text[:40]}...'"
    got = f"got {shown}" if text.strip() else "the value is missing"
    return DataError(f"'{path}' line {line}, column '{column}': must be a finite number, {got}{hint}")


def _classes(values: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return each value's class, and the classes' names in order; numbers are ordered as numbers."""
    unique, labels = np.unique(values, return_inverse=True)
    if unique.dtype.kind == "S":
        names = [value.decode("utf-8", "replace") for value in unique.tolist()]
    else:
        names = [f"{v:.0f}" if isinstance(v, float) and v.is_integer() else str(v) for v in unique.tolist()]
    return labels.astype(np.int64), tuple(names)


def _are_few(values: NDArray[Any]) -> bool:
    """Whether integers look like classes: few different ones, and each more than once on average."""
    return len(np.unique(values)) <= min(MAX_INFERRED_CLASSES, len(values) // 2)


def _require_finite(path: Path, name: str, values: NDArray[np.float64]) -> None:
    is_finite = np.isfinite(values)
    if not is_finite.all():
        index = [int(i) for i in np.argwhere(~is_finite)[0]]
        raise DataError(f"'{path}': array {name} must be finite, got {values[tuple(index)]} at {index}")


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"there is no data file '{path}'")
    if isinstance(error, IsADirectoryError):
        return DataError(f"'{path}' is a folder; name a CSV or NPZ file")
    return DataError(f"'{path}' cannot be read: {error.strerror or error}")
