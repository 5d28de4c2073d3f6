"""Find out whether a session can use the CUDA backend of the C++ library, and what is missing if not.

The library that onnxruntime registers knows no CUDA. It opens ``libmylinear_cuda.so`` beside it when the config entry
`CONFIG_KEY` of the session options, or the environment variable of the same meaning, asks for that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from ort_ops.native import library as native
from ort_ops.native.library_file import check_whole

PROVIDER = "CUDAExecutionProvider"
CONFIG_KEY = "mylinear.cuda"
"""``0``, ``1`` (CUDA kernels where available) or ``require``; set it before the library is registered."""
LIBRARY_VARIABLE = "MYLINEAR_CUDA_LIBRARY"
"""Environment variable that names another build of the backend."""

_FILE_NAME = "libmylinear_cuda.so"
_BUILD = "MYLINEAR_REQUIRE_NATIVE=1 pip install . -C cmake.define.MYLINEAR_CUDA=ON` in ort-mylinear's source builds it"


@dataclass(frozen=True)
class CudaStatus:
    """The state of the CUDA backend.

    Attributes:
        reason: why sessions cannot use it and how to mend that; None if they can.
        path: the file; None if it was not built.
        toolkit: the CUDA version that it was built with; driver: the newest CUDA version that the driver knows.
        architectures: what it has machine code for, such as ``80 89 90``.
        devices: the devices of this machine, such as ``sm_90``.
        cublaslt: version of the cuBLASLt that it would use; cublaslt_error: why there is none yet.
    """

    reason: str | None
    path: str | None = None
    toolkit: str | None = None
    driver: str | None = None
    architectures: str = ""
    devices: tuple[str, ...] = ()
    cublaslt: int | None = None
    cublaslt_error: str | None = None

    @property
    def detail(self) -> str:
        """One line, for tables."""
        return f"cuBLASLt and GEMV on {', '.join(self.devices)}" if self.reason is None else ""


def status() -> CudaStatus:
    """Find out whether a session could use the CUDA kernels. Never raises.

    The backend is loaded, and the driver asked for its devices, only where it was built and onnxruntime has its CUDA
    provider, so on a machine without CUDA this does next to nothing.
    """
    library = native.status()
    if library.reason is not None or library.path is None:
        return CudaStatus(f"it needs the C++ library: {library.reason}")
    path = _path(library.path)
    if not path.is_file():
        if LIBRARY_VARIABLE in os.environ:
            return CudaStatus(f"{LIBRARY_VARIABLE} names no file: {path}; correct or unset the variable")
        return CudaStatus(f"this installation was built without it ({path.name} is not there): `{_BUILD}")
    if PROVIDER not in onnxruntime.get_available_providers():
        return CudaStatus(no_provider(), str(path))
    try:
        check_whole(path)
        described = native.describe(library.path, "mylinear_cuda_describe")
    except (OSError, AttributeError, ValueError) as error:
        return CudaStatus(f"{library.path} cannot tell ({error}); install it again", str(path))
    backend: dict[str, Any] = described["backend"] or {}
    return CudaStatus(
        reason=described["reason"],
        path=described["path"],
        toolkit=backend.get("toolkit"),
        driver=backend.get("driver"),
        architectures=backend.get("architectures", ""),
        devices=tuple(backend.get("devices", ())),
        cublaslt=backend.get("cublaslt"),
        cublaslt_error=backend.get("cublaslt_error"),
    )


def missing(path: str | Path) -> str | None:
    """Return why no session can use the CUDA kernels in a library of another package, with the remedy; None if it can.

    The library is asked where it says so itself (``ort/cuda/kernel.h`` of the C++ headers).
    """
    if PROVIDER not in onnxruntime.get_available_providers():
        return no_provider()
    try:
        reason: str | None = native.describe(path, "mylinear_cuda_missing")
    except AttributeError:
        return None
    except (OSError, ValueError) as error:
        return f"{path} does not load ({error}); install its package again"
    return reason


def no_provider() -> str:
    """Say that onnxruntime has no CUDA provider here, with the remedy."""
    version = onnxruntime.__version__
    return f"onnxruntime {version} is without the CUDA provider; install onnxruntime-gpu in its place"


def library_path() -> str:
    """Return the path of the library whose CUDA kernels a session can have.

    Raises: NativeLibraryError where it cannot, with the reason and the remedy.
    """
    found = status()
    if found.reason is not None:
        raise native.NativeLibraryError(found.reason)
    return native.library_path()


def asks_for_cuda(providers: Sequence[Any] | None) -> bool:
    """Whether a list of execution providers, as onnxruntime takes it, contains CUDA's.

    >>> asks_for_cuda(["CPUExecutionProvider"]), asks_for_cuda([("CUDAExecutionProvider", {"device_id": 0})])
    (False, True)
    """
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers or ()]
    return PROVIDER in names


def _path(library: str) -> Path:
    return Path(os.environ.get(LIBRARY_VARIABLE) or Path(library).parent / _FILE_NAME)
