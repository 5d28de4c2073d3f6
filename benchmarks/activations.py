"""Time activations in the epilogue beside onnxruntime's own operators; `mylinear bench --activations` does more.

    python benchmarks/activations.py relu               # against FusedGemm, M = 1 to 1024
    python benchmarks/activations.py others             # gelu, gelu_tanh, silu against Gemm and the activation

Every result is compared with float64 by its derived bound first. Contenders take turns, in random order; a figure is
the ratio of the medians of their calls, above 1 where MYLINEAR is faster.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ort_ops.native.library import library_path
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2

Array = np.ndarray[Any, np.dtype[Any]]
OPSET = 20
TYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def nodes_of(contender: str, activation: str, number: int) -> list[onnx.NodeProto]:
    """Return the nodes of one layer, from x and w<number> to y<number>."""
    weight, bias, y = (f"{name}{number}" for name in "wby")
    if contender != "gemm":
        domain, name = MYLINEAR_2.domain, MYLINEAR_2.name
        return [helper.make_node(name, ["x", weight, bias], [y], domain=domain, activation=activation)]
    total = y if activation == "none" else f"sum{number}"
    gemm = helper.make_node("Gemm", ["x", weight, bias], [total], transB=1)
    if activation == "none":
        return [gemm]
    if activation == "silu":
        sigmoid = helper.make_node("Sigmoid", [total], [f"sigmoid{number}"])
        return [gemm, sigmoid, helper.make_node("Mul", [total, f"sigmoid{number}"], [y])]
    if activation.startswith("gelu"):
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        return [gemm, helper.make_node("Gelu", [total], [y], approximate=approximate)]
    return [gemm, helper.make_node(activation.capitalize(), [total], [y])]


def open_session(
    contender: str, activation: str, weights: list[Array], bias: Array, rows: int, threads: int
) -> onnxruntime.InferenceSession:
    """Open a model with one layer for each weight, all of the same x."""
    nodes, tensors, outputs = [], [], []
    dtype = TYPES["float32" if contender == "gemm" else contender]
    for number, weight in enumerate(weights):
        nodes += nodes_of(contender, activation, number)
        tensors.append(numpy_helper.from_array(weight.astype(dtype), f"w{number}"))
        tensors.append(numpy_helper.from_array(bias, f"b{number}"))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, [rows, len(weight)]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, weights[0].shape[1]])]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MYLINEAR_2.domain, MYLINEAR_2.since_version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if contender != "gemm":
        options.register_custom_ops_library(library_path(MYLINEAR_2.name, MYLINEAR_2.since_version))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def exact(activation: str, x: Array) -> Array:
    """Return an activation in float64."""
    result = x
    if activation == "relu":
        result = np.maximum(x, 0)
    elif activation == "gelu":
        result = x / 2 * np.vectorize(lambda a: math.erfc(-a / math.sqrt(2)), otypes=[np.float64])(x)
    elif activation == "gelu_tanh":
        result = x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    elif activation == "silu":
        result = x / (1 + np.exp(-x))
    return result


def check(y: Array, x: Array, weight: Array, bias: Array, activation: str, name: str) -> None:
    """Check a result of up to 64 rows by the bound of the sum, times the Lipschitz constant, and of the activation."""
    x, weight, bias = (array.astype(np.float64) for array in (x[:64], weight, bias))
    total = x @ weight.T + bias
    terms = np.abs(x) @ np.abs(weight).T + np.abs(bias)
    bound = 1.13 * (weight.shape[1] + 1) * 2.0**-24 * terms + 8 * 2.0**-24 * np.abs(total)
    error = np.abs(y[:64] - exact(activation, total))
    if not np.all(error <= bound):
        raise SystemExit(f"{name} is wrong: {np.max(error / bound)} bounds")


def measure(
    contenders: list[str], activation: str, rows: int, sizes: tuple[int, int], layers: int, options: argparse.Namespace
) -> dict[str, float]:
    """Return the median time of a layer of each contender, in seconds."""
    generator = np.random.default_rng(1)
    in_features, out_features = sizes
    x = generator.standard_normal((rows, in_features), dtype=np.float32)
    bias = generator.standard_normal(out_features, dtype=np.float32)
    scale = np.float32(in_features**-0.5)
    weights = [generator.standard_normal((out_features, in_features), dtype=np.float32) * scale] * layers
    calls = {}
    for contender in contenders:
        session = open_session(contender, activation, weights, bias, rows, options.threads)
        bound = session.io_binding()
        bound.bind_cpu_input("x", x)
        outputs = [np.empty((rows, out_features), np.float32) for _ in weights]
        for number, output in enumerate(outputs):
            bound.bind_output(f"y{number}", "cpu", 0, np.float32, output.shape, output.ctypes.data)
        session.run_with_iobinding(bound)
        stored = weights[0].astype(TYPES["float32" if contender == "gemm" else contender])
        check(outputs[0], x, stored, bias, activation, contender)
        calls[contender] = (session, bound, outputs)
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    end = time.perf_counter() + options.budget
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for contender in random.sample(contenders, len(contenders)):
            session, bound, _ = calls[contender]
            session.run_with_iobinding(bound)
            inner = max(1, round(2e-4 / times[contender][0])) if times[contender] else 1
            start = time.perf_counter()
            for _ in range(inner):
                session.run_with_iobinding(bound)
            times[contender].append((time.perf_counter() - start) / inner / layers)
    return {contender: statistics.median(values) for contender, values in times.items()}


def show(rows: int, sizes: tuple[int, int], activation: str, found: dict[str, float]) -> list[float]:
    """Print one case; return the ratios."""
    ours = [contender for contender in found if contender != "gemm"]
    ratios = [found["gemm"] / found[contender] for contender in ours]
    text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in zip(ours, ratios, strict=True))
    print(
        f"M={rows:<5}{sizes[0]} x {sizes[1]:<6}{activation:10} gemm {found['gemm'] * 1e6:9.1f} us; {text}", flush=True
    )
    return ratios


def main() -> None:
    """Time what the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["relu", "others"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each case")
    parser.add_argument("--M", default="", help="numbers of rows, such as 1,4")
    parser.add_argument("--shapes", default="", help="in_features x out_features, such as 768x3072,64x64")
    options = parser.parse_args()
    wanted = [int(rows) for rows in options.M.split(",") if rows]
    shapes = [(int(a), int(b)) for a, b in (shape.split("x") for shape in options.shapes.split(",") if shape)]
    all_ratios: list[float] = []
    activations = ["relu"] if options.part == "relu" else ["gelu", "gelu_tanh", "silu"]
    for sizes in shapes or [(64, 64), (256, 256), (768, 768), (768, 3072), (3072, 768), (1024, 4096)]:
        for rows in wanted or [1, 4, 16, 64, 256, 1024]:
            for activation in activations:
                all_ratios += show(
                    rows, sizes, activation, measure(["gemm", "float32"], activation, rows, sizes, 1, options)
                )
    mean = math.exp(statistics.fmean(map(math.log, all_ratios)))
    print(f"geometric mean {mean:.3f}, least {min(all_ratios):.2f}")


if __name__ == "__main__":
    main()
