"""Time the backward of a linear layer in onnxruntime: MYLINEARGRAD beside MatMul, Gemm and ReduceSum.

    python benchmarks/linear_backward.py [--threads 1] [--dtype float32 float64] [--seconds 1] [--outputs GX GW GB]

Both are sessions of onnxruntime on the same inputs, with bound inputs and outputs, and all inputs are fed: in training
the weight changes from step to step. Results are checked against the bound before anything is timed; the contenders
take turns. A ratio above 1 means that MYLINEARGRAD is faster. onnxruntime has no kernels for bfloat16, so there is only
our own time. On a shared machine, `chrt -f 50 taskset -c 1` keeps others off the core.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from exporter.bench.backends.arrays import Array, aligned, numpy_dtype
from exporter.bench.backends.contestants import open_session
from exporter.bench.measure.timing import Run, measure
from ort_ops.console.table import format_table
from ort_ops.numerics.bound import ROUNDED
from ort_ops.numerics.compare import compare
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.mylineargrad.kit import KIT

BATCHES = (1, 8, 32, 256)
FEATURES = ((2, 1), (64, 64), (128, 10), (512, 1024), (1024, 1024))  # in, out
OUTPUTS = ("GX", "GW", "GB")
GOAL_MEAN, GOAL_LEAST = 1.0, 0.9


def backward_model(is_ours: bool, inputs: Sequence[Array], outputs: Sequence[str]) -> bytes:
    """Write a model from G, X and W to the gradients."""
    element_type = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    if is_ours:
        named = [name if name in outputs else "" for name in OUTPUTS]
        nodes = [helper.make_node(KIT.operator.name, list("GXW"), named, domain=KIT.operator.domain)]
    else:
        nodes = [
            helper.make_node("MatMul", ["G", "W"], ["GX"]),
            helper.make_node("Gemm", ["G", "X"], ["GW"], transA=1),
            helper.make_node("ReduceSum", ["G", "axes"], ["GB"], keepdims=0),
        ]
    graph = helper.make_graph(
        [node for node in nodes if set(node.output) & set(outputs)],
        "backward",
        [helper.make_tensor_value_info(n, element_type, a.shape) for n, a in zip("GXW", inputs, strict=True)],
        [helper.make_tensor_value_info(name, element_type, None) for name in outputs],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [0])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(KIT.operator.domain, 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model


def call_with(session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding, arrays: Sequence[Array]) -> None:
    """Run; ``arrays`` is the memory that the binding points to, and has to live as long."""
    session.run_with_iobinding(binding)


def ready(is_ours: bool, inputs: Sequence[Array], outputs: Sequence[str], threads: int) -> Run:
    """Return a call, after checking its results."""
    session = open_session(backward_model(is_ours, inputs, outputs), threads, with_ours=is_ours)
    binding = session.io_binding()
    shapes = dict(zip(OUTPUTS, (inputs[1].shape, inputs[2].shape, inputs[0].shape[-1:]), strict=True))
    results = {name: aligned(np.zeros(shapes[name], inputs[0].dtype)) for name in outputs}
    element_type = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    for name, array in zip("GXW", inputs, strict=True):
        binding.bind_input(name, "cpu", 0, element_type, array.shape, array.ctypes.data)
    for name, array in results.items():
        binding.bind_output(name, "cpu", 0, element_type, array.shape, array.ctypes.data)
    run: Run = partial(call_with, session, binding, [*inputs, *results.values()])
    run()
    types = {"T": ELEMENT_TYPES[inputs[0].dtype.name]}
    call = Call(KIT.operator, tuple(inputs), types=types)
    for name, exact, bound in zip(OUTPUTS, KIT.reference(call), KIT.bound(call, ROUNDED), strict=True):
        if name in results:
            comparison = compare(results[name], exact, bound, types["T"])
            if not comparison.is_within_bound:
                raise SystemExit(f"{'ours' if is_ours else 'onnxruntime'}: {name} is wrong: {comparison.complaint}")
    return run


def cell_times(dtype: np.dtype[Any], sizes: Sequence[int], arguments: argparse.Namespace) -> dict[str, float]:
    """Return the median time of each contender in seconds."""
    batch, in_features, out_features = sizes
    rng = np.random.default_rng(0)
    shapes = ((batch, out_features), (batch, in_features), (out_features, in_features))
    inputs = [aligned(rng.standard_normal(shape).astype(dtype)) for shape in shapes]
    runs = {"ours": ready(True, inputs, arguments.outputs, arguments.threads)}
    if dtype.name != "bfloat16":
        runs["onnxruntime"] = ready(False, inputs, arguments.outputs, arguments.threads)
    timings = measure(runs, arguments.seconds, rng=random.Random(0))
    return {name: timing.median for name, timing in timings.items()}


def main() -> int:
    """Check, time, print; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", choices=list(ELEMENT_TYPES), default=["float32", "float64"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell")
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=list(OUTPUTS))
    parser.add_argument("--batch", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--features", nargs="+", default=[f"{k},{n}" for k, n in FEATURES], help="in,out")
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)
    is_reached = True
    for name in arguments.dtype:
        rows, ratios = [], []
        for features, batch in product(arguments.features, arguments.batch):
            in_features, out_features = map(int, features.split(","))
            times = cell_times(numpy_dtype(name), (batch, in_features, out_features), arguments)
            row = [str(size) for size in (batch, in_features, out_features)]
            row += [f"{time * 1e6:.1f}" for time in times.values()]
            if len(times) == 2:
                ratios.append(times["onnxruntime"] / times["ours"])
                row.append(f"{ratios[-1]:.2f}")
            rows.append(row)
        header = ["batch", "in", "out", "ours, us", "onnxruntime, us", "ratio"][: len(rows[0])]
        print(f"{name}, {arguments.threads} threads", format_table(header, rows), sep="\n")
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(f"geometric mean {mean:.2f}, least {min(ratios):.2f}\n", flush=True)
            is_reached = is_reached and mean >= GOAL_MEAN and min(ratios) >= GOAL_LEAST
    return 0 if is_reached else 1


if __name__ == "__main__":
    sys.exit(main())
