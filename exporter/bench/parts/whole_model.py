"""Time one whole model: our operators by each of their kernels, beside the model that `lower` makes of it."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from exporter.bench.backends.arrays import first_words
from exporter.bench.measure.outcome import Outcome
from exporter.bench.measure.timing import Timing, measure
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.console.tone import Toned
from ort_ops.inspection.trial_run import first_feed
from ort_ops.models.files import load_model
from ort_ops.models.nodes import require_operator_nodes
from ort_ops.rewrite.rewrite import lower
from ort_ops.session import InferenceSession, available_kernels

LOWERED = "lowered"
"""The model with onnxruntime's own operators in place of ours."""


@dataclass(frozen=True)
class BackendResult:
    """What one backend took, or what is wrong with its result, or why it does not run."""

    timing: Timing | None
    outcome: Outcome
    detail: str = ""


def bench_model(
    path: str | Path, inputs: str | Path | None = None, *, budget_s: float = 5.0, threads: int | None = None
) -> dict[str, BackendResult]:
    """Time a whole model by each of our kernels and lowered, after comparing each result with float64.

    Args:
        inputs: an .npz file with an array for each input; None for numbers that the graph can take.
        budget_s: seconds of timing for all backends together.
        threads: of onnxruntime; None for all cores.

    Raises: ModelError, ExampleError, NoExampleError, TrialRunError.
    """
    model = load_model(path)
    require_operator_nodes(model, path)
    with tempfile.TemporaryDirectory() as folder:
        lowered = Path(folder) / "lowered.onnx"
        lower(path, lowered)
        backends: dict[str, Callable[[], Any]] = {
            LOWERED: lambda: onnxruntime.InferenceSession(str(lowered), _options(threads))
        }
        for kernel in available_kernels():
            if kernel.is_available and kernel.name != "cuda":
                backends[kernel.name] = lambda k=kernel: InferenceSession(path, _options(threads), kernels=k.name)  # type: ignore[misc]
        feed = first_feed(InferenceSession(path, _options(threads), kernels="body"), path, inputs)
        exact = Float64Run(model)(feed).outputs
        runs: dict[str, Callable[[], Any]] = {}
        found: dict[str, BackendResult] = {}
        for name, open_backend in backends.items():
            try:
                session = open_backend()
                complaint = _complaint(session.run(None, feed), exact)
            except Exception as error:  # such as an element type for which onnxruntime has no kernel
                found[name] = BackendResult(None, Outcome.UNAVAILABLE, first_words(error))
                continue
            if complaint is not None:
                found[name] = BackendResult(None, Outcome.WRONG, complaint)
            else:
                found[name] = BackendResult(None, Outcome.TIMED)
                runs[name] = lambda s=session: s.run(None, feed)  # type: ignore[misc]
        timings = measure(runs, budget_s, rng=random.Random(0))
    return {name: replace(backend, timing=timings.get(name)) for name, backend in found.items()}


def table(found: Mapping[str, BackendResult]) -> tuple[list[str], list[list[str]]]:
    """Return a row for each backend: its median, its quartiles, and its time in units of the lowered model's."""
    base = found[LOWERED].timing
    rows = []
    for name, backend in found.items():
        if backend.timing is None:
            what = f"{backend.outcome}: {backend.detail}"
            rows.append([name, "-", "-", "-", Toned(f"not timed: {what}", backend.outcome.tone)])
            continue
        middle = backend.timing.median
        ratio = "-" if base is None else f"{base.median / middle:.2f}"
        spread = f"{backend.timing.q1 * 1e3:.3f} to {backend.timing.q3 * 1e3:.3f} ms"
        rows.append([name, f"{middle * 1e3:.3f} ms", spread, ratio, Toned("ok", backend.outcome.tone)])
    return ["backend", "a call", "half of the calls", "lowered / this", "result"], rows


def _complaint(outputs: list[NDArray[Any]], exact: Mapping[str, Any]) -> str | None:
    for got, value in zip(outputs, exact.values(), strict=True):
        comparison = value.compare(np.asarray(got))
        if not comparison.is_within_bound:
            text: str = comparison.text
            return text
    return None


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
