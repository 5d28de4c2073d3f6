"""Bring what a Python kernel raises to the run that fails by it.

onnxruntime carries an error only as text, and across threads. So a failure is kept under a random name that is used
once; the text begins with the name, and the session whose kernel failed looks for it there. No message can imitate a
name that nobody has seen, and names of other sessions mean nothing here.
"""

from __future__ import annotations

import itertools
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = re.compile(r"\[failure ([0-9a-f]{32})\]")
_opening = threading.local()


class Failures:
    """The failures of one session's kernels, each until its run has taken it or is over; for any number of threads.

    A run is a number, drawn by ``next_number()`` and kept in ``runs``. That function and ``runs.pop`` are written in C,
    so Ctrl-C cannot come between a ``finally`` and the end of a run; a call of Python code could be interrupted.
    """

    def __init__(self) -> None:
        self.next_number = itertools.count().__next__
        self.runs: dict[int, None] = {}
        self._failures: dict[str, tuple[int, BaseException]] = {}

    def record(self, error: BaseException) -> str:
        """Keep what a kernel raised; return the beginning of the text for onnxruntime."""
        name = secrets.token_hex(16)
        if self.runs:  # nobody waits for one of ``run_async``, which passes the text to a callback
            self._failures[name] = self.next_number(), error
        return f"[failure {name}]"

    def take(self, message: str) -> BaseException | None:
        """Return the exception that an error of onnxruntime stands for; None if no kernel of this session caused it."""
        for name in _NAME.findall(message):
            found = self._failures.pop(name, None)
            if found is not None:
                return found[1]
        return None

    def forget(self) -> None:
        """Forget the failures whose runs are over, such as the second of two nodes in parallel."""
        if self._failures:
            oldest = min(list(self.runs), default=None)
            for name, (since, _) in list(self._failures.items()):
                if oldest is None or since < oldest:
                    self._failures.pop(name, None)

    @contextmanager
    def of_new_kernels(self) -> Iterator[None]:
        """Collect the failures of all kernels that this thread makes during the block."""
        before = of_kernels_made_now()
        _opening.failures = self
        try:
            yield
        finally:
            _opening.failures = before


def of_kernels_made_now() -> Failures | None:
    """Return the failures of the session that this thread is opening; None for one of onnxruntime's own."""
    failures: Failures | None = getattr(_opening, "failures", None)
    return failures
