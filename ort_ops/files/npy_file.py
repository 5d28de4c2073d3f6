"""Read arrays from NPY and NPZ files, and compare them with the file's size before taking any memory."""

from __future__ import annotations

import io
import math
import os
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import InputError, first_line, open_input, shown_names

_MAX_HEADER = 10_000  # bytes; NumPy's own limit
_MAX_DEFLATE_RATIO = 1032
_BFLOAT16 = np.dtype("V2")  # as NumPy, which does not know it, writes that of ml_dtypes
_MAX_RANK = 32  # NumPy's own, before 2.0


def open_npy(path: str | Path, *, is_text: bool = False) -> NDArray[Any]:
    """Map the array of numbers in an NPY file into memory, without reading it.

    Args:
        is_text: whether it must hold text instead; what is no character is found only when it is read.

    bfloat16, which NumPy does not have, comes as ``V2``, as NumPy writes it.

    Raises: InputError if it is not such a file, or is shorter than its header claims.
    """
    with open_input(path, folder_advice="a .npy file") as file:
        try:
            header = _Header(file.read(_MAX_HEADER))
        except Exception as error:  # NumPy reports a damaged header in a dozen ways
            raise InputError(f"'{path}' is not a .npy file of numbers: {first_line(error)}") from error
        is_right = header.dtype.kind == "U" if is_text else header.dtype.kind in "fiub" or header.dtype == _BFLOAT16
        if not is_right:
            what = "text" if is_text else "numbers"
            raise InputError(f"'{path}' must hold {what}, got dtype {header.dtype}")
        header.require_size(f"'{path}'", os.fstat(file.fileno()).st_size)
        if 0 in header.shape:
            return np.empty(header.shape, header.dtype)
        return np.memmap(file, header.dtype, "r", header.length, header.shape, header.order)


def read_npz(
    path: str | Path,
    names: Sequence[str] | None = None,
    *,
    what: str = "file",
    folder_advice: str = "an .npz file",
    remedy: str = "write one with numpy.savez",
) -> dict[str, NDArray[Any]]:
    """Read arrays of numbers or text from an NPZ file, by name.

    Args:
        names: of the arrays; None for all.
        what, folder_advice: as in `open_input`.
        remedy: how to make such a file.

    bfloat16, which NumPy does not have, comes as ``V2``, as NumPy writes it.

    Raises: InputError that names the file and the array.
    """
    with open_input(path, what=what, folder_advice=folder_advice) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise InputError(f"'{path}' is one array; {remedy}")
            raise InputError(f"'{path}' is not an NPZ file; {remedy}")
        try:
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                wanted = [*members] if names is None else names
                lacking = [name for name in wanted if name not in members]
                if lacking:
                    has = shown_names([*members]) or "none"
                    raise InputError(f"'{path}' has no array {' and no array '.join(lacking)} (it has: {has})")
                return {n: _read_member(f"'{path}': array {n}", archive, members[n]) for n in wanted}
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(f"'{path}' does not fit into memory") from error
        except Exception as error:  # zipfile, zlib and NumPy report damage in many ways
            raise InputError(f"'{path}' cannot be read as an NPZ file of plain arrays: {first_line(error)}") from error


def _read_member(what: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{what} is compressed by a method that NumPy does not use")
    if info.file_size > info.compress_size * _MAX_DEFLATE_RATIO:
        raise InputError(f"{what} is damaged: {info.compress_size} bytes cannot hold {info.file_size}")
    with archive.open(info) as file:
        head = file.read(_MAX_HEADER)
        header = _Header(head)
        if header.dtype.kind not in "fiubcUS" and header.dtype != _BFLOAT16:
            raise InputError(f"{what} must be numbers or text, got dtype {header.dtype}")
        header.require_size(what, info.file_size)
        data = head[header.length :] + file.read()  # to the end, where the checksum is compared
    array = np.ndarray(header.shape, header.dtype, data, order=header.order)
    if header.dtype.kind == "U":
        array.tolist()  # raises for invalid characters
    return array


class _Header:
    """The header of an NPY file: shape, dtype and order of the array, and its own length in bytes."""

    def __init__(self, head: bytes) -> None:
        """Parse the first bytes of the file. Raises: whatever NumPy does for damage."""
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        buffer = io.BytesIO(head)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = np.lib.format.read_magic(buffer)
            if version not in readers:
                raise ValueError(f"format version {version[0]}.{version[1]} is not for numbers")
            shape, fortran_order, dtype = readers[version](buffer)
        if any(size < 0 for size in shape) or len(shape) > _MAX_RANK:
            raise ValueError(f"shape {list(shape)} is none")
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = dtype
        self.order: Literal["C", "F"] = "F" if fortran_order else "C"
        self.length = buffer.tell()

    def require_size(self, what: str, size: int) -> None:
        """Raise InputError if the array cannot be in a file of ``size`` bytes."""
        claimed, available = math.prod(self.shape) * self.dtype.itemsize, size - self.length
        extent = math.prod(max(1, length) for length in self.shape) * self.dtype.itemsize
        if claimed > available or extent > sys.maxsize:
            raise InputError(
                f"{what} is damaged or cut short: its header claims {list(self.shape)} of {self.dtype}, "
                f"{claimed} bytes, and there are {available}"
            )
