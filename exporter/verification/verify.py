"""`verify`: do torch, the reference, the function body and every kernel compute the same, within the derived bound?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporter.verification.backends import Probe, Road, RunError, WholeModelError, find_roads
from exporter.verification.divergence import first_divergence
from exporter.verification.inputs import (
    Case,
    Feed,
    NodeDrawer,
    edge_call,
    make_cases,
    rows_that_fit,
    thinned,
)
from exporter.verification.nodes import (
    FINITE_DIFFERENCES,
    NN_LINEAR,
    NodeCall,
    NodeRows,
    backward_row,
    run_alone,
    types_of,
)
from exporter.verification.plan import OnProgress, Plan
from exporter.verification.result import (
    EDGES,
    NODES,
    WHOLE,
    ParityError,
    Part,
    Row,
    Verification,
    listed,
    worst_of,
)
from ort_ops.analysis.evaluation import Evaluation, Value
from ort_ops.analysis.float64_run import BOUND_IN_WORDS, Float64Run
from ort_ops.errors import ModelError, MylinearError
from ort_ops.models.checks import check_shapes
from ort_ops.models.files import load_model
from ort_ops.models.inputs.draw import InputDrawer, NoExampleError
from ort_ops.models.nodes import node_types, operator_nodes, require_operator_nodes
from ort_ops.numerics.compare import Comparison
from ort_ops.numerics.statistics import histogram, max_ulp
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.contract import MYLINEAR

__all__ = ["EDGES", "FINITE_DIFFERENCES", "NN_LINEAR", "NODES", "ParityError", "Row", "Verification", "verify"]

Array = NDArray[Any]
DEVICES = ("auto", "cpu", "cuda")
_DRAWN_ROWS = (1, 2, 7, 64)
_EVALUATE, _RUN, _ALONE, _GRADIENTS = "evaluate", "run", "alone", "gradients"


class VerificationError(MylinearError, ValueError):
    """Something that `verify` was asked for and that cannot be."""


def verify(
    path: str | Path,
    *,
    checkpoint: str | Path | None = None,
    batch_sizes: Sequence[int] | None = None,
    inputs: Sequence[str | Path] = (),
    seed: int = 0,
    dtypes: Sequence[str] = (),
    compile_backend: str | None = "aot_eager",
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> Verification:
    """Run one model on every backend that this machine has, and compare each with the float64 reference.

    In a test of yours: ``exporter.verify("model.onnx").check()``.

    The bound is derived, not chosen: how the rounding errors of every node arrive at the outputs
    (`ort_ops.analysis.float64_run`). Each MYLINEAR node is also run alone on what it received, against the bound of its
    own sum. Where a backend leaves its bound, the first node at which it does is named. Where the model cannot be run,
    or does not reach a node, the node is run alone on drawn numbers; a node that cannot be is untested, and parity is
    then not proved.

    Memory: at most four times the model, and 1 GiB. Backends are opened one after the other.

    Args:
        path: a model with MYLINEAR nodes.
        checkpoint: of `mylinear train`; torch eager then runs the network in it. Without one it runs the
            operator at every node of the model.
        batch_sizes: sizes of the dynamic dimensions to try with seeded numbers that the graph can take; None for 1,
            2, 7 and 64, with 32 for the last where an input has more than one of them; with ``inputs`` for none.
        inputs: .npz files with an array for each input of the model, to run the whole model on.
        seed: of the numbers that are drawn.
        dtypes: further element types to run each node alone in, with its weights rounded to them.
        compile_backend: of the backend ``torch.compile``: ``aot_eager`` traces forward as inductor does but generates
            no code, which takes long; ``inductor`` does all; None leaves it out.
        device: ``auto`` takes the CPU's backends, and CUDA's where onnxruntime has its provider; ``cuda`` does so too,
            and raises where the CUDA kernel cannot run; ``cpu`` leaves CUDA's out.
        on_progress: called with steps done, steps in all, and what is done next, with the time left after a while.

    Raises: VerificationError, ExampleError, ModelError, ContractError, CheckpointError, KernelError; never for a mere
        difference, which the result reports.
    """
    if batch_sizes is not None and any(size < 0 for size in batch_sizes):
        raise VerificationError(f"batch sizes must be 0 or more, got {', '.join(map(str, batch_sizes))}")
    if device not in DEVICES:
        raise VerificationError(f"device must be {' or '.join(DEVICES)}, got {device}")
    model = load_model(path)
    require_operator_nodes(model, path)
    check_shapes(model)
    _remove_definition(model)
    drawer = InputDrawer(model)
    cases = make_cases(model, drawer, batch_sizes, inputs, seed)
    return _Verifier(model, path, drawer, cases, seed, on_progress).run(
        find_roads(model, path, checkpoint, compile_backend, device), dtypes
    )


def _remove_definition(model: onnx.ModelProto) -> None:
    """Remove the operator's own function, which evaluators would take instead of an operator; no weight is copied."""
    for index, function in reversed(list(enumerate(model.functions))):
        if (function.domain, function.name) == (MYLINEAR.domain, MYLINEAR.name):
            del model.functions[index]


