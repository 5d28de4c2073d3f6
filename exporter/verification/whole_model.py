"""Run the whole model on its inputs, in float64 and on each backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporter.verification.backends.base import Backend, Run, RunError, WholeModelError
from exporter.verification.backends.session import Probe
from exporter.verification.divergence import first_divergence
from exporter.verification.inputs import Case, Feed
from exporter.verification.reasons import CannotEvaluate, NotDrawn, Reason
from exporter.verification.row import WHOLE, Part, Row
from ort_ops.analysis.evaluation import Evaluation, Value
from ort_ops.analysis.float64_run import Float64Run, in_steps
from ort_ops.errors import ModelError, MylinearError
from ort_ops.models.inputs.draw import NoExampleError
from ort_ops.numerics.compare import Comparison, failed, worst_of
from ort_ops.numerics.faults import Failure, WrongCount
from ort_ops.numerics.statistics import histogram, max_ulp
from ort_ops.opdef.operator import ContractError

Array = NDArray[Any]


@dataclass
class Ran:
    """A case on which the model ran in float64: its feed, and its exact outputs."""

    case: Case
    feed: Feed
    evaluation: Evaluation
    in_steps: Evaluation

    def of(self, backend: Backend) -> Evaluation:
        """Return the evaluation with the bound of a backend."""
        return self.in_steps if backend.arithmetic.rounds_between else self.evaluation


class WholeModel:
    """One model, run as a whole in float64 and on backends."""

    def __init__(self, model: onnx.ModelProto, path: str | Path, loss: str = "") -> None:
        """Prepare the model.

        Args:
            loss: an output that must be finite for an input to say anything; empty for none.
        """
        self._model, self._path, self._loss = model, path, loss
        self._evaluate = Float64Run(model)
        self._in_steps = in_steps(model, None, self._evaluate)

    def feeds(self, cases: Sequence[Case]) -> list[Feed | Reason]:
        """Return for each case the first feed that onnxruntime takes, or why it takes none.

        onnxruntime fails on drawn numbers that do not suit a node, such as reflecting an axis that is too short, where
        onnx's evaluator may silently compute something else.
        """
        probe = Probe(self._path)
        found: list[Feed | Reason] = []
        for case in cases:
            reasons: list[Reason] = []
            for attempt in case.attempts:
                try:
                    feed = attempt()
                    probe(case.first(feed))
                except NoExampleError as error:
                    reasons.append(NotDrawn(str(error)))
                except RunError as error:
                    reasons.append(CannotEvaluate(str(error)))
                else:
                    found.append(feed)
                    break
            else:
                found.append(reasons[0])
        return found

    def evaluate(self, case: Case, feed: Feed | Reason) -> Ran | Reason:
        """Evaluate the model in float64 on a feed, or return why it cannot be."""
        if not isinstance(feed, Mapping):
            return feed
        evaluate = self._evaluate if case.in_a_row is None else case.in_a_row.evaluate
        try:
            found = evaluate(feed)
            stepped = self._in_steps(feed) if evaluate is self._evaluate is not self._in_steps else found
        except (ModelError, ContractError) as error:
            return CannotEvaluate(str(error))
        losses = [self._loss] if case.in_a_row is None else case.in_a_row.losses
        for loss in filter(None, losses):
            if not np.isfinite(found.outputs[loss].exact).all():
                return CannotEvaluate(f"the loss is {found.outputs[loss].exact}")
        return Ran(case, feed, found, stepped)

    def rows(self, backend: Backend, ran: Sequence[Ran], on_start: Callable[[str], None]) -> list[Row]:
        """Run the model on a backend, and return a row for each input.

        Args:
            on_start: called with the backend and the input before each run.
        """
        rows: list[Row] = []
        run, refusal = None, None
        for one in ran:
            on_start(f"{backend.name}, {one.case.label}")
            try:
                if run is None and refusal is None:
                    run = backend.open_model()
                row = refusal if run is None else self._row(backend, one, _run(run, one))
                if run is not None and one.case.in_a_row is not None and one.case.in_a_row.has_trainer:
                    rows += self._trainer_rows(backend, one)
            except WholeModelError as error:
                row = refusal = Row(backend.name, WHOLE, None, error.reason)
            except RunError as error:
                comparison = failed(Failure(str(error)))
                row = Row(backend.name, one.case.label, comparison, dtype=_dtype_of(one.evaluation))
            if row is not None and row not in rows:  # one reason, not one for each input
                rows.append(row)
        return rows

    def _trainer_rows(self, backend: Backend, ran: Ran) -> list[Row]:
        """Run steps in a row as `ort_ops.Trainer` does, on a backend that it has."""
        assert ran.case.in_a_row is not None
        label = f"{ran.case.label}, by Trainer"
        try:
            trainer = backend.open_trainer()
            if trainer is None:
                return []
            return [self._row(backend, ran, ran.case.in_a_row.run_trainer(trainer, ran.feed), label)]
        except MylinearError as error:
            return [Row(backend.name, label, failed(Failure(str(error))), dtype=_dtype_of(ran.evaluation))]

    def _row(self, backend: Backend, ran: Ran, outputs: list[Array], label: str = "") -> Row:
        comparison, ulp, counts = _compare_outputs(outputs, ran.of(backend).outputs)
        where = None
        if not comparison.is_within_bound and ran.case.in_a_row is None:
            evaluate = self._in_steps if backend.arithmetic.rounds_between else self._evaluate
            where = first_divergence(self._model, backend, ran.feed, evaluate(ran.feed, keep_values=True))
        label, dtype = label or ran.case.label, _dtype_of(ran.evaluation)
        return Row(backend.name, label, comparison, None, ulp, counts, where, Part.WHOLE, dtype, ran.case.is_edge)


def _run(run: Run, ran: Ran) -> list[Array]:
    return run(ran.feed) if ran.case.in_a_row is None else ran.case.in_a_row.run(run, ran.feed)


def _dtype_of(evaluation: Evaluation) -> str:
    types = [value.element_type for value in evaluation.outputs.values() if value.element_type is not None]
    return ", ".join(dict.fromkeys(element_type.name for element_type in types))


def _compare_outputs(outputs: list[Array], exact: Mapping[str, Value]) -> tuple[Comparison, float, tuple[int, ...]]:
    """Compare every output; the comparison that is furthest off, the largest ULP, and all errors in one histogram."""
    if len(outputs) != len(exact):
        return failed(WrongCount(len(outputs), len(exact))), 0.0, ()
    comparisons, ulps, counts = [], [0.0], []
    for output, value in zip(outputs, exact.values(), strict=True):
        comparisons.append(value.compare(output))
        if value.element_type is not None:
            ulps.append(max_ulp(output, value.exact, value.element_type))
            counts.append(histogram(output, value.exact, value.error))
    return worst_of(comparisons), max(ulps), tuple(map(sum, zip(*counts, strict=True)))
