"""Run MYLINEAR models in ONNX Runtime.

>>> import numpy as np, ort_ops
>>> session = ort_ops.InferenceSession("models/linear.onnx")
>>> session.run(None, {"x": np.array([[3.0, 2.0]])})[0].round(3)
array([[16.]])

`register` does the same for session options of your own; `available_kernels` says what there is; `library_path` names
the C++ library for hosts in other languages; `python_kernel` makes a function the kernel of an operator of your own
(``docs/python_kernels.md``). This package never imports torch. Names are imported when they are
first used, onnx and onnxruntime-extensions only when a model or a kernel needs them.
"""

import atexit
import sys

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from typing import Any

    from ort_ops.contract import MYLINEAR
    from ort_ops.native import library_path
    from ort_ops.operator import ContractError
    from ort_ops.python_op import PythonKernel, PythonKernelError, like_first, python_kernel
    from ort_ops.session import (
        CpuFallbackWarning,
        FunctionBodyWarning,
        InferenceSession,
        Kernel,
        KernelError,
        available_kernels,
        register,
    )
    from ort_ops.session_options import SessionOptions
    from ort_ops.signature import (
        BFloat16,
        Bool,
        DefinitionError,
        Element,
        Float,
        Float16,
        Float32,
        Float64,
        Int32,
        Int64,
        Integer,
        Number,
        Out,
        TensorType,
        UInt8,
    )

__all__ = [
    "MYLINEAR",
    "BFloat16",
    "Bool",
    "ContractError",
    "CpuFallbackWarning",
    "DefinitionError",
    "Element",
    "Float",
    "Float16",
    "Float32",
    "Float64",
    "FunctionBodyWarning",
    "InferenceSession",
    "Int32",
    "Int64",
    "Integer",
    "Kernel",
    "KernelError",
    "Number",
    "Out",
    "PythonKernel",
    "PythonKernelError",
    "SessionOptions",
    "TensorType",
    "UInt8",
    "available_kernels",
    "library_path",
    "like_first",
    "python_kernel",
    "register",
]

_MODULES = {
    "MYLINEAR": "contract",
    "BFloat16": "signature",
    "Bool": "signature",
    "ContractError": "operator",
    "CpuFallbackWarning": "session",
    "DefinitionError": "signature",
    "Element": "signature",
    "Float": "signature",
    "Float16": "signature",
    "Float32": "signature",
    "Float64": "signature",
    "FunctionBodyWarning": "session",
    "InferenceSession": "session",
    "Int32": "signature",
    "Int64": "signature",
    "Integer": "signature",
    "Kernel": "session",
    "KernelError": "session",
    "Number": "signature",
    "Out": "signature",
    "PythonKernel": "python_op",
    "PythonKernelError": "python_op",
    "SessionOptions": "session_options",
    "TensorType": "signature",
    "UInt8": "signature",
    "available_kernels": "session",
    "library_path": "native",
    "like_first": "python_op",
    "python_kernel": "python_op",
    "register": "session",
}


def __getattr__(name: str) -> "Any":
    """Import the module that has ``name``, and take it from there.

    Raises: RequirementError if numpy or onnxruntime is missing, too old, or does not import.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'ort_ops' has no attribute '{name}'")
    from importlib import import_module

    from ort_ops import requirements

    requirements.check()
    value = globals()[name] = getattr(import_module(f"ort_ops.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@atexit.register  # at import, so that hooks registered later, which run earlier, can still use sessions
def _end_calls_into_python() -> None:
    trampoline = sys.modules.get("ort_ops.trampoline")
    if trampoline is not None:
        trampoline.detach()
