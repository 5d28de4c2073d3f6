"""Time what a node costs beyond its arithmetic: a chain of 100 tiny nodes beside a model of one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from exporter.bench.backends import cuda
from exporter.bench.backends.arrays import Array, aligned, first_words, numpy_dtype
from exporter.bench.backends.contestants import session_backend
from exporter.bench.backends.models import PAIR, chain_model
from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import OURS, Plan, runs_on
from exporter.bench.measure.timing import measure
from exporter.torch_ops.workloads.bench import Layer
from ort_ops.numerics.compare import compare
from ort_ops.opdef.element_types import ELEMENT_TYPES

LENGTH = 100
_BUDGET_S, _QUICK_BUDGET_S = 2.0, 0.4


def measure_chain(plan: Plan, on_note: Callable[[str], None] = lambda note: None) -> list[dict[str, Any]]:
    """Time chains of (1, 2, 2) nodes; the time of a node is that of 99 further ones, divided by 99."""
    found = []
    for dtype in plan.dtypes:
        layer = tiny_layer(numpy_dtype(dtype))
        x = aligned(np.array([[1.0, -0.5]]).astype(numpy_dtype(dtype)))
        for threads in plan.threads:
            on_note(f"a chain of {LENGTH} tiny nodes: {dtype}, {runs_on(threads)}")
            runs: dict[str, Callable[[], Any]] = {}
            backends: dict[str, dict[str, Any]] = {}
            for backend in PAIR:
                try:
                    ready = {length: _make(backend, [layer] * length, x, threads) for length in (1, LENGTH)}
                    runs |= {f"{backend} {length}": run for length, run in ready.items()}
                    backends[backend] = {}
                except Exception as error:  # such as an element type without a kernel in onnxruntime
                    backends[backend] = {"reason": first_words(error)}
            budget = _QUICK_BUDGET_S if plan.is_quick else _BUDGET_S
            timings = measure(runs, budget, rng=random.Random(0), finish=cuda.finish(threads))
            for backend in PAIR:
                if f"{backend} 1" in timings:
                    one, many = timings[f"{backend} 1"].median, timings[f"{backend} {LENGTH}"].median
                    backends[backend] = {"one": one, "chain": many, "node": (many - one) / (LENGTH - 1)}
            found.append({"dtype": dtype, "threads": threads, "length": LENGTH, "sides": backends})
    return found


def tiny_layer(dtype: np.dtype[Any]) -> Layer:
    """Return a layer that shrinks its input, so that neither numbers nor their bounds grow."""
    return np.array([[0.5, 0.25], [0.125, 0.5]]).astype(dtype), np.array([1.0, -1.0]).astype(dtype)


def _make(backend: str, layers: list[Layer], x: Array, threads: int) -> Callable[[], Any]:
    """Return a call of the chain, after checking its result. Raises: ValueError for a wrong one."""
    ready = session_backend(chain_model(backend, layers), x, layers[-1][0].shape[0], threads, with_ours=backend == OURS)
    y = ready.result()
    expected, bound = subject().exact(x, layers, cuda.arithmetic(threads))
    complaint = compare(y, expected, bound, ELEMENT_TYPES[x.dtype.name]).complaint
    if complaint is not None:
        raise ValueError(f"wrong result: {complaint}")
    return ready.run
