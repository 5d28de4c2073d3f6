"""Open regular files to read, with one error of ours for every fault of a path or its content."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ort_ops.errors import MylinearError

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
MAX_SHOWN_NAMES = 20
_MAX_SHOWN_TEXT = 40
_MAX_REASON = 300


class InputError(MylinearError, ValueError):
    """A file, row or value that cannot be used; the message names file, line and column."""


def input_path(path: str | os.PathLike[str], *, what: str = "file") -> Path:
    """Return the path of a file to read. Raises: InputError if it is empty, which ``Path`` takes for the folder here.

    Args:
        what: what the path should be, for the message.

    >>> input_path("", what="checkpoint")
    Traceback (most recent call last):
    ort_ops.files.inputs.InputError: the path of the checkpoint is empty; name a file
    """
    if not os.fspath(path):
        raise InputError(f"the path of the {what} is empty; name a file")
    return Path(path)


@contextmanager
def open_input(
    path: str | Path, *, what: str = "file", folder_advice: str = "a file", missing_advice: str = ""
) -> Iterator[BinaryIO]:
    """Open a regular file for reading, and turn an ``OSError`` within the block into an InputError.

    A FIFO without a writer would block silently, and a device such as ``/dev/zero`` never ends.

    Args:
        what: what the path should be, for the message that there is none.
        folder_advice: what to name in place of a folder.
        missing_advice: where to get a file that is not there.

    Raises: InputError.
    """
    path = input_path(path, what=what)
    try:
        _require_regular(path, os.stat(path).st_mode, folder_advice)
        with open(path, "rb", opener=_open_without_waiting) as file:
            _require_regular(path, os.fstat(file.fileno()).st_mode, folder_advice)  # it may be another file by now
            yield file
    except FileNotFoundError:
        raise InputError(f"there is no {what} '{path}'" + (f"; {missing_advice}" if missing_advice else "")) from None
    except OSError as error:
        if isinstance(error, MylinearError):
            raise
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}") from error


def shown_names(names: tuple[str, ...] | list[str]) -> str:
    """Return the names in one line; of many, only the first.

    >>> shown_names(["a", "b"]), shown_names([f"x{i}" for i in range(50_000)])[-28:]
    ('a, b', 'x18, x19, ... (50000 in all)')
    """
    rest = f", ... ({len(names)} in all)" if len(names) > MAX_SHOWN_NAMES else ""
    return ", ".join(names[:MAX_SHOWN_NAMES]) + rest


def shown_text(text: str) -> str:
    """Return a field in quotes; of a long one, only the beginning."""
    return f"'{text}'" if len(text) <= _MAX_SHOWN_TEXT else f"'{text[:_MAX_SHOWN_TEXT]}...'"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened if long, or its type's name if it has none.

    >>> first_line(ValueError("no number\\nat all")), first_line(MemoryError()), len(first_line(KeyError("x" * 5000)))
    ('no number', 'MemoryError', 303)
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= _MAX_REASON else lines[0][:_MAX_REASON] + "..."


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(path: str | Path, mode: int, folder_advice: str) -> None:
    if stat.S_ISDIR(mode):
        raise InputError(f"'{path}' is a folder; name {folder_advice}")
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise InputError(f"'{path}' is {kind}; write its content to a file first, and name that")
