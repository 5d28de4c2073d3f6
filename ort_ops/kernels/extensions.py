"""Run Python kernels by onnxruntime-extensions, where the C++ library is missing.

Its limits decide the shape of this file: an exception in a kernel, or a float16 tensor,
aborts the whole process; inputs and outputs cannot be optional; an attribute that a node lacks has no default; and a
kernel declared while a session lives crashes it. So the kernels of all operators are declared at once, before the first
registration, and none ever raises.
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
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import Operator
from ort_ops.python_kernels.compute import compute

ELEMENT_TYPE_NAMES = ("float64", "float32", "int64", "int32")
"""What this file passes to Python by onnxruntime-extensions."""

_PACKAGE = "onnxruntime_extensions"
_logger = logging.getLogger(__name__)
_failures = threading.local()
_declared: dict[tuple[str, str, int], OperatorKit] = {}
"""The kits whose kernels were declared: all that were known when the library was first needed."""


def unavailable_reason(kit: OperatorKit) -> str | None:
    """Return why an operator's Python kernel is not available here, and the remedy; None if it is."""
    if importlib.util.find_spec(_PACKAGE) is None:
        if not requirements.is_wanted("onnxruntime-extensions"):
            version = platform.python_version()
            return f"onnxruntime-extensions has no wheel for Python {version}; the C++ library would run the kernel"
        return "onnxruntime-extensions is not installed; pip install onnxruntime-extensions"
    reason = _unfit_reason(kit.operator)
    if reason is None and library_path.cache_info().currsize and _declared.get(kit.operator.key) is not kit:
        reason = "it was added after the first session; add it before"
    return None if reason is None else f"onnxruntime-extensions cannot run it: {reason}; the C++ library would"


def _unfit_reason(operator: Operator) -> str | None:
    """Return why onnxruntime-extensions cannot call an operator of this kind; None if it can."""
    if operator.attributes:
        return "it has attributes"
    if any(parameter.is_optional for parameter in operator.outputs):
        return "it has optional outputs"
    if any(parameter.is_optional and parameter.absent is None for parameter in operator.inputs):
        return "nothing can stand for one of its optional inputs"
    if any(not set(variable.dtypes) & set(ELEMENT_TYPE_NAMES) for variable in operator.variables):
        return f"it takes none of {', '.join(ELEMENT_TYPE_NAMES)}"
    return None


@functools.cache
def library_path() -> str:
    """Declare the kernels and return the library that runs them, for ``register_custom_ops_library``."""
    from onnxruntime_extensions import PyOp, get_library_path, onnx_op

    codes = dict(zip(ELEMENT_TYPE_NAMES, (PyOp.dt_double, PyOp.dt_float, PyOp.dt_int64, PyOp.dt_int32), strict=True))
    for kit in registry.kits():
        operator = kit.operator
        if kit.python_kernel is None or _unfit_reason(operator) is not None:
            continue
        _declared[operator.key] = kit
        for bound in operator.overloads():
            if set(bound.values()) <= set(codes):
                inputs = [codes[bound[parameter.type]] for parameter in operator.inputs]
                outputs = [codes[bound[parameter.type]] for parameter in operator.outputs]
                dtypes = [np.dtype(bound[parameter.type]) for parameter in operator.outputs]
                declare = onnx_op(op_type=operator.op_type, inputs=inputs, outputs=outputs)
                declare(_never_raise(kit.python_kernel(), dtypes))
    path: str = get_library_path()
    return path


def raising_failures(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the result of ``run``, or raise what a kernel of this thread could not raise meanwhile."""
    _failures.error = None
    try:
        return run(*args, **kwargs)
    finally:
        failure, _failures.error = _failures.error, None
        if failure is not None:
            raise failure


def _never_raise(kernel: Any, dtypes: list[np.dtype[Any]]) -> Callable[..., Any]:
    """Keep an exception for `raising_failures`, log it, and return NaN (0 for integers) in place of the results."""

    def guarded(*arrays: NDArray[Any]) -> Any:
        try:
            results = [np.asarray(result, order="C") for result in compute(kernel, arrays)]
        except BaseException as error:  # KeyboardInterrupt too: whatever escapes aborts the process
            if getattr(_failures, "error", None) is None:  # a later node that fails by the NaN matters less
                _failures.error = error
            _logger.error("%s", error)
            results = [_blank(shape, dtype) for shape, dtype in zip(_shapes(kernel, arrays), dtypes, strict=True)]
        return results[0] if len(results) == 1 else tuple(results)

    return guarded


def _blank(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)


def _shapes(kernel: Any, arrays: tuple[NDArray[Any], ...]) -> list[tuple[int, ...]]:
    """Return the shapes of the results; that of the first input where the operator refuses the call."""
    like_first = arrays[0].shape
    try:
        shapes = kernel.operator.infer_shape([array.shape for array in arrays], kernel.operator.defaults)
        return [like_first if shape is None else tuple(int(dim) for dim in shape) for shape in shapes]
    except Exception:
        return [like_first] * len(kernel.operator.outputs)
