"""The Python kernel where the C++ library is missing: run by onnxruntime-extensions; float64 and float32.

What onnxruntime-extensions does decides the shape of this file: an exception in a kernel, or a float16 tensor,
aborts the whole process; inputs cannot be optional; and a kernel declared while a session lives crashes it.
So every kernel is declared at once, before the first registration, and none ever raises.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import platform
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.installation import requirements
from ort_ops.operators.mylinear.contract import DOMAIN, NAME
from ort_ops.operators.mylinear.numpy_kernel import compute

ELEMENT_TYPE_NAMES = ("float64", "float32")
"""What onnxruntime-extensions can pass to Python and the operator accepts."""

_PACKAGE = "onnxruntime_extensions"
_logger = logging.getLogger(__name__)
_failures = threading.local()


def unavailable_reason() -> str | None:
    """Why the kernel cannot be had here, and the remedy; None if it can."""
    if importlib.util.find_spec(_PACKAGE) is not None:
        return None
    if not requirements.is_wanted("onnxruntime-extensions"):
        version = platform.python_version()
        return f"onnxruntime-extensions has no wheel for Python {version}; the C++ library would run the kernel"
    return "onnxruntime-extensions is not installed; pip install onnxruntime-extensions"


@functools.cache
def library_path() -> str:
    """Declare the kernels and return the library that runs them, for ``register_custom_ops_library``."""
    from onnxruntime_extensions import PyOp, get_library_path, onnx_op

    codes = {"float64": PyOp.dt_double, "float32": PyOp.dt_float}
    for name in ELEMENT_TYPE_NAMES:
        declare = onnx_op(op_type=f"{DOMAIN}::{NAME}", inputs=[codes[name]] * 3, outputs=[codes[name]])
        declare(_never_raise(compute))
    path: str = get_library_path()
    return path


def raise_failure() -> None:
    """Raise what the kernel could not raise during this thread's last run, if anything; once."""
    failure = getattr(_failures, "error", None)
    _failures.error = None
    if failure is not None:
        raise failure


def _never_raise(kernel: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """Keep an exception for `raise_failure`, log it, and return NaN where the result would be."""

    def guarded(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.ascontiguousarray(kernel(x, weight, bias))
        except BaseException as error:  # KeyboardInterrupt too: whatever escapes aborts the process
            _failures.error = error
            _logger.error("%s", error)
            return np.full((*x.shape[:-1], *weight.shape[:1]), np.nan, x.dtype)

    return guarded
