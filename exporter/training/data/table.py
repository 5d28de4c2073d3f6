"""Make a dataset from the records of a table: header, columns, target."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from exporter.training.data.column_choice import ColumnChoice
from exporter.training.data.column_values import CategoryColumn, NumberColumns, describe_troubles
from exporter.training.data.dataset import DataError, Dataset, Task
from exporter.training.data.targets import bad_value, read_targets
from ort_ops.files.csv_file import Record, chunks
from ort_ops.files.inputs import shown_names
from ort_ops.prediction.columns import Column, feature_names, is_number

_ROWS_AT_ONCE = 8192


def read_table(
    path: Path, records: Iterator[Record], target: str | None, task: Task | None, choice: ColumnChoice
) -> Dataset:
    """Read records, the first of which is the header, into a dataset.

    Args:
        path: for messages.

    Raises: DataError that names line and column; all columns that cannot be used are listed at once.
    """
    _, cells = next(records, (0, None))
    if cells is None:
        raise DataError(f"'{path}' is empty; it must have a header with the columns' names, and a line for each row")
    header = [cell.strip() for cell in cells]
    _check_header(path, header)
    if target is None:
        raise DataError(f"'{path}': name the column to predict as target; the columns are {shown_names(header)}")
    if target not in header:
        raise DataError(f"'{path}' has no column '{target}'; the columns are {shown_names(header)}")
    chosen, categorical = choice.resolve(path, header, target)
    place = {name: index for index, name in enumerate(header)}
    numeric = [name for name in chosen if name not in categorical]
    numbers = NumberColumns(numeric, [place[name] for name in numeric])
    texts_of = {name: CategoryColumn(name, place[name]) for name in chosen if name in categorical}

    targets: list[str] = []
    lines = array("q")
    for chunk in chunks(records, len(header), _ROWS_AT_ONCE):
        _take_targets(path, chunk, header, target, place[target], targets)
        lines.extend(line for line, _ in chunk)
        numbers.add(chunk)
        for column in texts_of.values():
            column.add(chunk)
    if not targets:
        raise DataError(f"'{path}' has a header and no rows")
    _refuse_troubles(path, numbers, texts_of.values(), len(targets), choice)

    columns = tuple(texts_of[name].column() if name in categorical else Column(name) for name in chosen)
    features = numbers.values()
    if categorical:
        of = dict(zip(numeric, features.T, strict=True))
        parts = [texts_of[name].values() if name in categorical else of[name][:, None] for name in chosen]
        features = np.concatenate(parts, axis=1)
    task, labels, class_names = read_targets(path, target, targets, lines, task)
    names = feature_names(columns)
    return Dataset(path.name, task, features, labels, names, class_names, columns, choice.fill)


def _take_targets(
    path: Path, chunk: Sequence[Record], header: Sequence[str], target: str, place: int, targets: list[str]
) -> None:
    """Append the targets of further records. Raises: DataError for a record of another width, or without a target."""
    for line, cells in chunk:
        if len(cells) != len(header):
            raise DataError(f"'{path}' line {line}: {len(cells)} columns, and the header has {len(header)}")
        text = cells[place].strip()
        if not text:
            raise bad_value(path, line, target, text)
        targets.append(text)


def _refuse_troubles(
    path: Path, numbers: NumberColumns, categories: Iterable[CategoryColumn], rows: int, choice: ColumnChoice
) -> None:
    """Raise DataError if columns cannot be used; missing numbers are allowed where there is a fill."""
    troubles = [
        trouble
        for _, trouble in sorted(numbers.troubles.items())
        if trouble.num_texts or (trouble.num_missing and (choice.fill is None or trouble.num_missing == rows))
    ]
    troubles += [trouble for column in categories if (trouble := column.find_trouble()) is not None]
    if troubles:
        raise DataError(f"'{path}' {describe_troubles(troubles, rows)}")


def _check_header(path: Path, names: Sequence[str]) -> None:
    if all(is_number(name) for name in names):
        raise DataError(
            f"'{path}' line 1 must be a header with the columns' names, got the numbers {shown_names(list(names))}"
        )
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not name:
            raise DataError(f"'{path}' line 1: column {index + 1} has no name")
        if name in seen:
            raise DataError(f"'{path}' line 1: two columns are called '{name}'")
        seen.add(name)
