"""What the tests of Python kernels share: small models, quiet sessions, and no kernel left behind."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import ort_ops
from ort_ops.opdef.element_types import ONNX_TYPES
from ort_ops.python_kernels.decorator import defined_kernels
from tests.native_support import Array

DOMAIN = "test.python"


def remove_all_kernels() -> None:
    for kernel in defined_kernels():
        kernel.remove()


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def declare(name: str, dtype: str, shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)


def make_model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[str, Any]],
    outputs: dict[str, tuple[str, Any]],
    *,
    version: int = 1,
    constants: dict[str, Array] | None = None,
) -> bytes:
    """A model of these nodes; its own domain at ``version``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [declare(name, *what) for name, what in inputs.items()],
        [declare(name, *what) for name, what in outputs.items()],
        initializer=[numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, version), helper.make_opsetid("mylinear", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def one_node(kernel: Any, dtype: str = "float32", shape: Any = ("b", 3), **attributes: Any) -> bytes:
    """x -> y, both of one element type."""
    rank = [f"d{i}" for i in range(len(shape))]
    return make_model([kernel.make_node(["x"], ["y"], **attributes)], {"x": (dtype, shape)}, {"y": (dtype, rank)})


def quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def session(model: bytes, **options: Any) -> ort_ops.InferenceSession:
    return ort_ops.InferenceSession(model, quiet(), **options)


X = np.array([[1, -2, 3], [0, 5, -6]], np.float32)
