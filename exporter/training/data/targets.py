"""Decide whether a table's target is numbers to predict, or classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.training.data.dataset import DataError, Task
from ort_ops.files.inputs import shown_text
from ort_ops.prediction.columns import is_number

MAX_INFERRED_CLASSES = 20
"""An integer target with more different values than this is taken as a number to predict, not as a class."""


def read_targets(
    path: Path, column: str, texts: list[str], lines: Sequence[int], task: Task | None
) -> tuple[Task, NDArray[Any], tuple[str, ...] | None]:
    """Decide on the task if the user did not, and return it with the targets and the classes' names."""
    numeric = [is_number(text) for text in texts]
    if task is None and not any(numeric):
        if len(set(texts)) > max(2, len(texts) // 2):
            raise DataError(
                f"'{path}', column '{column}': {len(set(texts))} different texts in {len(texts)} rows are no classes; "
                "name another target, or the task classification if this is meant"
            )
        task = "classification"
    if task == "classification":
        labels, class_names = number_classes(path, np.array([float(t) for t in texts] if all(numeric) else texts))
        return task, labels, class_names
    if not all(numeric):
        index = numeric.index(False)
        hint = "; name the task classification if the target is a class" if task is None else ""
        raise bad_value(path, lines[index], column, texts[index], hint)
    numbers = np.array([float(text) for text in texts])
    if task is None and all(text.lstrip("+-").isdigit() for text in texts) and are_few(numbers):
        return "classification", *number_classes(path, numbers)
    return "regression", numbers[:, None], None


def bad_value(path: Path, line: int, column: str, text: str, hint: str = "") -> DataError:
    """Return the error for a target that is missing or not a number."""
    got = f"got {shown_text(text)}" if text.strip() else "the value is missing"
    return DataError(f"'{path}' line {line}, column '{column}': must be a finite number, {got}{hint}")


def number_classes(path: Path, values: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return each value's class, and the classes' names in order; numbers are ordered as numbers.

    Raises: DataError for a name that is not text.
    """
    unique, labels = np.unique(values, return_inverse=True)
    names = [_class_name(path, value) for value in unique.tolist()]
    return labels.astype(np.int64), tuple(names)


def _class_name(path: Path, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
        text.encode("utf-8")
    except UnicodeError as error:
        raise DataError(f"'{path}': the class {value!r:.60} is not UTF-8 text") from error
    return text


def are_few(values: NDArray[Any]) -> bool:
    """Whether integers look like classes: few different ones, and each more than once on average."""
    return len(np.unique(values)) <= min(MAX_INFERRED_CLASSES, len(values) // 2)
