"""Write a report as one HTML page that opens offline: text, tables and pictures in a single file.

Needs jinja2, from the extra ``report``. The template escapes everything that is not `markupsafe.Markup`.
"""

from __future__ import annotations

import base64
import functools
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ort_ops.console.terminal import printable
from ort_ops.files.atomic import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-extensions", "onnxscript", "numpy", "ort-mylinear")


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: its heading; empty to go on with the section before.
        text: a paragraph; may be empty.
        header, rows: a table; may be empty. A `Toned` text stands out.
        picture: path of a PNG, which is copied into the page.
        picture_text: what the picture shows, for those who cannot see it.
        code: shown as typed.
        markup: HTML of our own making, such as a drawing; put in as it is.
        fold: the line that unfolds the table; empty to show the table at once.
    """

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: Path | None = None
    picture_text: str = ""
    code: str = ""
    markup: Markup | None = None
    fold: str = ""

    @property
    def picture_base64(self) -> str:
        """The picture's bytes in base64, as a page holds them."""
        return "" if self.picture is None else base64.b64encode(self.picture.read_bytes()).decode()


def write_report(path: str | Path, title: str, summary: str, sections: Sequence[Section]) -> None:
    """Write the page; its last line says which versions made it.

    Raises: OutputError; ModuleNotFoundError without jinja2.
    """
    template = environment().get_template("page.html")
    page = template.render(title=title, summary=summary, sections=sections, versions=versions())
    write_atomically(path, page.encode() + b"\n")


def render(template: str, **values: object) -> Markup:
    """Return what a template of this package makes of some values, for a part of a page.

    Raises: ModuleNotFoundError without jinja2.
    """
    from markupsafe import Markup

    return Markup(environment().get_template(template).render(**values))


@functools.cache
def environment() -> Environment:
    """Return the environment of all templates; it escapes for HTML, and control characters too.

    >>> print(environment().from_string("{{ name }}").render(name="<b>\x1b[31m"))
    &lt;b&gt;\\x1b[31m
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("ort_ops.console"), autoescape=True, finalize=_shown, undefined=StrictUndefined
    )


def versions() -> list[str]:
    """Return name and version of Python and of the installed packages that matter to a report."""
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _shown(value: object) -> object:
    """Return the text that stands for a value: markup unchanged, nothing for None, text on one line."""
    if value is None:
        return ""
    return value if hasattr(value, "__html__") else printable(str(value))
