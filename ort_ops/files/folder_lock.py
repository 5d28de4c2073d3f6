"""Allow one writer in a folder at a time: by a lock that says who holds it, and that ends with its process."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ort_ops.errors import MylinearError
from ort_ops.files.atomic import output_error
from ort_ops.files.temporaries import removed_at_exit

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".mylinear.lock"

_CANNOT_LOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_MAX_HOLDER = 1000  # bytes
# Folders that this process has locked, by the thread that did: a command may lock before the function that it calls.
_held: dict[str, int] = {}


class FolderInUseError(MylinearError, RuntimeError):
    """Another process or thread is writing to the folder; the message says which."""


@contextmanager
def lock_folder(folder: Path, what: str) -> Iterator[None]:
    """Lock the folder while the block runs; the thread that holds the lock may take it again.

    The lock is the operating system's, on a file in the folder. It ends with the process, however that ends, so a file
    that is left over locks nothing. On Windows, and on file systems without locks, nothing is locked.

    Args:
        folder: it must be there.
        what: holds it, for the message of whoever comes second, such as ``training``.

    Raises: FolderInUseError if another process or thread has it, OutputError if the file cannot be written.
    """
    key, thread = os.path.realpath(folder), threading.get_ident()
    if _held.get(key) == thread:
        yield
        return
    path = folder / LOCK_NAME
    try:
        descriptor = _acquire(path, what)
    except OSError as error:
        if isinstance(error, MylinearError):
            raise
        raise output_error(path, error) from error
    _held[key] = thread
    try:
        if descriptor is None:
            yield
        else:
            with removed_at_exit(path):
                yield
    finally:
        del _held[key]
        if descriptor is not None:
            os.close(descriptor)


def _acquire(path: Path, what: str) -> int | None:
    """Return the descriptor of the locked file; None where there are no locks. Raises: FolderInUseError, OSError."""
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUseError(_in_use(path.parent, descriptor, what)) from None
            if _is_still(path, descriptor):
                _write_holder(descriptor)
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in _CANNOT_LOCK:
                return None
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder has removed the file meanwhile: try again with a new one


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the path still names the file that was locked."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _in_use(folder: Path, descriptor: int, what: str) -> str:
    try:
        holder = json.loads(os.pread(descriptor, _MAX_HOLDER, 0))
        who = f"process {int(holder['pid'])} on {holder['host']!s:.80} since {holder['since']!s:.40}"
    except (ValueError, KeyError, TypeError):
        who = "another process"  # which has not written yet who it is
    return f"'{folder}' is in use by another {what}: {who}; wait for its end, or name another folder by --output"
