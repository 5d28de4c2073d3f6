"""Choose the columns of a table to learn from, and how to use them: `ColumnChoice`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exporter.training.data.dataset import DataError, Fill
from ort_ops.files.inputs import shown_names


@dataclass(frozen=True)
class ColumnChoice:
    """The columns that a user asks for.

    Attributes:
        features: the columns to learn from, in this order; None for all but the target.
        ignore: columns to leave out.
        categorical: columns of texts, each text of which becomes an input.
        fill: what replaces missing numbers: ``mean``, that of the rows to train on; None where none may be missing.

    A name may also be several, separated by commas, unless a column has exactly that name.
    """

    features: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    fill: Fill | None = None

    @property
    def names_columns(self) -> bool:
        """Whether the user names any column."""
        return self.features is not None or bool(self.ignore or self.categorical)

    def resolve(self, path: object, header: Sequence[str], target: str) -> tuple[list[str], set[str]]:
        """Return the columns to learn from, in order, and the categorical ones among them.

        Raises: DataError for a column that does not exist, or is asked for in two ways.
        """
        known = set(header)
        features = None if self.features is None else _split(path, "features", self.features, known, header)
        ignore = set(_split(path, "ignore", self.ignore, known, header))
        categorical = _split(path, "categorical", self.categorical, known, header)
        for what, names in (("features", features or []), ("ignore", ignore), ("categorical", categorical)):
            if target in names:
                raise DataError(f"'{path}': column '{target}' is the target, so it cannot be in {what} too")
        if features is not None and ignore.intersection(features):
            twice = shown_names([name for name in features if name in ignore])
            raise DataError(f"'{path}': these columns are in features and in ignore: {twice}")
        chosen = features if features is not None else [n for n in header if n != target and n not in ignore]
        features_asked = set(chosen)
        unused = [name for name in categorical if name not in features_asked]
        if unused:
            raise DataError(
                f"'{path}': these columns are categorical and not among the features: {shown_names(unused)}"
            )
        if not chosen:
            raise DataError(f"'{path}' has no column beside the target '{target}' to predict it from")
        return chosen, set(categorical)


def _split(path: object, what: str, names: Sequence[str], known: set[str], header: Sequence[str]) -> list[str]:
    """Return the named columns, each once."""
    chosen: dict[str, None] = {}
    for name in names:
        parts = [name] if name in known else [part.strip() for part in name.split(",")]
        chosen.update(dict.fromkeys(part for part in parts if part))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise DataError(
            f"'{path}' has no column {shown_names([repr(name) for name in unknown])}, which {what} names; "
            f"the columns are {shown_names(list(header))}"
        )
    return list(chosen)
