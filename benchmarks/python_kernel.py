"""Time Python kernels: per call, per element, and as MYLINEAR. Results are checked before anything is timed.

    python benchmarks/python_kernel.py

Figures are medians over rounds in which the contenders take turns, with one thread. The ratios matter; the
microseconds depend on the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper
from threadpoolctl import threadpool_limits

import ort_ops
from ort_ops import Element, Out
from ort_ops.numerics.compare import compare
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64
from tests.linear_model import make_linear_model

FLOAT32 = MYLINEAR.element_type("float32")

DOMAIN = "benchmark.python"
Run = Callable[[], Any]


@ort_ops.python_kernel(f"{DOMAIN}::Identity")
def identity(x: Element) -> Element:
    """Return the array itself; it is copied once, into the output."""
    return x


@ort_ops.python_kernel(f"{DOMAIN}::Copy")
def copy(x: Element, *, out: Out) -> Element:
    """Write the same into the output."""
    np.copyto(out, x)
    return out  # type: ignore[no-any-return]


def session(model: Any, kernels: str) -> onnxruntime.InferenceSession:
    """Open a model in a session of onnxruntime, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    ort_ops.register(options, kernels)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def identity_model(kernel: Any) -> Any:
    """Make a model of one node on a float32 matrix."""
    values = [helper.make_tensor_value_info(name, 1, ["rows", "columns"]) for name in "xy"]
    graph = helper.make_graph([kernel.make_node(["x"], ["y"])], "identity", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def median_us(contestants: dict[str, Run], number: int, rounds: int = 41) -> dict[str, list[float]]:
    """Time each contender ``number`` times in each round, in turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            for _ in range(number):
                run()
            times[name].append((time.perf_counter() - start) / number * 1e6)
    return times


def report(title: str, contestants: dict[str, Run], base: str, number: int, *, difference: bool = False) -> None:
    """Print medians, and the medians of the rounds' ratios or differences to ``base``."""
    times = median_us(contestants, number)
    print(title)
    for name, measured in times.items():
        pairs = zip(measured, times[base], strict=True)
        against = statistics.median(a - b if difference else a / b for a, b in pairs)
        unit = f"{against:+8.2f} us" if difference else f"{against:8.2f} x"
        print(f"  {name:24} {statistics.median(measured):10.2f} us {unit}")


def main() -> None:
    """Check, time, print."""
    rng = np.random.default_rng(0)
    print(f"onnxruntime {onnxruntime.__version__}, NumPy {np.__version__}")

    image = rng.random((1024, 1024), np.float32)
    by_return, by_out = session(identity_model(identity), "body"), session(identity_model(copy), "body")
    for opened in (by_return, by_out):
        assert (opened.run(None, {"x": image})[0] == image).all()
    contestants: dict[str, Run] = {
        "numpy copy": lambda: image.copy(),
        "kernel that returns": lambda: by_return.run(None, {"x": image}),
        "kernel that takes out": lambda: by_out.run(None, {"x": image}),
    }
    report("identity of 1024 x 1024 float32", contestants, "numpy copy", 50)

    for rows, in_features, out_features, number in ((1, 2, 1, 500), (128, 768, 3072, 3)):
        x = rng.random((rows, in_features), np.float32)
        weight, bias = rng.random((out_features, in_features), np.float32), rng.random(out_features, np.float32)
        model = make_linear_model(["batch", in_features], weight, bias, with_function=False)
        in_cpp, in_python = session(model, "cpp"), session(model, "python")
        for opened in (in_cpp, in_python):
            bound = linear_bound(x, weight, bias, FLOAT32)
            found = compare(opened.run(None, {"x": x})[0], linear_float64(x, weight, bias), bound, FLOAT32)
            if not found.is_within_bound:
                raise SystemExit(f"the {opened.kernel} kernel is wrong: {found.complaint}")
        contestants = {
            "numpy x @ w.T + b": lambda x=x, w=weight, b=bias: x @ w.T + b,  # type: ignore[misc]
            "cpp": lambda x=x, opened=in_cpp: opened.run(None, {"x": x}),  # type: ignore[misc]
            "python": lambda x=x, opened=in_python: opened.run(None, {"x": x}),  # type: ignore[misc]
        }
        is_small = rows == 1
        base = "cpp" if is_small else "numpy x @ w.T + b"
        title = f"MYLINEAR of ({rows}, {in_features}, {out_features}) float32"
        report(title, contestants, base, number, difference=is_small)


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
