"""Attributes of a new operator as they are asked for, ``a:float=1.0,n:int=2``, and as each file writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ort_ops.errors import MylinearError

WORD = re.compile(r"[a-z][a-z0-9_]*")
"""The name of an input, an output or an attribute."""
MOST = 16
"""How many of each there may be."""
_TEXT = re.compile(r"[A-Za-z0-9_.-]+")
_ONNX_KINDS = {"float": 1, "int": 2, "string": 3, "floats": 6, "ints": 7}


class PackageError(MylinearError, ValueError):
    """A package that cannot be written; the message says why, and what to do."""


@dataclass(frozen=True)
class ExampleAttribute:
    """An attribute with a default; it gives the example operator a factor.

    A float or an int is the factor; a string changes the sign where it is `other_text`; of a list, the largest number
    is the factor if it is more than 1. A list is empty by default.
    """

    name: str
    kind: str
    default: str = ""

    @property
    def onnx_kind(self) -> int:
        """``onnx.AttributeProto.AttributeType``."""
        return _ONNX_KINDS[self.kind]

    @property
    def is_list(self) -> bool:
        """Whether it is a list of numbers."""
        return self.kind in ("floats", "ints")

    @property
    def python_type(self) -> str:
        """The annotation of a parameter."""
        return {"string": "str", "floats": "Sequence[float]", "ints": "Sequence[int]"}.get(self.kind, self.kind)

    @property
    def python_default(self) -> str:
        """The default of a parameter."""
        return "()" if self.is_list else f'"{self.default}"' if self.kind == "string" else self.default

    @property
    def formal(self) -> str:
        """The description in Python."""
        words = self.python_type.replace("Sequence", "list")
        default = "[]" if self.is_list else self.python_default
        return f'Attribute("{self.name}", {self.onnx_kind}, "{words}", default={default}, doc="{self._doc}")'

    @property
    def cpp_formal(self) -> str:
        """The description in C++."""
        default = {"float": f", {self.default}f", "int": f", {self.default}", "string": f', "{self.default}"'}
        return f'ort::{self.kind}_attribute("{self.name}"{default.get(self.kind, "")})'

    @property
    def cpp_type(self) -> str:
        """The type of the factor in C++."""
        return "int64_t" if self.kind in ("int", "ints") else "float"

    @property
    def cpp_factor(self) -> str:
        """The factor in C++, read from the attribute."""
        read = f'info.attributes().get_{self.kind}("{self.name}")'
        if self.kind == "string":
            return f'{read} == "{self.other_text}" ? -1.0f : 1.0f'
        return f"largest({read})" if self.is_list else read

    def factor(self, value: str) -> str:
        """Return the factor as an expression of Python, of the attribute's value."""
        if self.kind == "string":
            return f'-1.0 if {value} == "{self.other_text}" else 1.0'
        return f"max([1.0, *{value}])" if self.is_list else value

    @property
    def in_formula(self) -> str:
        """The factor in the formula of the example."""
        return f"sign({self.name})" if self.kind == "string" else f"max(1, {self.name})" if self.is_list else self.name

    @property
    def default_factor(self) -> float:
        """The factor that the default gives."""
        return float(self.default) if self.kind in ("float", "int") else 1.0

    @property
    def other_text(self) -> str:
        """The string that changes the sign; never the default."""
        return "plain" if self.default == "negated" else "negated"

    @property
    def other(self) -> str:
        """Another value than the default, to try."""
        if self.kind == "float":
            return repr(float(self.default) - 1.75)
        if self.kind == "int":
            return repr(int(self.default) + 2)
        return {"string": f'"{self.other_text}"', "floats": "[0.5, 2.5]", "ints": "[3, 2]"}[self.kind]

    @property
    def _doc(self) -> str:
        if self.kind == "string":
            return f"'{self.other_text}' changes the sign."
        return "the largest is a factor if it is more than 1." if self.is_list else "a factor."


def read_attributes(text: str) -> tuple[ExampleAttribute, ...]:
    """Read attributes, separated by commas. Raises: PackageError."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\w+):(float|int|string|floats|ints)(?:=(.*))?", part)
        if match is None:
            kinds = "'a:float=1.0', 'n:int=2', 'mode:string=plain', 'scales:floats' or 'steps:ints'"
            hint = "add attributes of other kinds to the written files"
            raise PackageError(f"each of --attributes must be like {kinds}, got '{part}'; {hint}")
        name, kind, default = match.groups()
        check_text("each of --attributes", name, WORD, "called by a lower-case identifier")
        found.append(ExampleAttribute(name, kind, _default(part, kind, default)))
    if len(found) > MOST:
        raise PackageError(f"--attributes must be at most {MOST}, got {len(found)}")
    return tuple(found)


def check_text(what: str, value: str, pattern: re.Pattern[str], rule: str) -> None:
    """Check that a text has a form. Raises: PackageError that names the rule."""
    if not pattern.fullmatch(value):
        raise PackageError(f"{what} must be {rule}, got '{value}'")


def _default(part: str, kind: str, default: str | None) -> str:
    if kind in ("floats", "ints"):
        if default is not None:
            raise PackageError(
                f"a list is empty by default, so '{part}' must have no '='; write '{part.split('=')[0]}'"
            )
        return ""
    if kind == "string":
        default = "plain" if default is None else default
        check_text(f"the default in '{part}'", default, _TEXT, "of letters, digits, '_', '.' and '-'")
        return default
    return _number(part, kind, "1" if default is None else default)


def _number(part: str, kind: str, default: str) -> str:
    try:
        value = float(default) if kind == "float" else int(default)
    except ValueError:
        value = float("nan")
    if not abs(value) <= 1e6:
        raise PackageError(f"the default in '{part}' must be a number of at most a million; got '{default}'")
    return repr(value)
