"""Read from a model's metadata which rows it takes and which classes it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ort_ops.files.inputs import InputError
from ort_ops.prediction.columns import Column, feature_names, from_json, plain_columns

FEATURES_KEY = "mylinear.features"
"""Metadata entry: the JSON list of the names of the model's inputs, in order."""
COLUMNS_KEY = "mylinear.columns"
"""Metadata entry: the columns that the inputs are made of, where they are not all plain numbers; see `columns`."""
CLASSES_KEY = "mylinear.classes"
"""Metadata entry: the JSON list of the names of the classes, in the order of the logits."""


@dataclass(frozen=True)
class Labels:
    """Names that a model carries.

    Attributes:
        columns: of a table of rows; None where the model does not know them.
        classes: of the logits; None for a model that does not classify.
    """

    columns: tuple[Column, ...] | None
    classes: tuple[str, ...] | None


def read_labels(metadata: Mapping[str, str]) -> Labels:
    """Read and check the metadata. Raises: InputError that names the broken entry."""
    names = _names(metadata, FEATURES_KEY)
    columns = None if names is None else plain_columns(names)
    if COLUMNS_KEY in metadata:
        try:
            columns = from_json(metadata[COLUMNS_KEY])
        except ValueError as error:
            raise _broken(COLUMNS_KEY, str(error)) from error
        if names is not None and feature_names(columns) != names:
            raise _broken(COLUMNS_KEY, f"it does not go with {FEATURES_KEY}")
    return Labels(columns, _names(metadata, CLASSES_KEY))


def _names(metadata: Mapping[str, str], key: str) -> tuple[str, ...] | None:
    if key not in metadata:
        return None
    try:
        names = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise _broken(key, f"it is not JSON ({error})") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _broken(key, "it must be a list of names")
    if len(set(names)) < len(names):
        raise _broken(key, "two names are the same")
    return tuple(names)


def _broken(key: str, what: str) -> InputError:
    return InputError(f"the model's metadata entry '{key}' is broken: {what}; export the model again")
