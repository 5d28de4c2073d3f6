"""Find what still refers to the memory that a call lends to a kernel, and make exceptions own what they show.

A loan is a weak reference to the memoryview that the library made of a tensor. Every array, memoryview or tensor of
another library that was made from it refers to it, so none is left when the weak reference is dead. Nothing depends on
how an interpreter counts references.
"""

from __future__ import annotations

import functools
import gc
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

Loans = Sequence[Callable[[], Any] | None]
"""A weak reference to the memory of each input and output; None for an absent one."""

_MAX_OBJECTS = 100_000  # that are searched; anything further counts as kept
_MAX_TUPLES = 100  # nested in each other
_IS_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made by a class statement
_METHODS = (types.MethodType, types.BuiltinMethodType)


def kept(loans: Loans) -> list[int]:
    """Return the loans that something still refers to."""
    return [index for index, loan in enumerate(loans) if loan is not None and loan() is not None]


def take_back(error: BaseException, loans: Loans) -> list[int]:
    """Make an exception, and all that it leads to, own its memory; return the loans that are kept all the same.

    The finished frames of its traceback lose their local variables. Views in it become copies, in place: in attributes,
    notes and arguments, in lists, dicts, tuples, objects, closures and further exceptions.
    """
    for one in exceptions_of(error):
        traceback.clear_frames(_plain(one, "__traceback__"))
    if not kept(loans):
        return []
    _Owner(loans).own(error)
    return kept_for_good(loans)


def kept_for_good(loans: Loans) -> list[int]:
    """Return the loans that something other than garbage still refers to."""
    if kept(loans):
        gc.collect()  # a cycle, such as an exception that the kernel caught, may be all that is left
    return kept(loans)


def exceptions_of(error: BaseException) -> Iterator[BaseException]:
    """Return an exception, its causes and contexts, and the members of groups; each once."""
    pending: list[Any] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        pending += [_plain(one, "__cause__"), _plain(one, "__context__")]
        if issubclass(type(one), BaseExceptionGroup):
            with suppress(Exception):  # a user's class may return anything
                pending += getattr(one, "exceptions")  # noqa: B009  # mypy does not see that it is a group


def _plain(error: BaseException, name: str) -> Any:
    """Return an attribute that every exception has, whatever its class says."""
    return BaseException.__getattribute__(error, name)


class _Owner:
    """Replace views of some memory by copies, wherever an exception leads to."""

    def __init__(self, loans: Loans) -> None:
        self._lent = {id(view): view for loan in loans if loan is not None for view in [loan()] if view is not None}
        self._copies: dict[int, tuple[Any, Any]] = {}  # with the original, so that its id is not reused
        self._pending: list[Any] = []

    def own(self, error: BaseException) -> None:
        self._pending.append(error)
        seen: dict[int, Any] = {}
        while self._pending and len(seen) < _MAX_OBJECTS:
            value = self._pending.pop()
            if id(value) not in seen:
                seen[id(value)] = value
                with suppress(Exception):  # of the object's own class; what it hides counts as kept
                    self._visit(value)

    def _visit(self, value: Any) -> None:
        """Replace views in an object that can be changed in place."""
        if isinstance(value, BaseException):
            self._visit_exception(value)
        elif isinstance(value, types.TracebackType):
            self._visit_traceback(value)
        if isinstance(value, dict):
            self._set_items(value, list(value.items()))
        elif isinstance(value, list | deque):
            self._set_items(value, list(enumerate(value)))
        elif isinstance(value, types.CellType):
            value.cell_contents = self._replaced(value.cell_contents)
        elif isinstance(value, types.FunctionType):
            self._pending += value.__closure__ or ()
            self._set_attributes(value, ["__defaults__", "__kwdefaults__", "__dict__"])
        elif isinstance(value, functools.partial):
            state = (value.func, value.args, value.keywords, vars(value))
            value.__setstate__(tuple(map(self._replaced, state)))  # type: ignore[attr-defined]
        elif isinstance(value, np.ndarray) and value.dtype.hasobject and value.dtype.names is None:
            self._set_items(value.flat, list(enumerate(value.flat)))
        if type(value).__flags__ & _IS_HEAP_TYPE or isinstance(value, BaseException):
            self._pending.append(getattr(value, "__dict__", None))
            members = (name for cls in type(value).__mro__ for name, item in vars(cls).items() if _is_member(item))
            self._set_attributes(value, members)

    def _visit_exception(self, error: BaseException) -> None:
        self._pending += [_plain(error, "__cause__"), _plain(error, "__context__")]
        self._set_attributes(error, ["args"])
        if isinstance(error, BaseExceptionGroup):
            self._pending += error.exceptions
        self._visit_traceback(_plain(error, "__traceback__"))

    def _visit_traceback(self, entry: types.TracebackType | None) -> None:
        while entry is not None:
            frame = entry.tb_frame
            entry = entry.tb_next
            with suppress(RuntimeError):  # it still runs
                frame.clear()
            for item in gc.get_referents(frame):  # the function itself, with its closure, and what locals() gave
                is_local = isinstance(item, dict) and item is not frame.f_globals and item is not frame.f_builtins
                if is_local or isinstance(item, types.FunctionType):
                    self._pending.append(item)

    def _set_items(self, container: Any, items: list[tuple[Any, Any]]) -> None:
        for key, item in items:
            replaced = self._replaced(item)
            if replaced is not item:
                container[key] = replaced

    def _set_attributes(self, value: Any, names: Any) -> None:
        for name in names:
            with suppress(Exception):  # not set, or cannot be set
                item = getattr(value, name)
                replaced = self._replaced(item)
                if replaced is not item:
                    setattr(value, name, replaced)

    def _replaced(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of a view, of a tuple or method that has one, or the value itself, to be searched next."""
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        replaced = value
        if isinstance(value, tuple):
            if depth < _MAX_TUPLES:
                items = [self._replaced(item, depth + 1) for item in value]
                if any(new is not old for new, old in zip(items, value, strict=True)):
                    replaced = value._make(items) if hasattr(value, "_make") else type(value)(items)
        elif isinstance(value, _METHODS):
            owner = self._replaced(value.__self__)
            if owner is not value.__self__:
                replaced = getattr(owner, value.__name__)
        elif isinstance(value, np.ndarray | memoryview) and self._is_lent(value):
            copy = np.array(value, subok=True)
            replaced = copy if isinstance(value, np.ndarray) else memoryview(copy)  # type: ignore[arg-type]
            self._pending.append(replaced)
        elif not isinstance(value, type | types.ModuleType | str | bytes | int | float | None):
            self._pending.append(value)
        if replaced is not value:
            self._copies[id(value)] = value, replaced
        return replaced

    def _is_lent(self, value: Any) -> bool:
        while value is not None and id(value) not in self._lent:
            if isinstance(value, np.ndarray):
                value = value.base
            elif isinstance(value, memoryview):
                value = value.obj
            else:
                return False
        return value is not None


def _is_member(item: Any) -> bool:
    """Whether an item of a class is a slot, of a Python class or of an exception in C (``AttributeError.obj``)."""
    return isinstance(item, types.MemberDescriptorType)
