"""Results that show themselves: as on the command line in a Python prompt, as a page's tables in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ort_ops.console.table import format_table
from ort_ops.console.terminal import printable
from ort_ops.console.tone import Tone, Toned

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
_STYLES = {Tone.GOOD: "color:green", Tone.BAD: "color:#c00;font-weight:bold", Tone.QUIET: "opacity:0.6"}
_MOST_SHOWN = 200
"""Rows of a table in a prompt or a notebook."""


class Shown:
    """A result that is shown by its lines and tables. A dataclass of this base needs ``repr=False``."""

    def shown(self) -> Iterable[str | Table]:
        """Return what the result shows: lines of text, and tables as header and rows."""
        raise NotImplementedError

    def __repr__(self) -> str:
        parts = (printable(p) if isinstance(p, str) else format_table(p[0], _limited(p)) for p in self.shown())
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return to_html(self.shown())


def to_html(parts: Iterable[str | Table]) -> str:
    """Return lines and tables in HTML; whatever their text, it is text.

    >>> to_html(["<b>", (["a"], [["1 < 2"]])])
    '<div>&lt;b&gt;</div><table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1 &lt; 2</td></tr></tbody></table>'
    """
    found = []
    for part in parts:
        if isinstance(part, str):
            found.append(f"<div>{escape(printable(part))}</div>" if part else "")
            continue
        head = "".join(f"<th>{escape(printable(name))}</th>" for name in part[0])
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in _limited(part))
        found.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "".join(found)


def _cell(text: str) -> str:
    style = f' style="{_STYLES[text.tone]}"' if isinstance(text, Toned) else ""
    return f"<td{style}>{escape(printable(text))}</td>"


def _limited(table: Table) -> list[Sequence[str]]:
    header, rows = table
    if len(rows) <= _MOST_SHOWN:
        return list(rows)
    rest = f"and {len(rows) - _MOST_SHOWN} more"
    return [*rows[:_MOST_SHOWN], [rest, *[""] * (len(header) - 1)]]
