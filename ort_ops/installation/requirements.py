"""Check that the packages that this one needs are installed, new enough, and can be imported.

The lowest versions are in the distribution's own metadata, which come from ``pyproject.toml``. This module imports only
the standard library until a function is called, so that it works where nothing else does.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from ort_ops.errors import MylinearError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "ort-mylinear"
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")
"""Distributions that all install the module ``onnxruntime``; pip does not see that they overwrite each other."""
OLDEST = {"numpy": (1, 26), "onnxruntime": (1, 17)}
"""Modules without which no part of this package runs, and their lowest versions."""
OLDEST_OF_OTHERS = {"ml_dtypes": (0, 5), "onnx": (1, 19)}
"""Modules that are imported when a model needs them."""


class RequirementError(MylinearError, ImportError):
    """A package is missing, too old, or does not import; the message says which and how to mend it."""


@dataclass(frozen=True)
class Fault:
    """A fault of the installation, and what to do about it; ``package`` is the distribution that has it, if any."""

    what: str
    remedy: str
    package: str = ""


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def check() -> None:
    """Check that numpy and onnxruntime can be used, and that the others are installed. Raises: RequirementError."""
    fault = first_import_fault() or next(
        (f for module in OLDEST_OF_OTHERS if (f := _absence(module)) is not None), None
    )
    if fault is not None:
        raise RequirementError(f"{fault.what}; {fault.remedy}")


def import_fault(module: str) -> Fault | None:
    """Return the fault of one of the modules in `OLDEST` and `OLDEST_OF_OTHERS`, or None."""
    lowest = (OLDEST | OLDEST_OF_OTHERS)[module]
    oldest = ".".join(map(str, lowest))
    install = f"pip install '{module}>={oldest}'"
    reinstall = f"pip install --force-reinstall '{module}>={oldest}'"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return Fault(f"{module} is not installed", install, module)
        return Fault(f"{module} does not import: {error}", reinstall, module)
    except Exception as error:  # a binary for another NumPy or another machine fails in many ways
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Fault(f"{module} does not import: {first_line}", reinstall, module)
    version = getattr(imported, "__version__", None)
    if version is None:
        what = f"{module} is not whole: files of it are left, as after uninstalling one of two distributions of it"
        return Fault(what, reinstall, module)
    if _is_older(str(version), oldest):
        return Fault(f"{module} {version} is older than {oldest}", install, module)
    return None


def _is_older(version: str, oldest: str) -> bool:
    """Whether a version is older; False where ``packaging`` is missing, which `version_faults` reports.

    >>> _is_older("1.9", "1.17"), _is_older("1.17.0.dev1", "1.17"), _is_older("a build of my own", "1.17")
    (True, False, False)
    """
    try:
        from packaging.version import InvalidVersion, Version
    except ImportError:
        return False
    try:
        return Version(version).release[:2] < Version(oldest).release  # its release candidates will do
    except InvalidVersion:  # a build of somebody's own
        return False


def _absence(module: str) -> Fault | None:
    """Return the fault of a module that is not installed, without importing it; None if it is."""
    try:
        is_here = importlib.util.find_spec(module) is not None
    except ValueError:  # its entry in sys.modules is not a module
        is_here = False
    oldest = ".".join(map(str, OLDEST_OF_OTHERS[module]))
    return None if is_here else Fault(f"{module} is not installed", f"pip install '{module}>={oldest}'", module)


def first_import_fault() -> Fault | None:
    """Return the fault of the first of `OLDEST` that cannot be used; the later ones need it."""
    if not _is_main_interpreter():
        return Fault(
            "numpy and onnxruntime do not work in a sub-interpreter of Python, where importing the second never ends",
            "use Python's main interpreter, or a process of its own",
        )
    return next((fault for module in OLDEST if (fault := import_fault(module)) is not None), None)


def _is_main_interpreter() -> bool:
    try:
        from ctypes import c_void_p, pythonapi
    except ImportError:  # in a sub-interpreter with a GIL of its own
        return False
    interpreters = [pythonapi.PyInterpreterState_Get, pythonapi.PyInterpreterState_Main]
    for function in interpreters:
        function.restype = c_void_p
    return len({function() for function in interpreters}) == 1


def is_wanted(distribution: str) -> bool:
    """Whether this package requires the distribution on this Python, without extras; True where no metadata says so."""
    found = [requirement for requirement in _requirements() if requirement.name == distribution]
    return not found or any(_applies(requirement) for requirement in found)


def install_command(distribution: str) -> str:
    """Return the command that installs a distribution of the base install, in a version that is new enough."""
    wanted = [str(requirement.specifier) for requirement in _requirements() if requirement.name == distribution]
    return f"pip install '{distribution}{wanted[0] if wanted else ''}'"


def version_faults() -> Iterator[Fault]:
    """Yield the packages that are missing from the base install or too old, by the distribution's metadata."""
    try:
        import packaging  # noqa: F401
    except ImportError:
        yield Fault(
            "packaging is not installed, so that no version can be checked", "pip install packaging", "packaging"
        )
        return
    if installed_version(DISTRIBUTION) is None:
        what = f"{DISTRIBUTION} itself is not installed, so that no version can be checked"
        yield Fault(what, f"pip install . in {DISTRIBUTION}'s source", DISTRIBUTION)
        return
    faults = {fault: None for requirement in _requirements() if (fault := _version_fault(requirement)) is not None}
    yield from faults


def _requirements() -> list[Requirement]:
    """Return the requirements in the distribution's metadata; empty where it, or ``packaging``, is not installed."""
    try:
        from packaging.requirements import Requirement

        return [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except (ImportError, metadata.PackageNotFoundError):
        return []


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _version_fault(requirement: Requirement) -> Fault | None:
    from packaging.version import InvalidVersion, Version

    names = RUNTIMES if requirement.name == "onnxruntime" else (requirement.name,)
    found = {name: version for name in names if (version := installed_version(name)) is not None}
    wanted = f"{requirement.name}{requirement.specifier}"
    if not found:
        if not _applies(requirement):
            return None
        return Fault(f"{requirement.name} is not installed", f"pip install '{wanted}'", requirement.name)
    for name, version in found.items():
        try:
            is_right = requirement.specifier.contains(Version(version), prereleases=True)
        except InvalidVersion:  # a build of somebody's own
            continue
        if not is_right:
            lowest = str(requirement.specifier).removeprefix(">=")
            remedy = f"pip install -U '{name}{requirement.specifier}'"
            return Fault(f"{name} {version} is older than {lowest}", remedy, requirement.name)
    return None


def describe_python() -> str:
    """Name operating system, machine and Python."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
