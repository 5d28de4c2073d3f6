"""Read datasets from CSV and NPZ files; every fault is reported with its line and column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.training.data.column_choice import ColumnChoice
from exporter.training.data.dataset import DataError, Dataset, Fill, Task
from exporter.training.data.table import read_table
from exporter.training.data.targets import are_few, number_classes
from ort_ops.files.csv_file import open_csv
from ort_ops.files.inputs import InputError, input_path
from ort_ops.files.npy_file import read_npz

_NPZ_ADVICE = "write one with np.savez(path, x=x, y=y)"


def load_data(
    path: str | Path, target: str | None = None, task: Task | None = None, choice: ColumnChoice | None = None
) -> Dataset:
    """Read a dataset: an NPZ file by its suffix, anything else as CSV.

    Args:
        target: the CSV column to predict; an NPZ file has its array ``y`` for that.
        task: by default a classification for a target of text, or of integers with few different values.
        choice: which columns to learn from, and how; an NPZ file has no columns to name.

    Raises: DataError that names file, line and column.
    """
    path, choice = _data_path(path), choice or ColumnChoice()
    if path.suffix.lower() != ".npz":
        return load_csv(path, target, task, choice)
    if target is not None:
        raise DataError(f"'{path}' is an NPZ file, which has its target in array y; leave the target column out")
    if choice.names_columns:
        raise DataError(f"'{path}' is an NPZ file, whose array x has no names; choose columns of x before it is saved")
    return load_npz(path, task, choice.fill)


def load_csv(
    path: str | Path, target: str | None, task: Task | None = None, choice: ColumnChoice | None = None
) -> Dataset:
    """Read a CSV file with a header: columns to learn from, and the target column, which may be text.

    It is UTF-8, separated by commas, or by semicolons or tabs where the header has those and no comma. Empty lines are
    skipped.

    Raises: DataError that names file, line and column, and lists all columns that cannot be used.
    """
    path = _data_path(path)
    with _as_data_errors(), open_csv(path, what="data file", folder_advice="a CSV or NPZ file") as records:
        return read_table(path, records, target, task, choice or ColumnChoice())


def load_npz(path: str | Path, task: Task | None = None, fill: Fill | None = None) -> Dataset:
    """Read an NPZ file, as ``np.savez(path, x=x, y=y)`` writes it.

    ``x`` is ``[rows, columns]``, numbers; ``y`` is ``[rows]``, numbers, integers or text, or ``[rows, outputs]``,
    numbers to predict together. Columns are called x0, x1 and so on. With a fill, NaN in ``x`` is a missing number.

    Raises: DataError that names file, array and position.
    """
    path = _data_path(path)
    with _as_data_errors():
        arrays = read_npz(path, ("x", "y"), what="data file", folder_advice="a CSV or NPZ file", remedy=_NPZ_ADVICE)
    x, y = arrays["x"], arrays["y"]
    if x.dtype.kind not in "fiub" or x.ndim != 2:
        raise DataError(f"'{path}': array x must be numbers [rows, columns], got {x.dtype} {list(x.shape)}")
    if y.dtype.kind not in "fiubUS" or y.ndim not in (1, 2) or len(y) != len(x):
        raise DataError(f"'{path}': array y must be [{len(x)}] or [{len(x)}, outputs], got {y.dtype} {list(y.shape)}")
    features = _widened(x)
    _require_finite(path, "x", np.where(np.isnan(features), 0.0, features) if fill is not None else features)
    names = tuple(f"x{i}" for i in range(x.shape[1]))
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind in "fiub":
        _require_finite(path, "y", _widened(y))
    if task is None:
        may_be_classes = y.ndim == 1 and (y.dtype.kind in "US" or (y.dtype.kind in "iub" and are_few(y)))
        task = "classification" if may_be_classes else "regression"
    if task == "classification":
        if y.ndim != 1:
            raise DataError(f"'{path}': array y must be [{len(x)}] for a classification, got {list(y.shape)}")
        labels, class_names = number_classes(path, y)
        return Dataset(path.name, task, features, labels, names, class_names, fill=fill)
    if y.dtype.kind in "US":
        raise DataError(f"'{path}': array y must be numbers for a regression, got text")
    return Dataset(path.name, task, features, _widened(y).reshape(len(x), -1), names, fill=fill)


def _data_path(path: str | Path) -> Path:
    with _as_data_errors():
        return input_path(path, what="data file")


@contextmanager
def _as_data_errors() -> Iterator[None]:
    """Turn errors about a file into errors about data."""
    try:
        yield
    except DataError:
        raise
    except InputError as error:
        raise DataError(str(error)) from error


def _widened(values: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):  # of long double, and NaN; checked later
        return values.astype(np.float64)


def _require_finite(path: Path, name: str, values: NDArray[np.float64]) -> None:
    is_finite = np.isfinite(values)
    if not is_finite.all():
        index = [int(i) for i in np.argwhere(~is_finite)[0]]
        raise DataError(f"'{path}': array {name} must be finite, got {values[tuple(index)]} at {index}")
