"""A one-page HTML report that opens offline: text, tables and pictures in a single file."""

from __future__ import annotations

import base64
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ort_ops.console.report_text import markup
from ort_ops.files.atomic import write_atomically

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top }
img { max-width: 100%; height: auto; margin-top: 1rem } pre { background: #f3f5f7; padding: .8rem; overflow-x: auto }
.ok { color: #116329; font-weight: 600 } .bad { color: #b3261e; font-weight: 600 } .muted { color: #59636e }
"""
_CLASSES = {
    "ok": ' class="ok"',
    "met": ' class="ok"',
    "met within noise": ' class="ok"',
    "missed": ' class="bad"',
    "not measured": ' class="muted"',
    "-": ' class="muted"',
}
_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-extensions", "onnxscript", "numpy", "ort-mylinear")


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: its heading.
        text: a paragraph; may be empty.
        header, rows: a table; may be empty. Verdicts such as ``ok`` and ``missed`` stand out.
        picture: path of a PNG, which is copied into the page.
        picture_text: what it shows, for those who cannot see it.
        code: shown as typed.
        markup: HTML of our own making, such as an SVG drawing; put in as it is.
    """

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: Path | None = None
    picture_text: str = ""
    code: str = ""
    markup: str = ""

    def render(self) -> str:
        """Return the section as HTML."""
        parts = [f"<h2>{markup(self.title)}</h2>"]
        if self.text:
            parts.append(f"<p>{markup(self.text)}</p>")
        if self.header:
            parts.append(render_table(self.header, self.rows))
        if self.picture is not None:
            data = base64.b64encode(self.picture.read_bytes()).decode()
            parts.append(f'<img alt="{markup(self.picture_text)}" src="data:image/png;base64,{data}">')
        if self.markup:
            parts.append(self.markup)
        if self.code:
            parts.append(f"<pre>{markup(self.code)}</pre>")
        return "\n".join(parts)


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML; `Section` says which cells stand out."""
    head = "".join(f"<th>{markup(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_report(path: str | Path, title: str, summary: str, sections: Sequence[Section]) -> None:
    """Write the page, with the versions of what made it at its end. Raises: OutputError."""
    page = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{markup(title)}</title><style>{_STYLE}</style></head>
<body>
<h1>{markup(title)}</h1>
<p>{markup(summary)}</p>
{chr(10).join(section.render() for section in sections)}
<h2>Made with</h2>
<p class="muted">{markup(", ".join(versions()))}</p>
</body>
</html>
"""
    write_atomically(path, page.encode())


def versions() -> list[str]:
    """Return name and version of Python and of the packages that take part, where they are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cell(text: str) -> str:
    kind = _CLASSES.get(text, "")
    if "values are off" in text:
        kind = ' class="bad"'
    elif text.startswith("not run"):
        kind = ' class="muted"'
    return f"<td{kind}>{markup(text)}</td>"
