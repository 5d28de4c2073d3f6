"""Session options that can be pickled; onnxruntime's own cannot be read back completely."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnxruntime

from ort_ops.errors import MylinearError

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name of a method, and its arguments."""

_RECORDED = ("add_", "set_", "clear_", "register_")


class PicklingError(MylinearError, pickle.PicklingError):
    """A session or options cannot be pickled; the message says why and what to do."""


class SessionOptions(onnxruntime.SessionOptions):  # type: ignore[misc]  # onnxruntime ships no types
    """``onnxruntime.SessionOptions`` that record all changes, and so can be pickled.

    A session that was opened with them can be pickled too, for ``multiprocessing``, Spark or Dask.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Call] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith(_RECORDED):
            return found

        def recorded(*arguments: Any, **named: Any) -> Any:
            result = found(*arguments, **named)
            self._calls.append((name, arguments, named))
            return result

        return recorded

    def __reduce__(self) -> tuple[Callable[..., SessionOptions], tuple[dict[str, Any], list[Call]]]:
        for name, arguments, named in self._calls:
            try:
                pickle.dumps((arguments, named))
            except Exception as error:
                raise PicklingError(
                    f"session options cannot be pickled after {name} with what lies in this process alone ({error}); "
                    "open the session in each process"
                ) from error
        return _restored, (_attributes(self), self._calls)


def _attributes(options: onnxruntime.SessionOptions) -> dict[str, Any]:
    """Return the options that were set, by name; defaults are those of the onnxruntime that unpickles them."""
    default = onnxruntime.SessionOptions()
    names = [name for name in dir(default) if not name.startswith("_") and not callable(getattr(default, name))]
    return {name: getattr(options, name) for name in names if getattr(options, name) != getattr(default, name)}


def _restored(attributes: Mapping[str, Any], calls: Sequence[Call]) -> SessionOptions:
    from ort_ops.session import register

    options = SessionOptions()
    for name, value in attributes.items():
        setattr(options, name, value)
    for name, arguments, named in calls:
        if name:
            getattr(options, name)(*arguments, **named)
        else:
            register(options, **named)
    return options
