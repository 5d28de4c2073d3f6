"""Show on stderr how far a piece of work has come."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ort_ops.console.terminal import printable, takes_control_codes, write_control

_BAR_WIDTH = 24
_MIN_WIDTH_OF_BAR = 60  # of the terminal; on a narrower one the words matter more
_TERMINAL_INTERVAL_S = 0.1
_LOG_INTERVAL_S = 5.0


class Progress:
    """Show how far a piece of work has come: one line rewritten on a terminal, a line every few seconds in a log.

    rich draws the line, and nothing more: its live display would need a thread, and a signal could leave the terminal
    without a cursor.
    """

    def __init__(self, title: str, total: int | None, *, stream: TextIO | None = None) -> None:
        self._title = title
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = takes_control_codes(self._stream)
        self._started = time.monotonic()
        self._last_shown = -float("inf") if self._is_terminal else self._started
        self._done = 0
        self._note = ""

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        """Say that ``done`` units of ``total`` are finished, with a note on what is next or how it goes."""
        self._done, self._note = done, printable(note)
        self._total = self._total if total is None else total
        now = time.monotonic()
        if now - self._last_shown >= (_TERMINAL_INTERVAL_S if self._is_terminal else _LOG_INTERVAL_S):
            self._last_shown = now
            self._show("")

    def finish(self) -> None:
        """Show the last state and end the line."""
        if self._is_terminal or self._done:  # in a log there is nothing to show for work that failed at once
            self._show("\n" if self._is_terminal else "")

    def _show(self, end: str) -> None:
        if self._is_terminal:
            write_control(self._stream, f"\r\x1b[2K{self._drawn()}{end}")
        else:
            self._stream.write(f"{self._title} {self._count()} {self._elapsed()}  {self._note}".rstrip() + "\n")
        self._stream.flush()

    def _drawn(self) -> str:
        """Return the line with a bar, cut to the width of the terminal."""
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        encoding = getattr(self._stream, "encoding", None) or "utf-8"

        class Memory(io.StringIO):
            @property
            def encoding(self) -> str:  # type: ignore[override]  # by which rich chooses how to draw the bar
                return encoding

        memory = Memory()
        line = Table.grid(padding=(0, 1))
        cells: list[Text | ProgressBar] = [Text(self._title, no_wrap=True)]
        console = Console(file=memory, force_terminal=True)
        console.width -= 1  # a full line would wrap in some terminals
        if self._total and console.width >= _MIN_WIDTH_OF_BAR:
            cells.append(ProgressBar(self._total, min(self._done, self._total), width=_BAR_WIDTH))
        cells += [Text(text, no_wrap=True) for text in (self._count(), self._elapsed(), self._note)]
        line.add_row(*cells)
        console.print(line, overflow="ellipsis", no_wrap=True)
        return memory.getvalue().split("\n")[0].rstrip()

    def _count(self) -> str:
        return f"{self._done}/{self._total}" if self._total else str(self._done)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._started:.1f} s"


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Progress]:
    """Yield a `Progress` that is finished when the block ends, however it ends."""
    line = Progress(title, total)
    try:
        yield line
    finally:
        line.finish()
