"""Compare both engines step by step, each step from torch's own state: so the differences do not add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from exporter.training.distributed import Processes
from exporter.training.engines.onnxruntime_engine import OnnxruntimeEngine, export_step, torch_state
from exporter.training.options import TrainingOptions
from exporter.training.run import Problem, Run
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.files.atomic import temporary_folder
from ort_ops.numerics.compare import Comparison, worst_of
from ort_ops.training.file_format import NEXT, TrainingMetadata, find_metadata

LOSS, PARAMETERS, OPTIMIZER_STATE = KINDS = ("loss", "parameters", "optimizer state")


@dataclass(frozen=True)
class EngineComparison:
    """The steps of both engines, each taken from the state that torch had before it.

    Attributes:
        steps: how many were compared.
        equal_steps: how many of them gave the same bits throughout.
        differences: the largest difference between the engines in one step, by `KINDS`.
        parameters: those that onnxruntime has after as many steps of its own, by name.
        errors: both engines' results compared with the step in float64, by `KINDS`; only of tensors that differ, and
            none for a kind that never does.
    """

    steps: int
    equal_steps: int
    differences: Mapping[str, float]
    parameters: Mapping[str, NDArray[Any]]
    errors: Mapping[str, Comparison]

    @property
    def is_within_bound(self) -> bool:
        """Whether nothing that differs is outside the bound, in either engine."""
        return all(error.is_within_bound for error in self.errors.values())


def compare_engines(problem: Problem, options: TrainingOptions, *, max_steps: int | None = None) -> EngineComparison:
    """Train in torch on the CPU, and take each step in onnxruntime too, from the state that torch has before it.

    Another onnxruntime takes all steps by itself, on the same rows.

    Where a number differs, that of each engine is compared with the step in float64, by the bound of
    `ort_ops.analysis.float64_run`. Nothing is validated or written.

    Args:
        options: of the training; ``engine`` and ``device`` do not count.
        max_steps: after how many steps to stop; by default at the end of the training.

    Raises: DataError, OptionError, ExportError, ort_ops' TrainingError.
    """
    run = Run(problem, replace(options, engine="torch"), torch.device("cpu"), Processes(), None)
    run.start(None)
    network, optimizer = run.network.train(), run.optimizer
    with temporary_folder() as folder:
        path = folder / "step.onnx"
        export_step(network, optimizer, run.example(), path)
        model = onnx.load(path)
        engine, alone = (OnnxruntimeEngine(network, optimizer, path) for _ in range(2))
    metadata = find_metadata(model)
    assert metadata is not None
    kinds = _kinds(metadata)
    in_float64 = Float64Run(model)
    differences = dict.fromkeys(KINDS, 0.0)
    errors: defaultdict[str, list[Comparison]] = defaultdict(list)
    steps = equal_steps = 0
    batches = chain.from_iterable(run.batches() for _ in range(options.epochs))
    for x, y in islice(batches, max_steps):
        engine.load()
        before = {**engine.state(), **dict(zip(metadata.given, (x.numpy(), y.numpy()), strict=True))}
        got = {metadata.loss: np.asarray(engine.step(x, y)), **engine.state()}
        expected = {metadata.loss: np.asarray(run.engine.step(x, y)), **torch_state(network, optimizer)}
        differing = [name for name in kinds if got[name].tobytes() != expected[name].tobytes()]
        alone.step(x, y)
        steps, equal_steps = steps + 1, equal_steps + (not differing)
        exact = in_float64(before).outputs if differing else {}
        for name in differing:
            kind = kinds[name]
            difference = np.abs(got[name].astype(np.float64) - expected[name]).max()
            differences[kind] = float(np.maximum(differences[kind], difference))  # which keeps NaN
            value = exact[name if name == metadata.loss else name + NEXT]
            errors[kind] += [value.compare(results[name]) for results in (got, expected)]
    learned = alone.parameters()
    return EngineComparison(
        steps, equal_steps, differences, learned, {kind: worst_of(found) for kind, found in errors.items()}
    )


def _kinds(metadata: TrainingMetadata) -> dict[str, str]:
    """Return the kind of each tensor that a step makes."""
    return {
        metadata.loss: LOSS,
        **dict.fromkeys(metadata.parameters, PARAMETERS),
        **dict.fromkeys(metadata.optimizer_state, OPTIMIZER_STATE),
    }
