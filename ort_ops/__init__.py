"""Run MYLINEAR models in ONNX Runtime.

>>> import numpy as np, ort_ops
>>> session = ort_ops.InferenceSession("models/linear.onnx")
>>> session.run(None, {"x": np.array([[3.0, 2.0]])})[0].round(3)
array([[16.]])

`register` does the same for session options of your own; `available_kernels` says what there is; `library_path` names
the C++ library for hosts in other languages. This package never imports torch, and imports onnx and
onnxruntime-extensions only when a model or a kernel needs them.
"""

from ort_ops.contract import MYLINEAR
from ort_ops.native import library_path
from ort_ops.operator import ContractError
from ort_ops.session import (
    FunctionBodyWarning,
    InferenceSession,
    Kernel,
    KernelError,
    available_kernels,
    register,
)

__all__ = [
    "MYLINEAR",
    "ContractError",
    "FunctionBodyWarning",
    "InferenceSession",
    "Kernel",
    "KernelError",
    "available_kernels",
    "library_path",
    "register",
]
