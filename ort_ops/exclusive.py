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

Method = TypeVar("Method", bound=Callable[..., Any])
new_lock = threading.RLock
"""Its ``release`` knows whether this thread has it."""


class BusyError(MylinearError, RuntimeError):
    """A method was called from within another one of the same object; the message says which."""


def exclusive(method: Method) -> Method:
    """Make a method wait for ``self._lock``, a `new_lock`, and release it however the method ends.

    Raises: BusyError where the thread is within such a method already, as in a Python kernel or a signal handler.
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        lock = self._lock
        if lock._is_owned():
            raise BusyError(
                f"{method.__name__} was called while this thread is within another call of the same "
                f"{type(self).__name__}, as from a Python kernel or a signal handler; call it afterwards"
            )
        try:
            lock.acquire()
            return method(self, *args, **kwargs)
        finally:
            # Nothing may stand before the release: an interrupt could come between the two.
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:  # interrupted before the lock was taken
                pass

    return cast(Method, call)
