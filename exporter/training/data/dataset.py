"""Datasets: rows with targets, from scikit-learn's examples or elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import InputError
from ort_ops.installation.extras import install_extra
from ort_ops.prediction.columns import Column, feature_names, plain_columns

Task = Literal["regression", "classification"]
TASKS: tuple[str, ...] = get_args(Task)
Fill = Literal["mean"]
FILLS: tuple[str, ...] = get_args(Fill)
_MIN_TRAINING_ROWS = 2


class DataError(InputError):
    """Data cannot be read or learned from; the message names file, line and column."""


@dataclass(frozen=True)
class DataDescription:
    """A description of the data for a checkpoint: to read rows in the same way, label predictions, and recognize it.

    Attributes:
        name, task, feature_names, class_names: as in `Dataset`.
        rows: number of rows; 0 if they are not fixed.
        fingerprint: changes with any value, name or class.
        columns: of the table, with the numbers that replace missing ones once they are known.
        fill: how those were found.
    """

    name: str
    task: Task
    rows: int
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...] | None
    fingerprint: str
    columns: tuple[Column, ...]
    fill: Fill | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows, each with a target to predict.

    Attributes:
        name: for messages; the file's name.
        task: ``regression`` or ``classification``.
        features: ``[rows, columns]``, float64, finite; NaN for missing numbers where there is a fill.
        targets: float64 ``[rows, outputs]`` for a regression; int64 ``[rows]``, a class each, for a classification.
        feature_names: one for each column of ``features``.
        class_names: one for each class; None for a regression.
        columns: of the table that the features were made of; none where each feature is a column of numbers.
        fill: how `split` replaces missing numbers: ``mean``, by that of the rows to train on.

    Raises: DataError if these do not fit together.
    """

    name: str
    task: Task
    features: NDArray[np.float64]
    targets: NDArray[Any]
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...] | None = None
    columns: tuple[Column, ...] = ()
    fill: Fill | None = None

    def __post_init__(self) -> None:
        rank = 2 if self.task == "regression" else 1
        if self.task not in TASKS:
            raise DataError(f"{self.name}: the task must be {' or '.join(TASKS)}, got {self.task}")
        if self.features.ndim != 2 or self.features.shape[1] == 0:
            raise DataError(f"{self.name}: features must be [rows, columns], got {list(self.features.shape)}")
        if self.targets.ndim != rank or len(self.targets) != len(self.features):
            rule = f"[{self.rows}, outputs]" if rank == 2 else f"[{self.rows}]"
            raise DataError(f"{self.name}: targets must be {rule}, got {list(self.targets.shape)}")
        if len(self.feature_names) != self.features.shape[1]:
            raise DataError(f"{self.name}: {len(self.feature_names)} names for {self.features.shape[1]} columns")
        if feature_names(self.table_columns) != self.feature_names:
            raise DataError(f"{self.name}: the columns do not give these features")
        for what, values in (("features", self.features), ("targets", self.targets)):
            is_right = np.isfinite(values)
            if what == "features" and self.fill is not None:
                is_right |= np.isnan(values)
            if not is_right.all():
                index = [int(i) for i in np.argwhere(~is_right)[0]]
                raise DataError(f"{self.name}: {what} must be finite, got {values[tuple(index)]} at {index}")
        if (self.task == "classification") != (self.class_names is not None):
            raise DataError(f"{self.name}: a classification has class names, and a regression has none")
        if self.rows and np.all(self.targets == self.targets[0]):
            raise DataError(f"{self.name}: every row has the same target, so there is nothing to learn")
        if self.class_names is not None and not np.isin(self.targets, range(len(self.class_names))).all():
            raise DataError(f"{self.name}: targets must be classes 0 to {len(self.class_names) - 1}")

    @property
    def rows(self) -> int:
        return len(self.features)

    @property
    def table_columns(self) -> tuple[Column, ...]:
        """The columns of the table, also plain ones."""
        return self.columns or plain_columns(self.feature_names)

    @property
    def num_outputs(self) -> int:
        """How many numbers a network gives for a row: one for each class, or for each target."""
        return len(self.class_names) if self.class_names is not None else int(self.targets.shape[1])

    def count_validation_rows(self, validation: float) -> int:
        """Return how many rows the fraction is: none for 0, otherwise at least one."""
        return max(1, round(self.rows * validation)) if validation > 0 else 0

    def count_missing(self) -> int:
        """Return how many numbers are missing."""
        return int(np.isnan(self.features).sum())

    def split(self, validation: float, seed: int) -> tuple[Dataset, Dataset | None]:
        """Return the rows to train on and those to validate with, drawn by the seed; None for a fraction of 0.

        Missing numbers of both are filled from the rows to train on.

        Raises: DataError if there are too few rows for both, or a column has no number in the rows to train on.
        """
        count = self.count_validation_rows(validation)
        if self.rows - count < _MIN_TRAINING_ROWS:
            raise DataError(
                f"{self.name}: {self.rows} rows are too few, with {count} of them for validation; "
                f"at least {_MIN_TRAINING_ROWS} must be left to train on"
            )
        order = np.random.default_rng(seed).permutation(self.rows)
        train = self._subset(order[count:])
        held_back = self._subset(order[:count]) if count else None
        if self.fill is None:
            return train, held_back
        means = train._column_means()
        return train._filled(means), None if held_back is None else held_back._filled(means)

    def describe(self) -> DataDescription:
        """Return the description, whose fingerprint changes with any value, name or class."""
        digest = hashlib.sha256(repr((self.task, self.feature_names, self.class_names, self.targets.shape)).encode())
        digest.update(np.ascontiguousarray(self.features).data)
        digest.update(np.ascontiguousarray(self.targets).data)
        return DataDescription(
            name=self.name,
            task=self.task,
            rows=self.rows,
            feature_names=self.feature_names,
            class_names=self.class_names,
            fingerprint=digest.hexdigest(),
            columns=self.table_columns,
            fill=self.fill,
        )

    def _column_means(self) -> NDArray[np.float64]:
        """Return the mean of the numbers in each feature. Raises: DataError for a feature without any."""
        is_there = ~np.isnan(self.features)
        counts = is_there.sum(axis=0)
        if not counts.all():
            empty = self.feature_names[int((counts == 0).argmax())]
            raise DataError(
                f"{self.name}: column '{empty}' has no number in the rows to train on, so no mean either; leave it out"
            )
        # Divided first, because the sum of large numbers can be infinite where their mean is not.
        means: NDArray[np.float64] = np.where(is_there, self.features / counts, 0.0).sum(axis=0)
        return means

    def _filled(self, means: NDArray[np.float64]) -> Dataset:
        """Return the dataset with the means in place of missing numbers, and columns that say so."""
        mean = dict(zip(self.feature_names, means.tolist(), strict=True))
        columns = tuple(c if c.categories is not None else replace(c, fill=mean[c.name]) for c in self.table_columns)
        features = np.where(np.isnan(self.features), means, self.features)
        return self._with(features=features, columns=columns, fill=None)

    def _subset(self, order: NDArray[np.int64]) -> Dataset:
        return self._with(features=self.features[order], targets=self.targets[order])

    def _with(self, **changes: Any) -> Dataset:
        """Return a copy that is not checked again: a subset may happen to have one class only."""
        changed = object.__new__(Dataset)
        for field, value in {**self.__dict__, **changes}.items():
            object.__setattr__(changed, field, value)
        return changed


def load_digits() -> Dataset:
    """Return scikit-learn's digits: 1797 images of 8 x 8 pixels, ten classes."""
    bunch = _sklearn_datasets().load_digits()
    names = tuple(str(name) for name in bunch.feature_names)
    classes = tuple(str(name) for name in bunch.target_names)
    targets = bunch.target.astype(np.int64)
    return Dataset("digits", "classification", bunch.data.astype(np.float64), targets, names, classes)


def load_diabetes() -> Dataset:
    """Return scikit-learn's diabetes in its own units: 442 patients, ten measurements, progression after a year."""
    bunch = _sklearn_datasets().load_diabetes(scaled=False)
    names = tuple(str(name) for name in bunch.feature_names)
    targets = bunch.target.astype(np.float64)[:, None]
    return Dataset("diabetes", "regression", bunch.data.astype(np.float64), targets, names)


def _sklearn_datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(f"digits and diabetes come with scikit-learn; {install_extra('sklearn')}") from error
    return datasets
