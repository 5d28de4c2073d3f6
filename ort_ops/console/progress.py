"""A progress line on stderr, in the base install, for the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ort_ops.console.terminal import printable

_BAR_WIDTH = 24
_TERMINAL_INTERVAL_S = 0.1
_LOG_INTERVAL_S = 5.0


class Progress:
    """How far a piece of work has come: one line rewritten on a terminal, a line every few seconds in a log."""

    def __init__(self, title: str, total: int | None, *, stream: TextIO | None = None) -> None:
        self._title = title
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._last_shown = -float("inf") if self._is_terminal else self._started
        self._done = 0
        self._note = ""

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        """Say that ``done`` units of ``total`` are finished, with a word on how it goes."""
        self._done, self._note = done, printable(note)
        self._total = self._total if total is None else total
        now = time.monotonic()
        if now - self._last_shown >= (_TERMINAL_INTERVAL_S if self._is_terminal else _LOG_INTERVAL_S):
            self._last_shown = now
            self._show("")

    def finish(self) -> None:
        """Show the last state and end the line."""
        if self._is_terminal or self._done:  # in a log, work that failed at once has nothing to show
            self._show("\n" if self._is_terminal else "")

    def _show(self, end: str) -> None:
        line = f"{self._title} {self._bar()} {time.monotonic() - self._started:.1f} s  {self._note}".rstrip()
        if self._is_terminal:
            write = getattr(self._stream, "write_control", self._stream.write)
            write(f"\r\x1b[2K{line}{end}")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _bar(self) -> str:
        if not self._total:
            return str(self._done)
        filled = min(_BAR_WIDTH, _BAR_WIDTH * self._done // self._total)
        return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {self._done}/{self._total}"


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Progress]:
    """A `Progress` that is finished when the block ends, however it ends."""
    line = Progress(title, total)
    try:
        yield line
    finally:
        line.finish()
