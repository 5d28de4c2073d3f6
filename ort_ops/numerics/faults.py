"""The faults of a result: each is a class with fields, and its ``str`` is the sentence for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WrongShape:
    """The result has another shape."""

    got: tuple[int, ...]
    expected: tuple[int, ...]

    def __str__(self) -> str:
        return f"the shape is {list(self.got)} instead of {list(self.expected)}"


@dataclass(frozen=True)
class WrongType:
    """The result has another element type."""

    got: str
    expected: str

    def __str__(self) -> str:
        return f"the element type is {self.got} instead of {self.expected}"


@dataclass(frozen=True)
class WrongCount:
    """There are fewer or more results."""

    got: int
    expected: int

    def __str__(self) -> str:
        return f"there are {self.got} outputs instead of {self.expected}"


@dataclass(frozen=True)
class WrongValues:
    """Some values are off, or differ where they must be equal.

    Attributes:
        count, total: how many of how many.
        index: of the first.
        got, expected: its value and the exact one; text for anything but numbers.
        allowed: how far it may be off; None where values must be equal.
    """

    count: int
    total: int
    index: tuple[int, ...]
    got: float | str
    expected: float | str
    allowed: float | None = None

    def __str__(self) -> str:
        where = f"the first at {list(self.index)}: got"
        if self.allowed is None:
            return f"{self.count} of {self.total} values differ, {where} {self.got} instead of {self.expected}"
        return (
            f"{self.count} of {self.total} values are off, {where} {self.got:.9g} instead of {self.expected:.9g}, "
            f"allowed error {self.allowed:.3g}"
        )


@dataclass(frozen=True)
class Unwritten:
    """A kernel leaves values of an output as they were.

    Attributes:
        count, total: how many of how many.
        first: which one, counted along all axes.
    """

    output: str
    count: int
    total: int
    first: int

    def __str__(self) -> str:
        return (
            f"{self.count} of {self.total} values of {self.output} are never written, the first is number {self.first}"
        )


@dataclass(frozen=True)
class Failure:
    """There is no result, because computing it failed."""

    message: str

    def __str__(self) -> str:
        return self.message


Fault = WrongShape | WrongType | WrongCount | WrongValues | Unwritten | Failure
