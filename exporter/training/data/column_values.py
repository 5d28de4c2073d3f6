"""Collect the values of a table's columns while they are read, and report all columns that cannot be used."""

from __future__ import annotations

import re
import shlex
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.console.counts import counted
from ort_ops.files.csv_file import Record
from ort_ops.files.inputs import MAX_SHOWN_NAMES, shown_text
from ort_ops.prediction.columns import Column, parse_number, plain_numbers

MAX_CATEGORIES = 1000
"""A column with more different texts than this is refused as categorical: each would be an input."""

_MAX_ADVISED_CATEGORIES = 50
_FORMATTED_NUMBER = re.compile(r"[$€£¥]?\s*[+-]?\d[\d.,'\s]*[%$€£¥]?")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?")


@dataclass
class Trouble:
    """Why a column cannot be used.

    Attributes:
        name: of the column.
        num_missing, first_missing: how many values are missing, and the line of the first.
        num_texts, first_text: how many cells are not numbers, and line and text of the first.
        texts: the different ones, up to a few more than would be accepted as categories.
        reason: another fault, of the whole column.
    """

    name: str
    num_missing: int = 0
    first_missing: int = 0
    num_texts: int = 0
    first_text: tuple[int, str] = (0, "")
    texts: set[str] = field(default_factory=set)
    reason: str | None = None

    def take(self, lines: Sequence[int], cells: Sequence[str]) -> NDArray[np.float64]:
        """Return the numbers of further cells, NaN for the others, and note those."""
        values = np.full(len(cells), np.nan)
        for row, (line, cell) in enumerate(zip(lines, cells, strict=True)):
            try:
                values[row] = parse_number(cell)
            except ValueError:
                self._note_text(line, cell.strip())
                continue
            if np.isnan(values[row]):
                self.note_missing(line)
        return values

    def note_missing(self, line: int) -> None:
        """Note that a value is missing."""
        self.first_missing = self.first_missing or line
        self.num_missing += 1

    def _note_text(self, line: int, text: str) -> None:
        if not self.num_texts:
            self.first_text = (line, text)
        self.num_texts += 1
        if len(self.texts) <= _MAX_ADVISED_CATEGORIES:
            self.texts.add(text)

    def describe(self, rows: int) -> str:
        """Return what is wrong, with the line and the remedy."""
        if self.reason is not None:
            return self.reason
        if self.num_texts:
            line, text = self.first_text
            place = f"line {line}, column '{self.name}': must be a finite number, got {shown_text(text)}"
            return f"{place} ({self._kind(rows)} in {self.num_texts} of {rows} rows: {self.remedy(rows)[0]})"
        place = f"line {self.first_missing}, column '{self.name}'"
        counts = f"{self.num_missing} of {rows} rows: {self.remedy(rows)[0]}"
        return f"{place}: must be a finite number, the value is missing ({counts})"

    def remedy(self, rows: int) -> tuple[str, str | None]:
        """Return what to do, in words, and the option that does it, if there is one."""
        if self.reason is not None or self.num_missing == rows:
            return "leave it out", "ignore"
        if not self.num_texts:
            return "fill the gaps, or leave it out", "fill"
        kind = self._kind(rows)
        if kind == "dates":
            return "write them as numbers, such as days since a date, or leave it out", "ignore"
        if kind == "formatted numbers":
            return "write them with a decimal point and nothing else", None
        if kind == "other text":
            return "mend these cells, or leave it out", "ignore"
        if len(self.texts) <= min(_MAX_ADVISED_CATEGORIES, max(2, rows // 2)):
            if self.num_missing:
                return (
                    f"write a word for the {self.num_missing} missing to make each an input, or leave it out",
                    "ignore",
                )
            return "make each an input, or leave it out", "categorical"
        return "leave it out", "ignore"

    def _kind(self, rows: int) -> str:
        if _DATE.fullmatch(self.first_text[1]):
            return "dates"
        if 2 * self.num_texts < rows - self.num_missing:
            return "other text"
        if _FORMATTED_NUMBER.fullmatch(self.first_text[1]):
            return "formatted numbers"
        few = len(self.texts) <= _MAX_ADVISED_CATEGORIES
        return f"{len(self.texts)} different texts" if few else "many different texts"


class NumberColumns:
    """Columns of numbers, which are read together as long as they are numbers.

    Args:
        names: of the columns.
        places: indices of the columns in a record.
    """

    def __init__(self, names: Sequence[str], places: Sequence[int]) -> None:
        self.troubles: dict[int, Trouble] = {}
        self._names, self._places = names, places
        self._blocks: list[NDArray[np.float64]] = []
        self._choose_clean()

    def add(self, chunk: Sequence[Record]) -> None:
        """Read the cells of further records."""
        rows = [cells for _, cells in chunk]
        block = np.empty((len(rows), len(self._names)))
        numbers = self._clean_numbers(rows)
        if numbers is None:
            for index in self._clean:
                cells = [row[self._places[index]] for row in rows]
                if plain_numbers(cells) is None:
                    self.troubles[index] = Trouble(self._names[index])
            self._choose_clean()
            numbers = self._clean_numbers(rows)
            assert numbers is not None
        block[:, self._clean] = numbers.reshape(len(rows), -1)
        lines = [line for line, _ in chunk] if self.troubles else []
        for index, trouble in self.troubles.items():
            block[:, index] = trouble.take(lines, [row[self._places[index]] for row in rows])
        self._blocks.append(block)

    def values(self) -> NDArray[np.float64]:
        """Return the numbers ``[rows, columns]`` of all records, of which there must be some; NaN for missing ones."""
        return np.concatenate(self._blocks) if len(self._blocks) > 1 else self._blocks[0]

    def _choose_clean(self) -> None:
        self._clean = [index for index in range(len(self._names)) if index not in self.troubles]
        self._take = _taker([self._places[index] for index in self._clean])

    def _clean_numbers(self, rows: Sequence[Sequence[str]]) -> NDArray[np.float64] | None:
        return plain_numbers([*chain.from_iterable(map(self._take, rows))])


class CategoryColumn:
    """A column of texts, each of which becomes an input.

    Args:
        name: of the column.
        place: index of the column in a record.
    """

    def __init__(self, name: str, place: int) -> None:
        self.trouble = Trouble(name)
        self._name, self._place = name, place
        self._code_of: dict[str, int] = {}
        self._codes = array("q")

    def add(self, chunk: Sequence[Record]) -> None:
        """Read the cells of further records."""
        for line, cells in chunk:
            text = cells[self._place].strip()
            if not text:
                self.trouble.note_missing(line)
            elif len(self._code_of) <= MAX_CATEGORIES:
                self._codes.append(self._code_of.setdefault(text, len(self._code_of)))

    def find_trouble(self) -> Trouble | None:
        """Return why the column cannot be used, or None."""
        trouble = self.trouble
        if len(self._code_of) > MAX_CATEGORIES:
            trouble.reason = f"column '{self._name}' has more than {MAX_CATEGORIES} different texts, each an input"
        elif trouble.num_missing:
            trouble.reason = (
                f"line {trouble.first_missing}, column '{self._name}': the category is missing "
                f"({counted(trouble.num_missing, 'row')}: write a word for it, or leave the column out)"
            )
        return trouble if trouble.reason else None

    def column(self) -> Column:
        """Return the column with its categories in order."""
        return Column(self._name, categories=tuple(sorted(self._code_of)))

    def values(self) -> NDArray[np.float64]:
        """Return the inputs ``[rows, categories]``, in the order of `column`."""
        texts = list(self._code_of)
        place = {text: index for index, text in enumerate(sorted(texts))}
        order = np.array([place[text] for text in texts])
        codes: NDArray[np.int64] = order[np.array(self._codes, np.int64)]
        one_hot: NDArray[np.float64] = np.zeros((len(codes), len(texts)))
        one_hot[np.arange(len(codes)), codes] = 1.0
        return one_hot


def describe_troubles(troubles: Sequence[Trouble], rows: int) -> str:
    """Return one sentence on all columns that cannot be used, and the options that would help."""
    told = [trouble.describe(rows) for trouble in troubles[:MAX_SHOWN_NAMES]]
    if len(troubles) > MAX_SHOWN_NAMES:
        return (
            f"{len(troubles)} columns cannot be used: {'; '.join(told)}; and {len(troubles) - MAX_SHOWN_NAMES} more; "
            "--features takes only the columns that it names"
        )
    options = " ".join(_options(troubles, rows))
    advice = f"; try {options}" if options else ""
    if len(told) == 1:
        return told[0] + advice
    return f"{len(told)} columns cannot be used: {'; '.join(told)}{advice}"


def _options(troubles: Sequence[Trouble], rows: int) -> Iterator[str]:
    remedies = [(trouble, trouble.remedy(rows)[1]) for trouble in troubles]
    for option in ("categorical", "ignore"):
        for trouble, remedy in remedies:
            if remedy == option:
                yield f"--{option} {shlex.quote(trouble.name)}"
    if any(remedy == "fill" for _, remedy in remedies):
        yield "--fill mean"


def _taker(places: Sequence[int]) -> Callable[[Sequence[str]], Sequence[str]]:
    if not places:
        return lambda cells: ()
    if len(places) == 1:
        return lambda cells: (cells[places[0]],)
    take: Any = itemgetter(*places)
    chosen: Callable[[Sequence[str]], Sequence[str]] = take
    return chosen
