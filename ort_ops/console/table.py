"""Print tables on the command line: plain text in a pipe or a file, colored and folded on a terminal."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ort_ops.console.terminal import printable, takes_control_codes, write_control
from ort_ops.console.tone import Tone, Toned

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_UNLIMITED = 1_000_000
_MOST_DRAWN = 500  # rows; rich takes a millisecond for each
_MIN_FOLDED = 12  # characters a column, on average, below which folded cells are harder to read than long lines
_STYLES = {Tone.GOOD: "green", Tone.BAD: "bold red", Tone.QUIET: "dim"}
_RULE = "    \n" * 2 + " -- \n" + "    \n" * 5


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns under their header, two spaces apart; each row becomes one line.

    >>> print(format_table(["kernel", "error"], [["body", "0"], ["python", "1e-7"]]))
    kernel  error
    ------  -----
    body    0
    python  1e-7
    """
    try:
        from rich.cells import cell_len
    except ModuleNotFoundError:  # `mylinear doctor` must be able to say that it is missing
        cell_len = len  # type: ignore[assignment]

    header, *rows = ([printable(text) for text in line] for line in (header, *rows))
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO | None = None) -> None:
    """Print a table: with colors on a terminal, folded where that keeps it readable; as plain text elsewhere.

    No text is ever cut off: a table too wide to fold is printed with long lines.

    Args:
        stream: to print to; None for standard output.
    """
    stream = sys.stdout if stream is None else stream
    if not takes_control_codes(stream) or len(rows) > _MOST_DRAWN or importlib.util.find_spec("rich") is None:
        print(format_table(header, rows), file=stream)
        return
    table, console = _table(header, rows), _console(getattr(stream, "encoding", None) or "utf-8")
    needed = console.measure(table, options=console.options.update(max_width=_UNLIMITED)).maximum
    if needed > console.width and console.width < _MIN_FOLDED * len(header):
        console.width = needed
    console.print(table)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]  # it is in memory
    write_control(stream, "".join(line.rstrip() + "\n" for line in drawn.splitlines()))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.box import Box
    from rich.table import Table

    box = Box(_RULE, ascii=True)
    table = Table(box=box, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in header:
        table.add_column(_text(name), overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _text(text: str) -> Text:
    """Return the text in the style of its tone, with nothing in it taken for markup."""
    from rich.text import Text

    return Text(printable(text), style=_STYLES[text.tone] if isinstance(text, Toned) else "")


def _console(encoding: str) -> Console:
    """Return a console that draws into memory, as wide as the terminal."""
    from rich.console import Console

    class Memory(io.StringIO):
        @property
        def encoding(self) -> str:  # type: ignore[override]  # by which rich chooses its lines
            return encoding

    return Console(file=Memory(), force_terminal=True)
