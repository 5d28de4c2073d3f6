"""Find the shared library with the C++ kernels, and say what it has or why it cannot be used.

No other module knows its name. A host in another language registers it by its path::

    python -c "import ort_ops.native.library; print(ort_ops.native.library.library_path())"
"""

from __future__ import annotations

import ctypes
import filecmp
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ort_ops.errors import MylinearError
from ort_ops.native.library_file import check_whole, try_in_child

LIBRARY_VARIABLE = "MYLINEAR_LIBRARY"
"""Environment variable that names another build of the library, such as one with sanitizers."""
ISA_VARIABLE = "MYLINEAR_ISA"
"""Environment variable that forces an instruction set; the library reads it whenever it is registered."""

_DESCRIBE = "mylinear_describe"
_DISTRIBUTION = "ort-mylinear"
_FILE_NAME = "libmylinear_ort" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_REINSTALL = (
    "install a C++17 compiler (such as g++ 9 or newer) and run "
    "`pip install --force-reinstall --no-cache-dir --no-deps` on ort-mylinear's source again"
)

_own_paths: set[str] = set()


class NativeLibraryError(MylinearError, RuntimeError):
    """The library with the C++ kernels cannot be used; the message says why and how to mend it."""


@dataclass(frozen=True)
class NativeStatus:
    """The state of the library with the C++ kernels.

    Attributes:
        path: the file, or None if there is none.
        reason: why it cannot be used and how to mend it; None if it can be used.
        version: the version that it was built as, or None if it does not load.
        compiler: what it was built with, or None if it does not load.
        isa: the instruction set that a registration now would use, or None if none can be used.
        compiled_isas: the instruction sets that it was compiled for, the preferred one first.
        usable_isas: those of them that this CPU has.
        versions: by the name of each operator that it has kernels for, the newest version that these serve.
    """

    path: str | None
    reason: str | None
    version: str | None = None
    compiler: str | None = None
    isa: str | None = None
    compiled_isas: tuple[str, ...] = ()
    usable_isas: tuple[str, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether the C++ kernels can be registered."""
        return self.reason is None


def library_path(operator: str = "", since_version: int = 1) -> str:
    """Return the path of the library, for `SessionOptions.register_custom_ops_library`.

    Args:
        operator: name of one that it must have kernels for; empty for none.
        since_version: of that operator. An older library would run its nodes too, and ignore their attributes.

    Raises: NativeLibraryError if it is missing, does not load, is of another version than this package, or lacks the
        operator.
    """
    found = status()
    if found.reason is not None or found.path is None:
        raise NativeLibraryError(found.reason)
    if operator and since_version > found.versions.get(operator, 0):
        what = f"{operator} of version {since_version}" if operator in found.versions else operator
        raise NativeLibraryError(f"{found.path} has no {what}: it was built from older sources; {_REINSTALL}")
    _own_paths.add(found.path)
    return found.path


def is_own(path: str) -> bool:
    """Whether a path is what `library_path` returned in this process."""
    return path in _own_paths


def cmake_dir() -> str:
    """Return the folder for CMake's ``mylinear_DIR``, in which ``find_package(mylinear)`` looks.

    Raises: NativeLibraryError if this installation has none.
    """
    return str(Path(include_dir()) / "cmake")


def include_dir() -> str:
    """Return the folder with the headers that a kernel of your own in C++ includes; see ``docs/cpp_kernels.md``.

    Raises: NativeLibraryError if this installation has none.
    """
    for directory in _directories():
        for path in (directory.parent / "cpp_ops", directory / "include"):
            if (path / "ort" / "registration.h").is_file():
                return str(path)
    raise NativeLibraryError(f"this installation has no C++ headers: it was made without a compiler; {_REINSTALL}")


include_path = include_dir
"""The name that `include_dir` had first."""


def status(*, in_child_first: bool = False) -> NativeStatus:
    """Find the library and ask it what it has. Never raises. Looks again at each call, which takes microseconds.

    Args:
        in_child_first: whether to try the library in a process of its own first, so that a damaged one is reported and
            does not end this process; takes a tenth of a second.
    """
    path = _find()
    if path is None:
        if LIBRARY_VARIABLE in os.environ:
            named = os.environ[LIBRARY_VARIABLE]
            return NativeStatus(None, f"{LIBRARY_VARIABLE} names no file: {named}; correct or unset the variable")
        searched = ", ".join(str(directory) for directory in _directories())
        reason = f"this installation has no C++ kernels ({_FILE_NAME} is not in {searched}): it was made without"
        return NativeStatus(None, f"{reason} a working compiler, or not built in place; {_REINSTALL}")
    if in_child_first:
        try_in_child(path, _DESCRIBE)
    try:
        described = describe(path, _DESCRIBE)
    except (OSError, AttributeError, ValueError) as error:
        reason = f"{path} does not load ({error}): it was built for another machine, or damaged; {_REINSTALL}"
        return NativeStatus(str(path), reason)
    reason = described["error"]
    if reason is not None:
        reason = f"{reason}; correct or unset {ISA_VARIABLE}"
    expected = _package_version()
    # Between releases the version grows with each commit, and a library that was built by hand has another.
    if expected is not None and ".dev" not in expected and described["version"] != expected:
        reason = f"{path} is of version {described['version']}, the Python package of {expected}; {_REINSTALL}"
    return NativeStatus(
        path=str(path),
        reason=reason,
        version=described["version"],
        compiler=described["compiler"],
        isa=described["isa"],
        compiled_isas=tuple(described["compiled"]),
        usable_isas=tuple(described["usable"]),
        versions={
            operator["name"]: operator.get("end_version", operator["since_version"])
            for operator in described["operators"]
        },
    )


def _directories() -> list[Path]:
    """Return the folders of this package's files; an editable install has two, for sources and for built files."""
    import ort_ops

    return [Path(directory).resolve() for directory in ort_ops.__path__]


def _find() -> Path | None:
    named = os.environ.get(LIBRARY_VARIABLE)
    # Absolute, because onnxruntime looks for a bare name in the loader's path.
    if named:
        path = Path(named).absolute()
        return path if path.is_file() else None
    return next(iter(_builds()), None)


def _builds() -> list[Path]:
    """Return every copy of the library in this package's folders, the newest first: a build in place wins."""
    found = [path for directory in _directories() if (path := directory / _FILE_NAME).is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def unused_builds() -> list[str]:
    """Return the paths of builds in this package's folders that differ from the one in use."""
    if LIBRARY_VARIABLE in os.environ:
        return []
    builds = _builds()
    return [str(path) for path in builds[1:] if not filecmp.cmp(builds[0], path, shallow=False)]


def _package_version() -> str | None:
    """Return the version of this package, or None in a source tree that is not installed."""
    return _read_version(metadata.version)


@cache
def _read_version(read: Callable[[str], str]) -> str | None:
    """Read the version once: it takes milliseconds, and every session that is opened asks."""
    try:
        return read(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def describe(path: str | Path, function_name: str) -> Any:
    """Load the library and call one of its functions that write JSON; see ``cpp_ops/register.cc``.

    Args:
        path: of the library.
        function_name: ``mylinear_describe`` or ``mylinear_cuda_describe``; ``mylinear_operators`` of another library
            with kernels, which lists them.

    Raises: OSError if it does not load, AttributeError if it is another library, ValueError if it writes no JSON.
    """
    check_whole(path)
    function = ctypes.CDLL(str(path))[function_name]
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    function.restype = ctypes.c_size_t
    buffer = ctypes.create_string_buffer(16384)
    while (needed := function(buffer, len(buffer)) + 1) > len(buffer):
        buffer = ctypes.create_string_buffer(needed)
    return json.loads(buffer.value)