@dataclass
class _Ran:
    """A case on which the model ran in float64: its feed, and what must come out."""

    case: Case
    feed: Feed
    evaluation: Evaluation


class _Verifier:
    """One verification: evaluate in float64, run each backend, run each node alone."""

    def __init__(
        self,
        model: onnx.ModelProto,
        path: str | Path,
        drawer: InputDrawer,
        cases: Sequence[Case],
        seed: int,
        on_progress: OnProgress | None,
    ) -> None:
        self._model, self._path, self._drawer, self._cases, self._seed = model, path, drawer, cases, seed
        self._linear = operator_nodes(model)
        self._plan = Plan(on_progress)
        self._evaluate = Float64Run(model)
        self._calls: dict[str, list[NodeCall]] = {}
        self._notes: list[str] = []
        self._drawn: list[str] = []
        self._untested: dict[str, str] = {}
        self._why_not_run = ""

    def run(self, roads: Sequence[Road], dtypes: Sequence[str]) -> Verification:
        """Do everything, in an order in which no two backends are open at once."""
        found: dict[str, list[Row]] = {
            road.name: [] if road.reason is None else [Row(road.name, "-", None, road.reason)] for road in roads
        }
        roads = [road for road in roads if road.reason is None]
        with_backward = [road for road in roads if road.has_backward]
        self._make_plan(roads, with_backward)
        ran = self._run_cases()
        for road in roads:
            found[road.name] += self._whole_rows(road, ran)
        self._add_drawn_calls()
        each_node = [NodeRows(road, element_type) for road in roads for element_type in types_of(road, dtypes)]
        for linear in self._linear:
            self._plan.start(_ALONE, f"node {linear.path} alone")
            received = self._calls.get(linear.path)
            if received and not run_alone(received, each_node):
                self._untested[linear.path] = "whatever it gives is within the bound of its sum"
        for node_rows in each_node:
            found[node_rows.road.name] += node_rows.finish()
        for road in with_backward:
            for label in (FINITE_DIFFERENCES, NN_LINEAR):
                self._plan.start(_GRADIENTS, f"{road.name}, {label}")
                found[road.name].append(backward_row(road, label, self._calls))
        nodes = [(n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in self._model.graph.node]
        rows = [row for of_road in found.values() for row in of_road]
        return Verification(
            rows, str(self._path), BOUND_IN_WORDS, nodes, self._untested, self._notes, len(self._linear)
        )

    def _make_plan(self, roads: Sequence[Road], with_backward: Sequence[Road]) -> None:
        """Estimate costs in multiply-adds; what a node costs beside them is as much as some million."""
        weights = [float(size) for size in self._weight_sizes()]
        one_row, fixed = sum(weights), 1e5 * len(self._model.graph.node)
        rows = [max(1, case.num_rows) for case in self._cases]
        alone = [len(roads) * (4e6 + 3 * size + 40 * size * len(rows)) for size in weights]
        self._plan.costs = {
            _EVALUATE: [40 * (one_row * count + fixed) for count in rows],
            _RUN: [one_row * count + 2 * one_row + fixed for _ in roads for count in rows],
            _ALONE: alone,
            _GRADIENTS: [20 * one_row * 16 for _ in with_backward for _ in range(2)],
        }

    def _weight_sizes(self) -> list[int]:
        dims = [self._drawer.dims.get(linear.node.input[1]) for linear in self._linear]
        return [int(np.prod([d for d in dim if isinstance(d, int)])) if dim else 1 for dim in dims]

    def _run_cases(self) -> list[_Ran]:
        """Evaluate the model on every case; note those on which it does not run."""
        features = [(self._drawer.dims.get(linear.node.input[1]) or [0, 1])[-1] for linear in self._linear]
        most = rows_that_fit([f if isinstance(f, int) else 1024 for f in features], len(self._cases))
        ran, refused = [], []
        for case, feed in zip(self._cases, self._feeds(), strict=True):
            self._plan.start(_EVALUATE, f"float64, {case.label}")
            found = self._run_case(case, feed)
            if isinstance(found, str):
                refused.append((case.label, found))
                continue
            for call in found.evaluation.calls:
                self._calls.setdefault(call.label, []).append(NodeCall(thinned(call, most), case.is_edge))
            ran.append(replace(found, evaluation=replace(found.evaluation, calls=[], values={})))
        by_reason: dict[str, list[str]] = {}
        for label, reason in refused:
            by_reason.setdefault(reason, []).append(label)
        for reason, labels in by_reason.items():
            remedy = (
                "" if "no numbers can be drawn" not in reason and ran else "; give real inputs by --inputs file.npz"
            )
            self._notes.append(f"the whole model was not run on {', '.join(labels)}: {reason}{remedy}")
        self._why_not_run = "" if ran or not refused else f"the whole model was not run: {refused[0][1]}"
        return ran

    def _feeds(self) -> list[Feed | str]:
        """Return for each case the first feed that onnxruntime takes, or why it takes none.

        What drawn numbers do not suit fails there, such as reflecting an axis that is too short: onnx's evaluator may
        take it nevertheless, and give something else.
        """
        probe = Probe(self._path)
        found: list[Feed | str] = []
        for case in self._cases:
            reasons = []
            for attempt in case.attempts:
                try:
                    feed = attempt()
                    probe(feed)
                except (NoExampleError, RunError) as error:
                    reasons.append(str(error))
                    continue
                found.append(feed)
                break
            else:
                found.append(reasons[0])
        return found

    def _run_case(self, case: Case, feed: Feed | str) -> _Ran | str:
        if isinstance(feed, str):
            return feed
        try:
            return _Ran(case, feed, self._evaluate(feed))
        except (ModelError, ContractError) as error:
            return str(error)

    def _whole_rows(self, road: Road, ran: Sequence[_Ran]) -> list[Row]:
        rows: list[Row] = []
        run, refusal = None, None
        for one in ran:
            self._plan.start(_RUN, f"{road.name}, {one.case.label}")
            try:
                if run is None and refusal is None:
                    run = road.open_model()
                row = refusal if run is None else self._whole_row(road, one, run(one.feed))
            except WholeModelError as error:
                row = refusal = Row(road.name, WHOLE, None, str(error))
            except RunError as error:
                failed = Comparison(float("inf"), float("inf"), str(error))
                row = Row(road.name, one.case.label, failed, dtype=_dtype_of(one.evaluation))
            if row is not None and row not in rows:  # one reason, not one for each input
                rows.append(row)
        return rows

    def _whole_row(self, road: Road, ran: _Ran, outputs: list[Array]) -> Row:
        comparison, ulp, counts = _compare_outputs(outputs, ran.evaluation.outputs)
        where = ""
        if not comparison.is_within_bound:
            where = first_divergence(self._model, road, ran.feed, self._evaluate(ran.feed, keep_values=True))
        label, dtype = ran.case.label, _dtype_of(ran.evaluation)
        return Row(road.name, label, comparison, "", ulp, counts, where, Part.WHOLE, dtype, ran.case.is_edge)

    def _add_drawn_calls(self) -> None:
        """Give every node that received nothing drawn numbers, and every node edge values."""
        missing = [linear.path for linear in self._linear if linear.path not in self._calls]
        if missing:
            types = [types["T"] for types in node_types(self._model)]
            nodes = NodeDrawer(self._model, self._drawer.dims, self._seed)
            for linear, element_type in zip(self._linear, types, strict=True):
                if linear.path in self._calls:
                    continue
                calls = nodes.draw(linear, element_type, _DRAWN_ROWS)
                if calls:
                    self._calls[linear.path] = [NodeCall(call) for call in calls]
                    self._drawn.append(linear.path)
                else:
                    why = self._why_not_run or "no input of the model reached it"
                    self._untested[linear.path] = f"{why}, and its weight is computed, so that it cannot be drawn"
        if self._drawn:
            why = "the model was not run" if self._why_not_run else "no input of the model reached "
            why += "" if self._why_not_run else "it" if len(self._drawn) == 1 else "them"
            self._notes.append(f"{listed(self._drawn)} ran alone on drawn numbers, because {why}")
        for received in self._calls.values():
            if not any(call.is_edge for call in received):
                received.append(NodeCall(edge_call(received[-1].call), is_edge=True))


def _dtype_of(evaluation: Evaluation) -> str:
    types = [value.element_type for value in evaluation.outputs.values() if value.element_type is not None]
    return ", ".join(dict.fromkeys(element_type.name for element_type in types))


def _compare_outputs(outputs: list[Array], exact: Mapping[str, Value]) -> tuple[Comparison, float, tuple[int, ...]]:
    """Compare every output; the comparison that is furthest off, the largest ULP, and all errors in one histogram."""
    comparisons, ulps, counts = [], [0.0], []
    for output, value in zip(outputs, exact.values(), strict=True):
        comparisons.append(value.compare(output))
        if value.element_type is not None:
            ulps.append(max_ulp(output, value.exact, value.element_type))
            counts.append(histogram(output, value.exact, value.error))
    return worst_of(comparisons), max(ulps), _total(counts)


def _total(counts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*counts, strict=True)))
