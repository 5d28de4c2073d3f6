"""Linear layers with an activation behind them, in every spelling that a file may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Nodes = tuple[list[onnx.NodeProto], dict[str, float]]
K, N = 6, 5
_RNG = np.random.default_rng(3)
WEIGHT = _RNG.standard_normal((K, N)).astype(np.float32)
BIAS = _RNG.standard_normal(N).astype(np.float32)


def make(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=f"node_{output}", **attributes)


def plain(op_type: str, **attributes: Any) -> Callable[[], Nodes]:
    return lambda: ([make(op_type, "s", "y", **attributes)], {})


def silu(*, is_turned: bool = False) -> Nodes:
    return [make("Sigmoid", "s", "gate"), make("Mul", "gate s" if is_turned else "s gate", "y")], {}


def gelu_by_division() -> Nodes:
    """Return what torch's TorchScript exporter writes."""
    nodes = [make("Div", "s root", "d"), make("Erf", "d", "e"), make("Add", "e one", "a")]
    return [*nodes, make("Mul", "s a", "m"), make("Mul", "m half", "y")], {"root": math.sqrt(2), "one": 1, "half": 0.5}


def gelu_half_first() -> Nodes:
    nodes = [make("Mul", "s half", "h"), make("Mul", "s root", "d"), make("Erf", "d", "e"), make("Add", "one e", "a")]
    return [*nodes, make("Mul", "h a", "y")], {"root": math.sqrt(0.5), "one": 1, "half": 0.5}


def gelu_tanh_by_pow() -> Nodes:
    nodes = [make("Pow", "s three", "c"), make("Mul", "c cubic", "k"), make("Add", "s k", "bent")]
    nodes += [make("Mul", "bent scale", "z"), make("Tanh", "z", "t"), make("Add", "t one", "a")]
    numbers = {"three": 3, "cubic": 0.044715, "scale": math.sqrt(2 / math.pi), "one": 1, "half": 0.5}
    return [*nodes, make("Mul", "s half", "h"), make("Mul", "h a", "y")], numbers


def gelu_tanh_factored() -> Nodes:
    nodes = [
        make("Mul", "s s", "q"),
        make("Mul", "q cubic", "k"),
        make("Add", "k one", "bent"),
        make("Mul", "s bent", "v"),
    ]
    nodes += [make("Mul", "v scale", "z"), make("Tanh", "z", "t"), make("Add", "t one", "a"), make("Mul", "s a", "m")]
    numbers = {"cubic": 0.044715, "scale": math.sqrt(2 / math.pi), "one": 1, "half": 0.5}
    return [*nodes, make("Mul", "m half", "y")], numbers


def gelu_of(root: float) -> Nodes:
    nodes, numbers = gelu_by_division()
    return nodes, {**numbers, "root": root}


def quick_gelu() -> Nodes:
    return [make("Mul", "s slope", "v"), make("Sigmoid", "v", "gate"), make("Mul", "s gate", "y")], {"slope": 1.702}


def silu_by_exp() -> Nodes:
    nodes = [make("Neg", "s", "n"), make("Exp", "n", "e"), make("Add", "e one", "a")]
    return [*nodes, make("Div", "s a", "y")], {"one": 1}


SPELLINGS: dict[str, tuple[str, Callable[[], Nodes]]] = {
    "Relu": ("relu", plain("Relu")),
    "Sigmoid": ("sigmoid", plain("Sigmoid")),
    "Tanh": ("tanh", plain("Tanh")),
    "Gelu": ("gelu", plain("Gelu")),
    "Gelu tanh": ("gelu_tanh", plain("Gelu", approximate="tanh")),
    "Sigmoid+Mul": ("silu", silu),
    "Mul of Sigmoid": ("silu", lambda: silu(is_turned=True)),
    "x / (1 + exp(-x))": ("silu", silu_by_exp),
    "Erf, Div": ("gelu", gelu_by_division),
    "Erf, half first": ("gelu", gelu_half_first),
    "Tanh, Pow": ("gelu_tanh", gelu_tanh_by_pow),
    "Tanh, factored": ("gelu_tanh", gelu_tanh_factored),
}
"""(activation, nodes from ``s`` to ``y``)"""


def model_with(
    nodes: Nodes,
    *,
    layer: str = "MatMul",
    dtype: type[np.generic] = np.float32,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 20,
    between: list[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """Return a linear layer whose result is ``s``, the nodes behind it, and their numbers as initializers.

    Args:
        layer: ``MatMul`` for MatMul and Add, or ``Gemm``.
        between: nodes from ``sum`` to ``s``.
    """
    total = "s" if between is None else "sum"
    if layer == "Gemm":
        linear = [make("Gemm", "x w b", total)]
    else:
        linear = [make("MatMul", "x w", "product"), make("Add", "product b", total)]
    arrays = {"w": WEIGHT.astype(dtype), "b": BIAS.astype(dtype)}
    arrays |= {name: np.array(number, dtype) for name, number in nodes[1].items()}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [*linear, *(between or []), *nodes[0]],
        "g",
        [helper.make_tensor_value_info("x", onnx_type, ["batch", K])],
        [helper.make_tensor_value_info(name, onnx_type, None) for name in outputs],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
