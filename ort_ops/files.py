"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ort_ops.errors import MylinearError

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EACCES: "there is no permission to write there; choose another folder",
    errno.EROFS: "the folder is read-only; choose another",
    errno.ENOENT: "its folder does not exist and cannot be made",
    errno.ENOTDIR: "part of the path is a file, not a folder",
    errno.EEXIST: "part of the path is a file, not a folder",
    errno.EISDIR: "there is a folder of that name",
}


class FileWriteError(MylinearError, OSError):
    """A file that could not be written; what was there before is still there."""


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield the path of a temporary file that takes the place of ``path`` when the block ends without error.

    The folder is made if need be. If anything fails, ``path`` is as it was and the temporary file is gone.

    Raises: FileWriteError with the reason and remedy for what the operating system refuses.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, MylinearError):
            raise
        remedy = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
        raise FileWriteError(f"cannot write '{target}': {remedy}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
