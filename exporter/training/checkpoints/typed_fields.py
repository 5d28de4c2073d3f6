"""Build dataclasses from a file's contents, and check that every field is there and of its declared type."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_fields(cls: type[T], values: object) -> T:
    """Build a dataclass from a mapping of field names to values; nested dataclasses are mappings too.

    Raises: TypeError or ValueError that names the field.

    >>> from exporter.training.history import EpochRecord
    >>> from_fields(EpochRecord, {"epoch": 1, "train_loss": 0.5})
    EpochRecord(epoch=1, train_loss=0.5, validation_loss=None, validation_score=None)
    >>> from_fields(EpochRecord, {"epoch": "1", "train_loss": 0.5})
    Traceback (most recent call last):
    TypeError: epoch must be int, got '1'
    """
    assert is_dataclass(cls)
    if not isinstance(values, Mapping):
        raise TypeError(f"{cls.__name__} must be a mapping, got {type(values).__name__}")
    known = {field.name: field for field in fields(cls)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {unknown[0]!r:.40}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise TypeError(f"{cls.__name__} lacks {name}")
    hints = get_type_hints(cls)
    return cls(**{name: convert(name, value, hints[name]) for name, value in values.items()})


def convert(name: str, value: Any, hint: Any) -> Any:
    """Return the value in the type of the hint. Raises: TypeError if it is of another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
    elif origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return convert(name, value, inner)
    elif origin is tuple:
        if isinstance(value, tuple | list):
            return tuple(convert(name, item, arguments[0]) for item in value)
    elif is_dataclass(hint):
        return from_fields(hint, value)  # type: ignore[arg-type]
    elif hint is float:
        if type(value) in (int, float):
            return float(value)
    elif type(value) is hint:
        return value
    described = getattr(hint, "__name__", None) if not arguments else str(hint).removeprefix("typing.")
    raise TypeError(f"{name} must be {described}, got {value!r:.40}")
