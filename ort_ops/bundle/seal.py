"""Hash the files of a bundle, and refuse a folder that has anything else."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ort_ops.bundle.manifest import AGAIN, FILE_NAME, BundleError, Manifest, SealedFile

_CHUNK = 1 << 20
_AGAIN = f"copy the bundle again, or {AGAIN}"


def seal(folder: Path) -> dict[str, SealedFile]:
    """Return hash and size of every file, by its path; reads a megabyte at a time, and writes all to the disk."""
    return {path: sealed_file(folder / path, sync=True) for path in sorted(_files(folder, str(folder), ()))}


def sealed_file(path: Path, *, sync: bool = False) -> SealedFile:
    """Return hash and size of one file."""
    with open(path, "rb") as file:
        found = _digest(file)
        if sync:
            os.fsync(file.fileno())
    return found


def check_sealed(folder: Path, manifest: Manifest) -> None:
    """Compare the files with the manifest: each is there, has its bytes, and there is no other.

    Raises: BundleError for the first that is missing, added, changed, a link, or no regular file.
    """
    where = str(folder)
    found = set(_files(folder, where, manifest.open_folders))
    missing = sorted(manifest.files.keys() - found)
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BundleError(f"'{where}' lacks '{missing[0]}'{more}; {_AGAIN}")
    extra = sorted(found - manifest.files.keys() - {FILE_NAME})
    if extra:
        more = f", and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise BundleError(f"'{where}' has '{extra[0]}'{more}, which {FILE_NAME} does not list; remove it, or {AGAIN}")
    for path, expected in manifest.files.items():
        if path != manifest.model.path:  # whose bytes are compared when they are read
            with open_inside(folder, path) as file:
                check_content(where, path, expected, _digest(file))


def read_sealed(folder: Path, path: str, manifest: Manifest) -> bytes:
    """Return the bytes of a file that have the manifest's hash. Raises: BundleError for other bytes."""
    expected = manifest.files[path]
    with open_inside(folder, path) as file:
        data = file.read(expected.nbytes + 1)  # and no more, whatever lies there now
    found = SealedFile(hashlib.sha256(data).hexdigest(), len(data))
    check_content(str(folder), path, expected, found)
    return data


def check_content(where: str, path: str, expected: SealedFile, found: SealedFile) -> None:
    """Compare one file with the manifest. Raises: BundleError."""
    if found.nbytes != expected.nbytes:
        what = f"{found.nbytes} bytes, not {expected.nbytes}"
        raise BundleError(f"'{where}': '{path}' was changed: it has {what}; {_AGAIN}")
    if found.sha256 != expected.sha256:
        what = f"its sha256 is {found.sha256[:16]}..., not {expected.sha256[:16]}..."
        raise BundleError(f"'{where}': '{path}' was changed: {what}; {_AGAIN}")


def open_inside(folder: Path, path: str) -> BinaryIO:
    """Open a regular file of a bundle. Raises: BundleError for a link, a device, or a file that cannot be read."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.fdopen(os.open(folder / path, flags), "rb")
    except FileNotFoundError:
        raise BundleError(f"'{folder}' lacks '{path}'; {_AGAIN}") from None
    except OSError as error:
        reason = error.strerror or error
        raise BundleError(
            f"'{folder}': '{path}' cannot be read: {reason}; let this user read it, or {AGAIN}"
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BundleError(f"'{folder}': '{path}' is no regular file; {_AGAIN}")
    return file


def _digest(file: BinaryIO) -> SealedFile:
    found, nbytes = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        found.update(chunk)
        nbytes += len(chunk)
    return SealedFile(found.hexdigest(), nbytes)


def _files(root: Path, where: str, open_folders: tuple[str, ...]) -> Iterator[str]:
    """Yield the path of each file. Raises: BundleError for a link, a device, and a folder that cannot be read."""
    pending = [""]
    while pending:
        inner = pending.pop()
        try:
            entries = list(os.scandir(root / inner))
        except OSError as error:
            raise BundleError(f"'{where}': '{inner or '.'}' cannot be read: {error.strerror or error}") from error
        for entry in entries:
            path = f"{inner}/{entry.name}" if inner else entry.name
            if path in open_folders and entry.is_dir(follow_symlinks=False):
                continue
            if entry.is_symlink():
                raise BundleError(f"'{where}': '{path}' is a symbolic link, and a bundle has none; {_AGAIN}")
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise BundleError(f"'{where}': '{path}' is no regular file; remove it, or {AGAIN}")


def total_nbytes(files: Mapping[str, SealedFile]) -> int:
    """Return the size of all files together."""
    return sum(entry.nbytes for entry in files.values())
