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

from exporter.bench.backends.arrays import Array, aligned, numpy_dtype
from exporter.bench.backends.contestants import bind, open_session
from exporter.bench.backends.models import chain_model, random_layers
from exporter.bench.measure.timing import measure
from exporter.operators.mylinear.bench import KIT
from exporter.torch_ops.workloads.bench import Layer
from ort_ops.console.table import format_table
from ort_ops.numerics.bound import ROUNDED
from ort_ops.numerics.compare import compare
from ort_ops.opdef.element_types import ELEMENT_TYPES

DTYPES = ("float64", "float32", "float16")


def ready(backend: str, layers: Sequence[Layer], x: Array, threads: int) -> Callable[[], Any]:
    """Return a call of the chain, after checking its result."""
    session = open_session(chain_model(backend, layers).SerializeToString(), threads, with_ours=backend == "ours")
    run, y = bind(session, x, layers[-1][0].shape[0])
    run()
    expected, bound = KIT.exact(x, layers, ROUNDED)
    comparison = compare(y, expected, bound, ELEMENT_TYPES[x.dtype.name])
    if not comparison.is_within_bound:
        raise SystemExit(f"{backend} is wrong: {comparison.complaint}")
    return run


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--megabytes", type=int, default=180, help="of weights in all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
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
