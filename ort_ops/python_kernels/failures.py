"""What Python kernels raise, on its way from the kernel to the run that fails by it.

onnxruntime carries an error as text alone, and between threads. So a failure is kept under a random name that is used
once, the name begins the text, and the session whose kernel failed looks for it there. No message can imitate a name
that nobody has seen, and none of another session means anything here.
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
    """The failures of one session's kernels, each until its run has taken it or is over. For any number of threads.

    A run is a number, drawn by ``next_number()`` and kept in ``runs``. Both that and ``runs.pop`` are of C, so that no
    Ctrl-C comes between a ``finally`` and the end of a run; a call of Python's could be interrupted as it begins.
    """

    def __init__(self) -> None:
        self.next_number = itertools.count().__next__
        self.runs: dict[int, None] = {}
        self._failures: dict[str, tuple[int, BaseException]] = {}

    def record(self, error: BaseException) -> str:
        """Keep what a kernel raised; return what the text for onnxruntime must begin with."""
        name = secrets.token_hex(16)
        if self.runs:  # none waits for one of ``run_async``, which hands the text to a callback
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
        """Forget the failures that no run is left for, such as the second of two nodes in parallel."""
        if self._failures:
            oldest = min(list(self.runs), default=None)
            for name, (since, _) in list(self._failures.items()):
                if oldest is None or since < oldest:
                    self._failures.pop(name, None)

    @contextmanager
    def of_new_kernels(self) -> Iterator[None]:
        """Make these the failures of all kernels that this thread makes meanwhile."""
        before = of_kernels_made_now()
        _opening.failures = self
        try:
            yield
        finally:
            _opening.failures = before


def of_kernels_made_now() -> Failures | None:
    """The failures of the session that this thread is opening; None for a session of onnxruntime's own."""
    failures: Failures | None = getattr(_opening, "failures", None)
    return failures
