"""`diagnose`: what is installed, which kernels there are, and for each fault its remedy. Needs no torch."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from ort_ops import cuda, native
from ort_ops.session import available_kernels

PACKAGES = ("ort-mylinear", "numpy", "onnx", "onnxruntime", "onnxruntime-extensions", "torch", "onnxscript")
_OPTIONAL = {"torch", "onnxscript"}
_OLDEST_RUNTIME = (1, 17)
# Other distributions of the same module; pip does not see that they overwrite each other.
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")


@dataclass(frozen=True)
class Fault:
    """Something that is wrong or missing, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; `as_dict` is plain data, for JSON.

    Attributes:
        platform: operating system, machine and Python.
        packages: version by distribution; None where it is not installed.
        library: of the C++ kernels; cuda: their CUDA backend, which is a fault only where it was built and fails.
        kernels: as `ort_ops.available_kernels` has them.
        faults: empty on a healthy machine.
    """

    platform: str
    packages: dict[str, str | None]
    library: native.NativeStatus
    cuda: cuda.CudaStatus
    kernels: list[dict[str, Any]]
    faults: list[Fault] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists and strings."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at this installation. Never raises."""
    packages = {name: _version(name) for name in PACKAGES}
    runtimes = {name: found for name in _RUNTIMES if (found := _version(name))}
    packages |= runtimes
    kernels = available_kernels()
    backend = cuda.status()
    faults = [
        Fault(f"the {kernel.name} kernel is not available", kernel.reason)
        for kernel in kernels
        if kernel.reason is not None and (kernel.name != "cuda" or backend.path is not None)
    ]
    for name in PACKAGES:
        if packages[name] is None and name not in _OPTIONAL and not (name == "onnxruntime" and runtimes):
            faults.append(Fault(f"{name} is not installed", f"pip install {name}"))
    if len(runtimes) > 1:
        names = " and ".join(runtimes)
        faults.append(Fault(f"{names} overwrite each other", f"pip uninstall {' '.join(runtimes)}, then install one"))
    for name, version in runtimes.items():
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_RUNTIME:
            faults.append(Fault(f"{name} {version} is older than 1.17", f"pip install -U {name}"))
    if (packages["torch"] is None) != (packages["onnxscript"] is None):
        present = "torch" if packages["torch"] else "onnxscript"
        faults.append(Fault(f"only {present} of torch and onnxscript is here", "pip install 'ort-mylinear[export]'"))
    return Diagnosis(
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        packages=packages,
        library=native.status(),
        cuda=backend,
        kernels=[{**asdict(kernel), "is_available": kernel.is_available} for kernel in kernels],
        faults=faults,
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
