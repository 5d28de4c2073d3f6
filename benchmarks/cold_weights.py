"""Time layers whose weights no cache holds, as in a model of many layers: MYLINEAR beside Gemm in a chain.

    python benchmarks/cold_weights.py [--features 768] [--megabytes 180] [--threads 1] [--dtype float32]

`mylinear bench` repeats one layer, whose weight soon lies in a cache. Here a call goes through so many square layers
that each weight has to come from memory. Results are checked before anything is timed; the contenders take turns. The
check is a loose one: a bound that grows from layer to layer says nothing after 80 of them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from exporter.bench.backends.contestants import Array, aligned, bind, numpy_dtype, open_session
from exporter.bench.backends.models import chain_model, random_layers
from exporter.bench.measure.timing import measure
from exporter.torch_ops.workloads.bench import Layer
from ort_ops.console.table import format_table
from ort_ops.operators.mylinear.reference import linear_float64

# Allowed error, in units of the largest value, after all layers.
TOLERANCES = {"float64": 1e-11, "float32": 1e-3, "float16": 0.1}


def ready(backend: str, layers: Sequence[Layer], x: Array, threads: int) -> Callable[[], Any]:
    """Return a call of the chain, after checking its result."""
    session = open_session(chain_model(backend, layers).SerializeToString(), threads, with_ours=backend == "ours")
    run, y = bind(session, x, layers[-1][0].shape[0])
    run()
    expected = x.astype(np.float64)
    for weight, bias in layers:
        expected = linear_float64(expected, weight.astype(np.float64), bias.astype(np.float64))
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=0, atol=TOLERANCES[x.dtype.name] * largest)
    return run


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--megabytes", type=int, default=180, help="of weights in all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=list(TOLERANCES), default="float32")
    arguments = parser.parse_args()
    dtype = numpy_dtype(arguments.dtype)
    number = max(1, (arguments.megabytes << 20) // (arguments.features**2 * dtype.itemsize))
    layers = random_layers(arguments.features, number, dtype)
    rows = []
    for batch in (1, 2, 4, 8, 16, 64):
        x = aligned(np.random.default_rng(batch).standard_normal((batch, arguments.features)).astype(dtype))
        runs = {backend: ready(backend, layers, x, arguments.threads) for backend in ("ours", "gemm")}
        times = {
            backend: timing.median / number for backend, timing in measure(runs, 6.0, rng=random.Random(0)).items()
        }
        ratio = times["gemm"] / times["ours"]
        rows.append([str(batch), *(f"{times[backend] * 1e6:.0f} us" for backend in ("ours", "gemm")), f"{ratio:.2f}"])
    print(f"{number} layers of {arguments.features} x {arguments.features} {arguments.dtype}, a layer's time:")
    print(format_table(["M", "ours", "gemm", "gemm / ours"], rows))


if __name__ == "__main__":
    main()
