"""Ask a library with kernels which onnxruntime it needs, by standing in for one in a process of its own.

onnxruntime hands a library a table with two functions: one gives its version, the other its API of a number that the
library asks for, or nothing where that is newer than it is. API number 17 is that of onnxruntime 1.17. Without an API
many libraries end their process, so a child asks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OLDEST_API = 17
"""Of the oldest onnxruntime that this project supports."""
_TIMEOUT_S = 60

_ASK = """
import ctypes, os, sys
get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(lambda number: os.write(1, b"%d\\n" % number) and None)
text = ctypes.create_string_buffer(b"1.%d.0" % int(sys.argv[2]))
get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(text))
class Base(ctypes.Structure):
    _fields_ = [("get_api", type(get_api)), ("get_version", type(get_version))]
ctypes.CDLL(sys.argv[1]).RegisterCustomOps(None, ctypes.byref(Base(get_api, get_version)))
"""


def oldest_runtime_of(library: str | Path) -> str | None:
    """Return the oldest onnxruntime, from 1.17 on, that a library of this machine's platform takes; None if unknown.

    It is asked as by onnxruntime 1.17 first, and then as by the version that it wants.
    """
    wanted = _asked(library, OLDEST_API)
    if any(1 < number <= OLDEST_API for number in wanted):
        return f"1.{OLDEST_API}"
    for minor in sorted(number for number in wanted if number > OLDEST_API):
        if minor in _asked(library, minor):
            return f"1.{minor}"
    return None


def _asked(library: str | Path, minor: int) -> list[int]:
    """Return the API numbers that a library asks onnxruntime 1.``minor`` for."""
    command = [sys.executable, "-I", "-S", "-c", _ASK, str(Path(library).absolute()), str(minor)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [int(line) for line in done.stdout.split() if line.isdigit()]
