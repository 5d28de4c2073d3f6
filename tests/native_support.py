"""What the tests of the C++ kernels share: one-node models, sessions, and the error in units of its bound.

Imports neither torch nor a test framework, so that it also runs beside the oldest onnxruntime.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ort_ops.native import library as native
from ort_ops.numerics.compare import compare
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64

DTYPES: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Case:
    """One call: ``x [*leading, K]``, ``weight [N, K]``, and a bias or none."""

    leading: tuple[int, ...]
    N: int
    K: int
    dtype: str = "float32"
    has_bias: bool = True

    def __str__(self) -> str:
        leading = "x".join(map(str, self.leading)) or "vector"
        return f"{leading}-{self.N}-{self.K}-{self.dtype}{'' if self.has_bias else '-nobias'}"

    def sample(self, scale: float = 1.0) -> tuple[Array, Array, Array | None]:
        """Draw x, weight and bias, seeded by the case."""
        rng = np.random.default_rng(abs(hash((self.leading, self.N, self.K))) % 2**32)
        dtype = DTYPES[self.dtype]

        def draw(*shape: int) -> Array:
            return (rng.standard_normal(shape) * scale).astype(dtype)

        x, weight, bias = draw(*self.leading, self.K), draw(self.N, self.K), draw(self.N)
        return x, weight, bias if self.has_bias else None


def session_options(isa: str | None = None, **entries: str) -> onnxruntime.SessionOptions:
    """Make options with the C++ kernels of one ISA registered."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    before = os.environ.get(native.ISA_VARIABLE)
    try:
        if isa is not None:
            os.environ[native.ISA_VARIABLE] = isa
        options.register_custom_ops_library(native.library_path())
    finally:
        if isa is not None:
            del os.environ[native.ISA_VARIABLE]
            if before is not None:
                os.environ[native.ISA_VARIABLE] = before
    return options


def session(
    model: onnx.ModelProto | bytes | str, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Open a model with the C++ kernels on the CPU."""
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    return onnxruntime.InferenceSession(model, options or session_options(), providers=["CPUExecutionProvider"])


def make_model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: dict[str, Array] | None = None,
) -> onnx.ModelProto:
    """Make a model that every supported onnxruntime can read."""
    tensors = [numpy_helper.from_array(value, name) for name, value in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializer=tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MYLINEAR.domain, MYLINEAR.since_version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def node(*inputs: str, output: str = "Y", **attributes: Any) -> onnx.NodeProto:
    """Make one MYLINEAR node."""
    return helper.make_node(MYLINEAR.name, list(inputs), [output], domain=MYLINEAR.domain, **attributes)


def value(name: str, dtype: str, shape: Any) -> onnx.ValueInfoProto:
    """Make the declaration of a graph input or output."""
    return helper.make_tensor_value_info(name, MYLINEAR.element_type(dtype).onnx_type, shape)


def one_node_model(dtype: str, rank: int, constants: dict[str, Array], has_bias: bool = True) -> onnx.ModelProto:
    """Make a model of one node, its W and B computed where they are not among the constants.

    bfloat16 comes and goes as float32, exactly: onnxruntime's Python takes no bfloat16 arrays.
    """
    ranks = {"X": rank, "W": 2, "B": 1}
    names = ["X", "W", "B"] if has_bias else ["X", "W"]
    fed = [name for name in names if name not in constants]
    shapes = {name: [f"{name}{axis}" for axis in range(ranks[name])] for name in fed}
    if dtype != "bfloat16":
        inputs = [value(name, dtype, shapes[name]) for name in fed]
        output = value("Y", dtype, [f"Y{axis}" for axis in range(rank)])
        return make_model([node(*names)], inputs, [output], constants)
    nodes = [helper.make_node("Cast", [f"{name}_f32"], [name], to=TensorProto.BFLOAT16) for name in fed]
    nodes += [node(*names), helper.make_node("Cast", ["Y"], ["Y_f32"], to=TensorProto.FLOAT)]
    inputs = [value(f"{name}_f32", "float32", shapes[name]) for name in fed]
    output = value("Y_f32", "float32", [f"Y{axis}" for axis in range(rank)])
    return make_model(nodes, inputs, [output], constants)


def run(
    x: Array, weight: Array, bias: Array | None, constant: bool, options: onnxruntime.SessionOptions | None = None
) -> Array:
    """Compute one product with the C++ kernels, weight and bias as constants of the model or as its inputs."""
    dtype = x.dtype.name
    arguments = {"W": weight} | ({} if bias is None else {"B": bias})
    model = one_node_model(dtype, x.ndim, arguments if constant else {}, has_bias=bias is not None)
    return call(session(model, options), {"X": x} | ({} if constant else arguments))


def call(opened: onnxruntime.InferenceSession, feeds: dict[str, Array]) -> Array:
    """Run a session of `one_node_model`."""
    dtype = feeds["X"].dtype
    if dtype == ml_dtypes.bfloat16:
        feeds = {f"{name}_f32": array.astype(np.float32) for name, array in feeds.items()}
    result: Array = opened.run(None, feeds)[0]
    return result.astype(dtype)


def error_in_bounds(y: Array, x: Array, weight: Array, bias: Array | None) -> float:
    """Return the largest error of y in units of its derived bound: 1 or less is right, infinite for misplaced NaN."""
    assert y.dtype == x.dtype, f"{y.dtype} instead of {x.dtype}"
    element_type = MYLINEAR.element_type(x.dtype.name)
    bound = linear_bound(x, weight, bias, element_type)
    return compare(y, linear_float64(x, weight, bias), bound, element_type).max_in_bounds
