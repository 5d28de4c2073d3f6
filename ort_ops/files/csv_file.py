"""Read CSV files: records with the numbers of their lines, in bounded memory; one reader for training and serving.

The standard library's reader, in strict mode. pandas 3.1 fills short lines with empty cells, takes text after a closing
quote, and counts records where we name lines; polars 2.1 drops empty cells at the end of lines and knows no line ends
of CR alone. Each would make a file mean one thing in training and another in serving.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from ort_ops.files.inputs import InputError, open_input

Record = tuple[int, list[str]]
"""The number of a record's last line, and its fields."""

_DELIMITERS = ",;\t"
# Characters. A file without line ends, such as one of zeros only, must not be read into memory as one line.
_MAX_LINE = 2**26
_CELLS_AT_ONCE = 2**17


@contextmanager
def open_csv(path: str | Path, *, what: str = "file", folder_advice: str = "a CSV file") -> Iterator[Iterator[Record]]:
    """Yield the records of a CSV file one by one; skip empty lines.

    The file is UTF-8, with or without a byte order mark; separated by commas, or by semicolons or tabs where the first
    line has those and no comma; quoted as in RFC 4180.

    Args:
        what, folder_advice: as in `open_input`.

    Raises: InputError that names file and line, also while records are taken.
    """
    with open_input(path, what=what, folder_advice=folder_advice) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            yield _records(path, _lines(path, text))
        finally:
            text.detach()


def chunks(records: Iterator[Record], width: int, max_rows: int) -> Iterator[list[Record]]:
    """Yield lists of at most ``max_rows`` records of ``width`` fields, fewer if records are wide."""
    size = max(1, min(max_rows, _CELLS_AT_ONCE // max(1, width)))
    while chunk := list(islice(records, size)):
        yield chunk


def _records(path: str | Path, lines: Iterator[str]) -> Iterator[Record]:
    num_empty, first = 0, ""
    for first in lines:
        if first.strip():
            break
        num_empty += 1
    delimiter = next((d for d in _DELIMITERS if d in first), ",")
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    try:
        for record in reader:
            if len(record) > 1 or (record and record[0].strip()):
                yield num_empty + reader.line_num, record
    except csv.Error as error:
        raise InputError(f"'{path}' line {num_empty + reader.line_num}: {error}") from error


def _lines(path: str | Path, text: TextIO) -> Iterator[str]:
    """Yield the lines; refuse binary data and endless lines."""
    number = 0
    try:
        while line := text.readline(_MAX_LINE):
            number += 1
            if "\0" in line:
                raise InputError(f"'{path}' is not a CSV file: it holds binary data (line {number})")
            if len(line) == _MAX_LINE:
                raise InputError(f"'{path}' is not a CSV file: line {number} has more than {_MAX_LINE} characters")
            yield line
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{path}' is not a CSV file: it is not UTF-8 text (after line {number}); save it as UTF-8"
        ) from error
