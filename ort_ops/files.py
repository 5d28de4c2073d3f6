"""Write files so that they are there whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ort_ops.errors import MylinearError

_ADVICE = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EACCES: "name a folder that you may write to",
    errno.EPERM: "name a folder that you may write to",
    errno.EROFS: "name a folder that you may write to",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
}


class OutputError(MylinearError, OSError):
    """A file or folder that cannot be written; the message says which and why."""


@contextmanager
def open_atomically(path: str | Path) -> Iterator[Path]:
    """Yield the path of a hidden file in the same folder, which takes the name ``path`` when the block ends well.

    Readers find the old content or the new. A failure within the block, Ctrl-C too, leaves the old and nothing else.

    Raises: OutputError if the folder is missing or read-only, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            temporary.open("xb").close()  # before the work that fills it, so that it does not fail at its end
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if isinstance(error, MylinearError | BrokenPipeError):
            raise
        raise output_error(path, error) from error


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, as `open_atomically` does. Raises: OutputError."""
    with open_atomically(path) as temporary:
        temporary.write_bytes(data)


def make_folder(path: str | Path) -> Path:
    """Make the folder and those above it, and try to write in it, so that long work does not fail at its end.

    Raises: OutputError if it cannot be made or is read-only.
    """
    path = Path(path)
    probe = path / f".{secrets.token_hex(4)}.tmp"
    try:
        if path.exists() and not path.is_dir():
            raise OutputError(f"'{path}' is a file; name a folder to write to")
        path.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error
    return path


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error of ours for what went wrong with the path."""
    if isinstance(error, FileNotFoundError):
        return OutputError(f"'{path}' cannot be written: there is no folder '{path.parent}'; make it first")
    advice = _ADVICE.get(error.errno or 0)
    return OutputError(f"'{path}' cannot be written: {error.strerror or error}" + (f"; {advice}" if advice else ""))
