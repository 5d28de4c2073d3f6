"""The temporary files of this process, so that whoever ends it can remove them. Only the standard library."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

_paths: dict[str, int] = {}
"""Absolute path of each file or folder, and the process that made it: a forked child must not remove it."""


@contextmanager
def removed_at_exit(path: str | os.PathLike[str]) -> Iterator[None]:
    """Remove the file or folder when the block ends, however it ends; `remove_all` does so if the block cannot.

    Enter the block before the path is made, so that no moment is left at which nobody would remove it.
    """
    name = os.path.abspath(path)
    _paths[name] = os.getpid()
    try:
        yield
    finally:
        _remove(name)
        _paths.pop(name, None)


def remove_all() -> None:
    """Remove what is left. Takes no lock and raises nothing, so that a signal handler may call it."""
    for name, pid in list(_paths.items()):
        if pid == os.getpid():
            _remove(name)


def _remove(name: str) -> None:
    try:
        os.unlink(name)
    except IsADirectoryError:
        shutil.rmtree(name, ignore_errors=True)
    except OSError:  # it has its final name by now, or was never made
        pass
