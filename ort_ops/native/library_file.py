"""Check that a shared library can be loaded: a damaged one ends the process that tries, and nothing can catch that."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<32xQQ6xHHHH")  # e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum of 64-bit ELF
_SEGMENT = struct.Struct("<8xQ16xQ")  # p_offset, p_filesz
_TRIAL = "import sys; from ort_ops.native import library as native; native.describe(*sys.argv[1:])"

_deadly: dict[tuple[str, int, int], str] = {}
"""The signal or status that ended the process that tried a file, by path, size and time of its last change."""


def check_whole(path: str | Path) -> None:
    """Check that a library was not cut short, which the loader would find out by SIGBUS; read a kilobyte of it.

    Files other than 64-bit little-endian ELF are left to the loader.

    Raises: OSError if it is shorter than its own headers say, or ended the process of `try_in_child`.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size and header.startswith(_ELF_64_LITTLE):
            segments, sections, segment_size, num_segments, section_size, num_sections = _HEADER.unpack(header)
            ends = [segments + segment_size * num_segments, sections + section_size * num_sections]
            if ends[0] <= size and segment_size == 56:
                file.seek(segments)
                table = file.read(segment_size * num_segments)
                parts = (_SEGMENT.unpack_from(table, start) for start in range(0, len(table), segment_size))
                ends += [offset + length for offset, length in parts]
            if max(ends) > size:
                raise OSError(f"it was cut short: it has {size} of {max(ends)} bytes")
    reason = _deadly.get(_key(path))
    if reason is not None:
        raise OSError(reason)


def try_in_child(path: str | Path, function_name: str) -> None:
    """Load the library in a process of its own, and remember for `check_whole` if that ends the process.

    Args:
        path: of the library.
        function_name: the function to call there, as `ort_ops.native.library.describe` does.
    """
    command = [sys.executable, "-c", _TRIAL, str(path), function_name]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode < 0:
        _deadly[_key(path)] = f"loading it ends the process by {signal.Signals(-done.returncode).name}"
    elif done.returncode not in (0, 1):  # 1 is an exception, which `describe` raises here too
        _deadly[_key(path)] = f"loading it ends the process with status {done.returncode}"


def _key(path: str | Path) -> tuple[str, int, int]:
    found = os.stat(path)
    return os.path.abspath(path), found.st_size, found.st_mtime_ns
