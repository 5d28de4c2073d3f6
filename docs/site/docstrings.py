"""An extension of griffe, which reads our docstrings for the API reference.

Our docstrings write short sections on one line (`Raises: ValueError if ...`), examples without a heading (`>>> ...`)
and one text for several names (`opset, target: as in export`). Markdown would join the first with the text above it
and take the second for a quotation; griffe would take the third for a name and its type. A public name in single
backticks (`register`) becomes a link to it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe

ONE_LINE = re.compile(r"^(Returns|Raises|Yields|Note): (?=\S)", re.M)
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*\n?", re.M)
SEVERAL = re.compile(r"^( {4,})(\w+(?:, \w+)+)(: .*(?:\n\1 +.*)*)", re.M)
NAME = re.compile(r"(?<!`)`(\w+)`(?!`)")


def _public_names() -> dict[str, str]:
    """Return the full name of each public name: the packages' own `__all__`, read without importing them."""
    full = {}
    for package in ("ort_ops", "exporter"):
        for node in ast.parse((Path(__file__).parents[2] / package / "__init__.py").read_text()).body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == "__all__"
            ):
                full |= {name: f"{package}.{name}" for name in ast.literal_eval(node.value)}
    return full


PUBLIC = _public_names()


class HouseStyle(griffe.Extension):
    """Write docstrings in full Markdown before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Mend the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = in_markdown(obj.docstring.value)


def in_markdown(docstring: str) -> str:
    """Return a docstring with one-line sections as paragraphs, examples as code, and each name with its own text."""
    docstring = SEVERAL.sub(
        lambda found: "\n".join(f"{found[1]}{name}{found[3]}" for name in found[2].split(", ")), docstring
    )
    docstring = EXAMPLE.sub(lambda found: f"\n```pycon\n{found[0].rstrip()}\n```\n", docstring)
    docstring = NAME.sub(
        lambda found: f"[{found[0]}][{PUBLIC[found[1]]}]" if found[1] in PUBLIC else found[0], docstring
    )
    return ONE_LINE.sub(r"\n**\1:** ", docstring).replace("\n\n\n", "\n\n").strip()
