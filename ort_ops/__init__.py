"""Run models with operators of one's own in ONNX Runtime.

>>> import numpy as np, ort_ops
>>> session = ort_ops.InferenceSession("models/linear.onnx")
>>> session.run(None, {"x": np.array([[3.0, 2.0]])})[0].round(3)
array([[16.]])

`register` does the same for session options of your own; `available_kernels` lists the kernels; `library_path` names
the C++ library for hosts in other languages, `include_dir` the headers for kernels in C++ (``docs/cpp_kernels.md``);
`python_kernel` makes a function the kernel of an operator of your own (``docs/python_kernels.md``); `Trainer` trains
(``docs/training_in_onnxruntime.md``); `load_bundle` loads what `mylinear bundle` sealed (``docs/bundles.md``). This
package never imports torch.
Names are imported when they are first used, onnx and onnxruntime-extensions only when a model or a kernel needs them.
"""

import atexit
import sys

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from typing import Any

    from ort_ops.bundle.load import Bundle, load_bundle
    from ort_ops.bundle.manifest import BundleError
    from ort_ops.native.library import cmake_dir, include_dir, library_path
    from ort_ops.opdef.operator import ContractError, DefinitionError
    from ort_ops.opdef.parameters import TypeVariable as TensorType
    from ort_ops.opdef.signature import (
        BFloat16,
        Bool,
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
        UInt8,
    )
    from ort_ops.operators.mylinear.contract import MYLINEAR
    from ort_ops.python_kernels.decorator import PythonKernel, PythonKernelError, like_first, python_kernel
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
    from ort_ops.training.errors import TrainingError
    from ort_ops.training.trainer import Trainer

__all__ = [
    "MYLINEAR",
    "BFloat16",
    "Bool",
    "Bundle",
    "BundleError",
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
    "Trainer",
    "TrainingError",
    "UInt8",
    "available_kernels",
    "cmake_dir",
    "include_dir",
    "library_path",
    "like_first",
    "load_bundle",
    "python_kernel",
    "register",
]

_MODULES = {
    "MYLINEAR": "operators.mylinear.contract",
    "BFloat16": "opdef.signature",
    "Bool": "opdef.signature",
    "Bundle": "bundle.load",
    "BundleError": "bundle.manifest",
    "ContractError": "opdef.operator",
    "CpuFallbackWarning": "session",
    "DefinitionError": "opdef.operator",
    "Element": "opdef.signature",
    "Float": "opdef.signature",
    "Float16": "opdef.signature",
    "Float32": "opdef.signature",
    "Float64": "opdef.signature",
    "FunctionBodyWarning": "session",
    "InferenceSession": "session",
    "Int32": "opdef.signature",
    "Int64": "opdef.signature",
    "Integer": "opdef.signature",
    "Kernel": "session",
    "KernelError": "session",
    "Number": "opdef.signature",
    "Out": "opdef.signature",
    "PythonKernel": "python_kernels.decorator",
    "PythonKernelError": "python_kernels.decorator",
    "SessionOptions": "session_options",
    "TensorType": "opdef.signature",
    "Trainer": "training.trainer",
    "TrainingError": "training.errors",
    "UInt8": "opdef.signature",
    "available_kernels": "session",
    "cmake_dir": "native.library",
    "include_dir": "native.library",
    "library_path": "native.library",
    "like_first": "python_kernels.decorator",
    "load_bundle": "bundle.load",
    "python_kernel": "python_kernels.decorator",
    "register": "session",
}


def __getattr__(name: str) -> "Any":
    """Import the module that has ``name``, and take it from there.

    Raises: RequirementError if numpy or onnxruntime is missing, too old, or does not import.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'ort_ops' has no attribute '{name}'")
    from importlib import import_module

    from ort_ops.installation import requirements

    requirements.check()
    value = globals()[name] = getattr(import_module(f"ort_ops.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@atexit.register  # at import, so that hooks registered later, which run earlier, can still use sessions
def _end_calls_into_python() -> None:
    trampoline = sys.modules.get("ort_ops.python_kernels.trampoline")
    if trampoline is not None:
        trampoline.detach()
