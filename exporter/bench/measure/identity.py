"""Identify what a result depends on: machine, versions, library, options. Results of two identities do not mix."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from exporter.bench.measure.ceilings import cache_sizes
from exporter.bench.measure.cells import Plan, usable_cores
from ort_ops.native import cuda
from ort_ops.native import library as native

PACKAGES = ("ort-mylinear", "onnxruntime", "onnxruntime-gpu", "numpy", "torch", "openvino", "zentorch")
_CPUINFO = Path("/proc/cpuinfo")


def identify(plan: Plan) -> dict[str, Any]:
    """Return all that results depend on, as plain data.

    Raises: NativeLibraryError if the C++ library is not there.
    """
    library = Path(native.library_path())
    found = {
        "machine": {
            "cpu": cpu_name(),
            "architecture": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "cores": usable_cores(),
            "memory_mib": memory_nbytes() >> 20,
            "last_cache_mib": max(cache_sizes().values(), default=0) >> 20,
        },
        "versions": {"Python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "library": {
            "isa": native.status().isa,
            "compiler": native.status().compiler,
            "sha256": _sha256(library),
        },
        "plan": plan.as_dict(),
    }
    return found | {"gpu": _gpu()} if plan.device == "cuda" else found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say how two identities differ, one line for each difference.

    >>> differences({"machine": {"cpu": "A", "cores": 2}}, {"machine": {"cpu": "B", "cores": 2}})
    ["machine: cpu was 'A', is 'B'"]
    """
    found = []
    for part in now:
        old, new = before.get(part), now[part]
        if not isinstance(old, dict):
            found.append(f"{part} is missing")
            continue
        found += [f"{part}: {k} was {old.get(k)!r}, is {new[k]!r}" for k in new if old.get(k) != new[k]]
    return found


def cpu_name() -> str:
    """Return the CPU's name as the system gives it."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def memory_nbytes() -> int:
    """Return the bytes of this machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _gpu() -> dict[str, Any]:
    """Name the GPU and the backend that runs on it, which `cuda.require` has found."""
    import torch

    backend = cuda.status()
    return {
        "name": torch.cuda.get_device_name(),
        "driver": backend.driver,
        "toolkit": backend.toolkit,
        "sha256": None if backend.path is None else _sha256(Path(backend.path)),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
