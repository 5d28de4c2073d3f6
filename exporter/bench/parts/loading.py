"""Measure load time and memory of a model of our nodes beside one of Gemm's, weights inside or in a file beside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

from exporter.bench.backends.arrays import first_words, numpy_dtype
from exporter.bench.backends.contestants import session_options
from exporter.bench.backends.models import PAIR, chain_model, random_layers, save_model
from exporter.bench.measure.cells import OURS, Kind, Plan
from exporter.bench.measure.timing import settle, summarize
from ort_ops.files.atomic import temporary_folder

STORAGES = ("inline", "external")
_SIZES = ((64, 1), (4096, 2))  # (size of square layers, how many)
_QUICK_SIZES = ((64, 1), (2048, 2))
_ROUNDS, _QUICK_ROUNDS = 9, 5
_SHORT_S = 0.02  # a session that opens faster than this is opened more often
OnNote = Callable[[str], None]


def measure_load(plan: Plan, on_note: OnNote = lambda note: None) -> list[dict[str, Any]]:
    """Time opening sessions, ours and Gemm's in turn; files are in the page cache, options are made before."""
    found = []
    threads = max(plan.threads)
    for size, number in _QUICK_SIZES if plan.is_quick else _SIZES:
        for dtype in plan.dtypes:
            for storage in STORAGES:
                on_note(f"load time: {number} x {size}x{size} {dtype}, {storage}")
                with _models(size, number, dtype, storage) as paths:
                    row = {"size": size, "layers": number, "dtype": dtype, "storage": storage, "threads": threads}
                    found.append({**row, "sides": _time_sessions(paths, threads, plan.is_quick)})
    return found


def measure_memory(plan: Plan, on_note: OnNote = lambda note: None) -> list[dict[str, Any]]:
    """Measure the resident memory of a process before it loads a model, after, and after a first call.

    Weights that are narrower than x are measured too, beside the same numbers in x's dtype in Gemm's model.

    Each model is loaded in a process of its own. File-backed pages are counted apart from anonymous ones, because
    processes share them, and the system can drop them.
    """
    found = []
    size, number = (_QUICK_SIZES if plan.is_quick else _SIZES)[-1]
    narrow = {kind.weight: kind for kind in plan.kinds if kind.weight}
    for kind in (*map(Kind, plan.dtypes), *(Kind(kind.dtype, weight) for weight, kind in narrow.items())):
        for storage in STORAGES:
            on_note(f"memory: {number} x {size}x{size} {kind}, {storage}")
            with _models(size, number, kind.dtype, storage, kind.weight) as paths:
                weights = size * size * number * numpy_dtype(kind.weight or kind.dtype).itemsize
                row = {"size": size, "layers": number, "dtype": kind.dtype, "weight": kind.weight}
                row |= {"storage": storage, "weights_nbytes": weights}
                backends = {backend: _probe(path, backend, max(plan.threads)) for backend, path in paths.items()}
                found.append({**row, "sides": backends})
    return found


@contextmanager
def _models(size: int, number: int, dtype: str, storage: str, weight: str = "") -> Iterator[dict[str, Path]]:
    """Write the same layers as a model for each backend, for the time of the block; ours with weights as stored."""
    with temporary_folder() as folder:
        layers = random_layers(size, number, numpy_dtype(dtype), numpy_dtype(weight) if weight else None)
        paths = {backend: folder / f"{backend}.onnx" for backend in PAIR}
        for backend, path in paths.items():
            save_model(chain_model(backend, layers), path, is_external=storage == "external")
        yield paths


def _time_sessions(paths: dict[str, Path], threads: int, is_quick: bool) -> dict[str, dict[str, Any]]:
    options = {backend: session_options(threads, with_ours=backend == OURS) for backend in paths}
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    slowest = 0.0
    for backend, path in paths.items():
        try:
            started = time.perf_counter()
            onnxruntime.InferenceSession(str(path), options[backend], providers=["CPUExecutionProvider"])
            slowest = max(slowest, time.perf_counter() - started)
            times[backend] = []
        except Exception as error:  # such as an element type without a kernel in onnxruntime
            found[backend] = {"reason": first_words(error)}
    rounds = _QUICK_ROUNDS if is_quick else _ROUNDS
    for _ in range(rounds if slowest > _SHORT_S else 3 * rounds):
        for backend, taken in times.items():
            settle()
            started = time.perf_counter()
            session = onnxruntime.InferenceSession(
                str(paths[backend]), options[backend], providers=["CPUExecutionProvider"]
            )
            taken.append(time.perf_counter() - started)
            del session
    for backend, taken in times.items():
        t = summarize(taken, 1)
        found[backend] = {"median": t.median, "q1": t.q1, "q3": t.q3, "slots": t.slots}
    return found


def _probe(path: Path, backend: str, threads: int) -> dict[str, Any]:
    """Load the model in a fresh process and return the figures that it printed, or why there are none."""
    command = [sys.executable, "-m", "exporter.bench.parts.memory_probe", str(path), backend, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"reason": lines[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found
