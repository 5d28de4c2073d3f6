"""Verify one model: evaluate it in float64, run every backend, and run each node alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from exporter.verification.backends.base import Backend
from exporter.verification.inputs import Case, rows_that_fit
from exporter.verification.nodes.drawn import NodeDrawer, edge_call
from exporter.verification.nodes.gradients import gradient_labels, gradient_row
from exporter.verification.nodes.run import NodeCall, NodeRows, run_alone, types_of
from exporter.verification.plan import OnProgress, Plan
from exporter.verification.reasons import (
    NoCall,
    NotDrawn,
    Note,
    RanOnDrawnNumbers,
    Reason,
    Untested,
    WholeModelNotRun,
)
from exporter.verification.result import GraphNode, Verification
from exporter.verification.row import Row
from exporter.verification.whole_model import Ran, WholeModel
from ort_ops.analysis.float64_run import BOUND_IN_WORDS
from ort_ops.analysis.rows import rows_index, thinned
from ort_ops.models.inputs.draw import InputDrawer
from ort_ops.models.nodes import OperatorNode, node_types, operator_nodes
from ort_ops.opdef import registry

_DRAWN_ROWS = (1, 2, 7, 64)
_EVALUATE, _RUN, _ALONE, _GRADIENTS = "evaluate", "run", "alone", "gradients"


class Verifier:
    """One verification: evaluate in float64, run each backend, run each node alone."""

    def __init__(
        self,
        model: onnx.ModelProto,
        path: str | Path,
        drawer: InputDrawer,
        cases: Sequence[Case],
        seed: int,
        on_progress: OnProgress | None,
        loss: str = "",
    ) -> None:
        """Prepare a model without the definitions of operators, and what to run it on; ``loss`` as in `WholeModel`."""
        self._model, self._path, self._drawer, self._cases, self._seed = model, path, drawer, cases, seed
        self._nodes = operator_nodes(model)
        self._kits = list({found.operator.key: found.kit for found in self._nodes}.values())
        self._plan = Plan(on_progress)
        self._whole = WholeModel(model, path, loss)
        self._calls: dict[str, list[NodeCall]] = {}
        self._remarks: list[Note] = []
        self._untested: dict[str, Untested] = {}
        self._why_not_run: Reason | None = None

    def run(self, backends: Sequence[Backend], dtypes: Sequence[str], *, with_gradients: bool = True) -> Verification:
        """Run everything, in an order in which no two backends are open at once."""
        found: dict[str, list[Row]] = {
            backend.name: [] if backend.reason is None else [Row(backend.name, "-", None, backend.reason)]
            for backend in backends
        }
        backends = [backend for backend in backends if backend.reason is None]
        with_backward = [backend for backend in backends if backend.has_backward and with_gradients]
        labels = gradient_labels(self._kits) if with_backward else []
        self._make_plan(len(backends), len(with_backward) * len(labels))
        ran = self._run_cases()
        for backend in backends:
            found[backend.name] += self._whole.rows(backend, ran, lambda what: self._plan.start(_RUN, what))
        self._add_drawn_calls()
        each_node = [NodeRows(backend, found_in) for backend in backends for found_in in types_of(backend, dtypes)]
        for node in self._nodes:
            self._plan.start(_ALONE, f"node {node.path} alone")
            received = self._calls.get(node.path)
            reason = run_alone(received, each_node) if received else None
            if reason is not None:
                self._untested[node.path] = reason
        for node_rows in each_node:
            found[node_rows.backend.name] += node_rows.finish()
        for backend in with_backward:
            for label in labels:
                self._plan.start(_GRADIENTS, f"{backend.name}, {label}")
                found[backend.name].append(gradient_row(backend.name, label, self._calls))
        return Verification(
            [row for of_backend in found.values() for row in of_backend],
            str(self._path),
            BOUND_IN_WORDS,
            self._graph_nodes(),
            self._untested,
            self._remarks,
            len(self._nodes),
            unbounded=_unbounded(ran),
        )

    def _graph_nodes(self) -> list[GraphNode]:
        ours = registry.names()
        return [
            GraphNode(n.name, n.op_type, tuple(n.input), tuple(n.output), (n.domain, n.op_type) in ours)
            for n in self._model.graph.node
        ]

    def _make_plan(self, num_backends: int, num_gradients: int) -> None:
        """Estimate costs in multiply-adds; the overhead of a node counts as some million."""
        sizes = [float(self._stored_size(found)) for found in self._nodes]
        one_row, fixed = sum(sizes), 1e5 * len(self._model.graph.node)
        rows = [max(1, case.num_rows) for case in self._cases]
        self._plan.costs = {
            _EVALUATE: [40 * (one_row * count + fixed) for count in rows],
            _RUN: [one_row * count + 2 * one_row + fixed for _ in range(num_backends) for count in rows],
            _ALONE: [num_backends * (4e6 + 3 * size + 40 * size * len(rows)) for size in sizes],
            _GRADIENTS: [20 * one_row * 16 for _ in range(num_gradients)],
        }

    def _stored_size(self, found: OperatorNode) -> int:
        """Return how many numbers the largest input of a node has whose shape is known."""
        shapes = (self._drawer.dims.get(name) for name in found.inputs if name)
        return max((math.prod(d for d in dims if isinstance(d, int)) for dims in shapes if dims), default=1)

    def _run_cases(self) -> list[Ran]:
        """Evaluate the model on every case; note those on which it does not run."""
        most = rows_that_fit([self._row_nbytes(found) for found in self._nodes], len(self._cases))
        kits = {found.path: found.kit for found in self._nodes}
        ran: list[Ran] = []
        refused: dict[Reason, list[str]] = {}
        for case, feed in zip(self._cases, self._whole.feeds(self._cases), strict=True):
            self._plan.start(_EVALUATE, f"float64, {case.label}")
            found = self._whole.evaluate(case, feed)
            if not isinstance(found, Ran):
                refused.setdefault(found, []).append(case.label)
                continue
            for call in found.evaluation.calls:
                kit = kits[call.label]
                self._calls.setdefault(call.label, []).append(NodeCall(kit, thinned(kit, call, most), case.is_edge))
            ran.append(replace(found, evaluation=replace(found.evaluation, calls=[], values={})))
        for reason, labels in refused.items():
            suggests_inputs = isinstance(reason, NotDrawn) or not ran
            self._remarks.append(WholeModelNotRun(tuple(labels), reason, suggests_inputs))
        if refused and not ran:
            self._why_not_run = next(iter(refused))
        return ran

    def _row_nbytes(self, found: OperatorNode) -> int:
        """Return the memory of one row of a call."""
        index = rows_index(found.kit)
        dims = None if index is None else self._drawer.dims.get(found.inputs[index])
        last = dims[-1] if dims else None
        if not isinstance(last, int):
            last = max(
                (d for name in found.inputs for d in self._drawer.dims.get(name) or () if isinstance(d, int)),
                default=1024,
            )
        return 8 * last

    def _add_drawn_calls(self) -> None:
        """Give every node that received nothing drawn numbers, and every node edge values."""
        missing = [(i, found) for i, found in enumerate(self._nodes) if found.path not in self._calls]
        types = node_types(self._model) if missing else []
        drawer = NodeDrawer(self._model, self._drawer.dims, self._seed)
        drawn: list[str] = []
        for index, found in missing:
            calls = drawer.draw(found, types[index], _DRAWN_ROWS)
            if isinstance(calls, tuple):
                self._untested[found.path] = NoCall(self._why_not_run, calls)
                continue
            self._calls[found.path] = [NodeCall(found.kit, call) for call in calls]
            drawn.append(found.path)
        if drawn:
            self._remarks.append(RanOnDrawnNumbers(tuple(drawn), self._why_not_run is None))
        for received in self._calls.values():
            if not any(call.is_edge for call in received):
                edges = edge_call(received[-1].kit, received[-1].call)
                received += [] if edges is None else [NodeCall(received[-1].kit, edges, is_edge=True)]


def _unbounded(ran: Sequence[Ran]) -> tuple[str, ...]:
    """Return the outputs that have a value without a bound on every input."""
    found = [
        {name: bool(np.isinf(value.error).any()) for name, value in one.evaluation.outputs.items()}
        for one in ran
        if one.case.in_a_row is None and not one.case.is_edge
    ]
    return tuple(name for name in (found[0] if found else ()) if all(of_one[name] for of_one in found))
