"""Run MYLINEAR models in ONNX Runtime.

>>> import numpy as np, ort_ops
>>> session = ort_ops.InferenceSession("models/linear.onnx")
>>> session.run(None, {"x": np.array([[3.0, 2.0]])})[0].round(3)
array([[16.]])

`register` does the same for session options of your own; `available_kernels` says what there is; `library_path` names
the C++ library for hosts in other languages; `python_kernel` makes a function the kernel of an operator of your own
(``docs/python_kernels.md``). This package never imports torch, and imports onnx and
onnxruntime-extensions only when a model or a kernel needs them.
"""

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
    "TensorType",
    "UInt8",
    "available_kernels",
    "library_path",
    "like_first",
    "python_kernel",
    "register",
]
