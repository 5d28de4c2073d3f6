"""Keep a list of this process's temporary files, so that all can be removed when it ends. Imports next to nothing."""

from __future__ import annotations

import os

_paths: dict[str, int] = {}
"""Absolute path of each file or folder, and the process that made it: a forked child must not remove it."""


class removed_at_exit:  # noqa: N801  # a context manager, read like a function
    """Remove the file or folder when the block ends, in any way; `remove_all` does so if the block cannot.

    Enter the block before making the path, so that it is removed whenever the process ends.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = os.path.abspath(path)

    def __enter__(self) -> None:
        _paths[self._name] = os.getpid()

    def __exit__(self, *_: object) -> None:
        _remove(self._name)
        _paths.pop(self._name, None)


def remove_all() -> None:
    """Remove the files that are left. Takes no lock and raises nothing, so a signal handler may call it."""
    for name, pid in list(_paths.items()):
        if pid == os.getpid():
            _remove(name)


def _remove(name: str) -> None:
    try:
        if not os.path.isdir(name):
            os.unlink(name)
            return
        for folder, folders, files in os.walk(name, topdown=False):
            for file in files:
                os.unlink(os.path.join(folder, file))
            for inner in folders:
                os.rmdir(os.path.join(folder, inner))
        os.rmdir(name)
    except OSError:  # it has its final name by now, or was never made
        pass
