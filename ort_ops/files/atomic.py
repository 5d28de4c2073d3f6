"""Write files completely or not at all; write to devices and pipes, and never replace them."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from ort_ops.errors import MylinearError
from ort_ops.files.temporaries import removed_at_exit

STANDARD_OUTPUT = "-"
"""The path, as a string, that stands for standard output."""

_ADVICE = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "write elsewhere, or raise the limit (`ulimit -f`)",
    errno.EACCES: "name a file and a folder that you may write to",
    errno.EPERM: "name a file and a folder that you may write to",
    errno.EROFS: "name a folder that you may write to",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "its symbolic links go round in a circle",
    errno.EBUSY: "it may be a mount point; name another file",
    errno.EBADF: "the descriptor is closed",
}
_MAX_LINKS = 40  # the kernel's own limit
_MAX_NAME_NBYTES = 200  # of the 255 that a name may have; the rest is for the affixes of a temporary file


class OutputError(MylinearError, OSError):
    """A file or folder that cannot be written; the message says which and why."""


@contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a temporary file, which becomes ``path`` if the block succeeds.

    A regular file, or a missing one, is replaced in one step: readers find the old content or the new. A failure within
    the block, also Ctrl-C or SIGTERM, leaves the old content and nothing else. The new file has the old one's mode, and
    its owner where that is allowed. A symbolic link is followed and stays; another hard link keeps the old content.

    A character device, a FIFO, a descriptor such as ``/dev/stdout``, and the string ``-`` for standard output are
    written to as streams, once the block has succeeded.

    Raises: OutputError if ``path`` is empty, a folder, a block device or a socket, if the folder is missing or
        read-only, or if the disk is full.
    """
    with _as_output_error(path):
        stream = _open_stream(path)
        if stream is None:
            with _replacing(_regular_file(path)) as temporary:
                yield temporary
            return
        with stream, temporary_folder() as folder:
            temporary = folder / "stream"
            temporary.touch()
            yield temporary
            with temporary.open("rb") as content:
                shutil.copyfileobj(content, stream)
            stream.flush()


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, as `open_atomically` does. Raises: OutputError."""
    with open_atomically(path) as temporary:
        temporary.write_bytes(data)


def replace_atomically(temporary: Path, path: str | os.PathLike[str]) -> None:
    """Give a finished file of the same file system the name ``path``, as `open_atomically` does.

    Raises: OutputError, for streams too.
    """
    with _as_output_error(path):
        if is_stream(path):
            raise OutputError(f"'{os.fspath(path)}' cannot be written: it must be a regular file")
        target = _regular_file(path)
        _take_owner_and_mode(temporary, target)
        _replace(temporary, target)


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise OutputError at once if `open_atomically` would, so that long work does not fail at its end."""
    with _as_output_error(path):
        if is_stream(path):
            return
        temporary = _temporary_beside(_regular_file(path))
        with removed_at_exit(temporary):
            temporary.open("xb").close()


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether `open_atomically` would write to the path instead of replacing it. Raises: OSError."""
    name = _checked_name(path)
    if path == STANDARD_OUTPUT or _descriptor(name) is not None:
        return True
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        kind = "block device" if stat.S_ISBLK(mode) else "socket"
        raise OutputError(f"'{name}' cannot be written: it is a {kind}; name a file")
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def summary_stream(*paths: str | os.PathLike[str]) -> TextIO:
    """Return where to print what was done: stdout, or stderr if one of the outputs goes to stdout itself."""
    is_taken = any(path == STANDARD_OUTPUT or _descriptor(os.fspath(path)) == 1 for path in paths)
    return sys.stderr if is_taken else sys.stdout


@contextmanager
def temporary_folder(beside: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yield a new folder, and remove it with its contents when the block or the process ends.

    Args:
        beside: a file; the folder is made beside it, hidden. By default it is in the system's folder for such files.

    Raises: OutputError if it cannot be made.
    """
    where = Path(tempfile.gettempdir()) / "mylinear" if beside is None else Path(beside)
    folder = _temporary_beside(where)
    with removed_at_exit(folder):
        with _as_output_error(where if beside is None else beside):
            folder.mkdir(mode=0o700)
        yield folder


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder and its parents, and try to write in it, so that long work does not fail at its end.

    Raises: OutputError if it cannot be made or is read-only.
    """
    with _as_output_error(path):
        if not os.fspath(path):
            raise OutputError("the path of the output folder is empty; name a folder")
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"'{folder}' is a file; name a folder to write to")
        folder.mkdir(parents=True, exist_ok=True)
        probe = _temporary_beside(folder / "probe")
        with removed_at_exit(probe):
            probe.write_bytes(b"\0")
    return folder


def output_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """Return an OutputError for a fault of the path."""
    name = os.fspath(path)
    if isinstance(error, FileNotFoundError):
        folder = Path(os.path.realpath(name)).parent if os.path.islink(name) else Path(name).parent
        return OutputError(f"'{name}' cannot be written: there is no folder '{folder}'; make it first")
    advice = _ADVICE.get(error.errno or 0)
    return OutputError(f"'{name}' cannot be written: {error.strerror or error}" + (f"; {advice}" if advice else ""))


@contextmanager
def _as_output_error(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the system's error about the path into an OutputError, except for a reader that went away."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MylinearError | BrokenPipeError):
            raise
        raise output_error(path, error) from error


def _checked_name(path: str | os.PathLike[str]) -> str:
    """Return the path as text. Raises: OutputError if no file can have that name."""
    name = os.fspath(path)
    if not name:
        raise OutputError("the output path is empty; name a file")
    try:
        is_valid = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid:
        raise OutputError(f"the output path {name!a} has a character that no file's name can have; name another")
    return name


def _regular_file(path: str | os.PathLike[str]) -> Path:
    """Follow the links of a path that is to be replaced. Raises: OutputError, OSError if that must not be."""
    name = _checked_name(path)
    real = Path(os.path.realpath(name))
    if real.is_dir() or name.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if real.exists() and not os.access(real, os.W_OK):  # a rename would replace it in spite of its mode
        raise PermissionError(errno.EACCES, "the file is read-only")
    return real


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    temporary = _temporary_beside(target)
    with removed_at_exit(temporary):
        temporary.open("xb").close()  # before the work that fills it, so that it does not fail at its end
        _take_owner_and_mode(temporary, target)  # before the content, which may be confidential
        yield temporary
        _replace(temporary, target)


def _take_owner_and_mode(temporary: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        old = target.stat()
        if hasattr(os, "chown"):  # not on Windows
            with suppress(PermissionError):
                os.chown(temporary, old.st_uid, old.st_gid)
        os.chmod(temporary, stat.S_IMODE(old.st_mode))


def replace_folder(new: Path, target: Path, aside: Path) -> None:
    """Rename a folder to ``target``; one that is there goes ``aside`` first, and comes back if that fails.

    Raises: OSError.
    """
    if not target.exists():
        new.rename(target)
        return
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise


def _replace(temporary: Path, target: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def _temporary_beside(path: Path) -> Path:
    """Return a new hidden name in the same folder, not longer than a name may be."""
    stem = os.fsdecode(os.fsencode(path.name)[:_MAX_NAME_NBYTES])
    return Path(os.path.dirname(path)) / f".{stem}.{secrets.token_hex(4)}.tmp"


def _open_stream(path: str | os.PathLike[str]) -> BinaryIO | None:
    """Open a device, pipe or descriptor for writing; return None for a regular file. Raises: OutputError, OSError."""
    if not is_stream(path):
        return None
    name = os.fspath(path)
    descriptor = 1 if path == STANDARD_OUTPUT else _descriptor(name)
    if descriptor is None:
        return os.fdopen(_open_waiting(name), "wb")
    if descriptor == 1 and sys.stdout is not None:
        sys.stdout.flush()
    return os.fdopen(os.dup(descriptor), "wb")  # opened by its name, it would be overwritten from its beginning


def _open_waiting(name: str) -> int:
    """Open a device or FIFO for writing; say so where a FIFO has to wait for its reader."""
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(name).st_mode):
            raise
        if sys.stderr is not None:
            print(f"mylinear: waiting for a reader of '{name}'", file=sys.stderr, flush=True)
        return os.open(name, os.O_WRONLY)
    os.set_blocking(descriptor, True)
    return descriptor


def _descriptor(name: str) -> int | None:
    """Return the descriptor of this process that a path such as ``/dev/stdout`` stands for, or None."""
    own = re.compile(rf"/proc/(?:self|thread-self|{os.getpid()})/fd/(\d+)")
    for _ in range(_MAX_LINKS):
        folder, last = os.path.split(os.path.abspath(name))
        found = own.fullmatch(f"{os.path.realpath(folder)}/{last}")
        if found is not None:
            return int(found[1])
        try:
            name = os.path.join(folder, os.readlink(name))
        except (OSError, ValueError):
            return None
    return None
