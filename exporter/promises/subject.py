"""The operator that is checked: its kit, its calls, and how an attempt becomes a promise that is kept or broken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from exporter.promises.result import Outcome, Promise
from exporter.verification.backends.base import first_line
from ort_ops.models.make import make_model
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.opdef.kit import OperatorKit

Types = dict[str, ElementType]


class BrokenError(Exception):
    """A promise is broken; the message says how."""


@dataclass(frozen=True)
class Overload:
    """One combination of element types, with the kit's samples of it."""

    types: Types
    calls: tuple[Call, ...]

    @property
    def name(self) -> str:
        """The element types in words."""
        return ", ".join(element_type.name for element_type in self.types.values())

    @property
    def usual(self) -> Call | None:
        """The first call without an empty array; None where each has one."""
        return next((c for c in self.calls if all(a is None or a.size for a in c.arrays)), None)


@dataclass(frozen=True)
class Subject:
    """An operator that is checked."""

    kit: OperatorKit
    seed: int = 0

    @cached_property
    def overloads(self) -> list[Overload]:
        """Every combination of element types. Raises what the kit's samples raise."""
        found = []
        for bound in self.kit.operator.overloads():
            types = {variable.name: ELEMENT_TYPES[name] for variable, name in bound.items()}
            calls = tuple(self.kit.samples(np.random.default_rng(self.seed), types))
            found.append(Overload(types, calls))
        return found


def attempt(promise: str, subject: str, run: Callable[[], Promise | str]) -> Promise:
    """Try one promise; whatever is raised breaks it.

    Args:
        run: returns the promise itself, or what to say of one that is kept.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporters, and NumPy's at the ends of a type
            found = run()
    except BrokenError as error:
        return Promise(promise, subject, Outcome.BROKEN, str(error))
    except Exception as error:
        return Promise(promise, subject, Outcome.BROKEN, in_words(error))
    return found if isinstance(found, Promise) else Promise(promise, subject, Outcome.KEPT, found)


def in_words(error: Exception) -> str:
    """Return an exception as one line, with its type where that says more than the text."""
    text = " ".join(first_line(error).split())
    return text if text.startswith(type(error).__name__) else f"{type(error).__name__}: {text}"


def model_of(call: Call, *, with_function: bool) -> Any:
    """Make a model of one node that is fed every input of a call."""
    return make_model(
        call.operator,
        [None if array is None else [*array.shape] for array in call.arrays],
        {name: value for name, value in call.attributes.items() if value is not None},
        types={name: element_type.name for name, element_type in call.types.items()},
        outputs=call.has_output,
        with_function=with_function,
    )


def feed_of(call: Call) -> dict[str, Any]:
    """Return the feed for `model_of`."""
    named = zip(call.operator.inputs, call.arrays, strict=True)
    return {parameter.argument: array for parameter, array in named if array is not None}
