"""Plain-text tables for the command line."""

from __future__ import annotations

from collections.abc import Sequence

from ort_ops.console.terminal import printable


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns under their header, two spaces apart; a cell is one line, whatever is in it.

    >>> print(format_table(["kernel", "error"], [["body", "0"], ["python", "1e-7"]]))
    kernel  error
    ------  -----
    body    0
    python  1e-7
    """
    header, *rows = ([printable(cell) for cell in line] for line in (header, *rows))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
