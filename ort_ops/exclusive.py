"""Let one call at a time use an object, and the next one after it, wherever Ctrl-C comes.

``with lock:`` does not do: from Python 3.14 on, an interrupt may come after the lock was taken and before the block
begins, and then nothing releases it. The next call would wait for ever.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ort_ops.errors import MylinearError

Function = TypeVar("Function", bound=Callable[..., Any])
new_lock = threading.RLock
"""Its ``release`` knows whether this thread has it."""


class BusyError(MylinearError, RuntimeError):
    """A method was called from within another one of the same object; the message says which."""


def exclusive(method: Function) -> Function:
    """Make a method wait for ``self._lock``, a `new_lock`, and release it however the method ends.

    Raises: BusyError where the thread is within such a method already, as in a Python kernel or a signal handler.
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self._lock._is_owned():
            raise BusyError(
                f"{method.__name__} was called while this thread is within another call of the same "
                f"{type(self).__name__}, as from a Python kernel or a signal handler; call it afterwards"
            )
        return _call(self._lock, method, self, *args, **kwargs)

    return cast(Function, call)


def guarded(lock: Callable[[], Any]) -> Callable[[Function], Function]:
    """Make a function wait for a `new_lock`, and release it however the function ends.

    Functions of one lock may call each other.

    Args:
        lock: returns the lock, which a fork may have replaced.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            held = lock()
            if held._is_owned():
                return function(*args, **kwargs)
            return _call(held, function, *args, **kwargs)

        return cast(Function, call)

    return decorate


def _call(lock: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        lock.acquire()
        return function(*args, **kwargs)
    finally:
        # Nothing may stand before the release: an interrupt could come between the two.
        try:  # noqa: SIM105
            lock.release()
        except RuntimeError:  # interrupted before the lock was taken
            pass
