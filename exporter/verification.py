"""`verify`: do torch, the reference, the function body and every kernel compute the same, within the derived bound?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from exporter.error_statistics import EDGES as HISTOGRAM_EDGES
from exporter.error_statistics import histogram, max_ulp
from exporter.float64_run import BOUND_IN_WORDS, Float64Run
from exporter.local_error import HAVE_AGREED_EDGES
from exporter.roads import Road, WholeModelError, find_roads
from exporter.verification_inputs import (
    MAX_ROWS_BACKWARD,
    default_batch_sizes,
    edge_call,
    edge_inputs,
    random_inputs,
    thinned,
)
from ort_ops.comparison import Comparison, compare
from ort_ops.contract import MYLINEAR
from ort_ops.error_bound import linear_bound
from ort_ops.errors import MylinearError
from ort_ops.evaluate import Evaluation, LinearCall, Value
from ort_ops.model import ModelError, all_nodes, linear_nodes, linear_nodes_within, load_model, require_linear_nodes
from ort_ops.model_checks import check_linear_shapes
from ort_ops.operator import ElementType
from ort_ops.reference import linear_float64
from ort_ops.report_text import json_text

Array = NDArray[Any]
EDGES = "edge values"
DEVICES = ("auto", "cpu", "cuda")
NODES = "each node alone"
FINITE_DIFFERENCES = "gradients, finite differences in float64"
NN_LINEAR = "gradients, nn.Linear"


class ParityError(MylinearError, AssertionError):
    """A road that leaves its bound; the message has the rows."""


class VerificationError(MylinearError, ValueError):
    """Something that `verify` was asked for and that cannot be."""


@dataclass(frozen=True)
class Row:
    """One road on one input.

    Attributes:
        road: ``torch eager``, ``reference``, or the name of a kernel.
        inputs: which input, in words; `NODES` for the nodes one by one, on what they received of all inputs.
        comparison: with the exact result; None where the road could not be taken.
        reason: why it could not be taken.
        ulp: largest error in units of the last place.
        histogram: of the errors in units of their bound, in the classes of `exporter.error_statistics.EDGES`.
        diverges_at: the first node of the graph whose value leaves its bound, if the model's result does.
    """

    road: str
    inputs: str
    comparison: Comparison | None
    reason: str = ""
    ulp: float = 0.0
    histogram: tuple[int, ...] = ()
    diverges_at: str = ""

    @property
    def verdict(self) -> str:
        if self.comparison is None:
            return f"not run: {self.reason}"
        return self.comparison.text + (f"; {self.diverges_at}" if self.diverges_at else "")


@dataclass(frozen=True)
class Verification:
    """What `verify` found; ``rows`` in the order in which they ran.

    Attributes:
        path: of the model.
        bound: how far the outputs of the whole model may be off, in words.
    """

    rows: list[Row]
    path: str = ""
    bound: str = ""
    nodes: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        return all(row.comparison is None or row.comparison.is_within_bound for row in self.rows)

    def check(self) -> None:
        """Do nothing if parity holds. Raises: ParityError with the rows that violate it."""
        if not self.is_ok:
            wrong = [r for r in self.rows if r.comparison is not None and not r.comparison.is_within_bound]
            raise ParityError("; ".join(f"{row.road}, {row.inputs}: {row.verdict}" for row in wrong))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, numbers and strings, for JSON; infinity as a string."""
        rows = []
        for row in self.rows:
            entry = {**asdict(row), "verdict": row.verdict}
            for part in (entry, entry["comparison"] or {}):
                part.update({k: str(v) for k, v in part.items() if isinstance(v, float) and not np.isfinite(v)})
            rows.append(entry)
        return {"model": self.path, "is_ok": self.is_ok, "bound": self.bound, "rows": rows}

    def to_json(self) -> str:
        """Return `as_dict` as JSON text."""
        return json_text(self.as_dict())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and cells, for `ort_ops.table.format_table` and the report."""
        cells = []
        for row in self.rows:
            error, units, ulp = "-", "-", "-"
            if row.comparison is not None:
                error, units = f"{row.comparison.max_error:.3g}", f"{row.comparison.max_in_bounds:.3f}"
                ulp = f"{row.ulp:.3g}"
            cells.append([row.road, row.inputs, error, units, ulp, row.verdict])
        return ["kernel", "input", "max abs error", "error / bound", "ULP", "verdict"], cells

    def worst_rows(self) -> list[Row]:
        """Return for each road the row that is furthest off."""
        worst: dict[str, Row] = {}
        for row in self.rows:
            if row.road not in worst or _distance(row) > _distance(worst[row.road]):
                worst[row.road] = row
        return list(worst.values())

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """Return the same table with one row for each road: its worst verdict, and its largest error of the batches.

        The edge values count for the verdict and for the error in units of the bound, but among them are numbers so
        large that an absolute error of theirs tells nothing.
        """
        header, cells = Verification(self.worst_rows()).table()
        batches = [row for row in self.rows if row.inputs.startswith("batch")]
        largest: dict[str, float] = {}
        for row in batches:
            if row.comparison is not None:
                largest[row.road] = max(row.comparison.max_error, largest.get(row.road, 0.0))
        rows = []
        for road, _, _, units, _, verdict in cells:
            rows.append([road, f"{largest[road]:.3g}" if road in largest else "-", units, verdict])
        return [name for name in header if name not in ("input", "ULP")], rows


def _distance(row: Row) -> tuple[bool, float]:
    if row.comparison is None:
        return False, -1.0
    return not row.comparison.is_within_bound, row.comparison.max_in_bounds


def verify(
    path: str | Path,
    *,
    checkpoint: str | Path | None = None,
    batch_sizes: Sequence[int] | None = None,
    seed: int = 0,
    dtypes: Sequence[str] = (),
    compile_backend: str | None = "aot_eager",
    device: str = "auto",
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Verification:
    """Run one model on every road that this machine has, and hold each against the float64 reference.

    In a test of yours: ``exporter.verify("model.onnx").check()``.

    The bound is derived, not chosen. Each MYLINEAR node is run alone on what it received, against the bound of its own
    sum (`ort_ops.error_bound`), which no right kernel can leave. The outputs of the whole model are bounded by the
    rounding errors of every node as they arrive there (`exporter.float64_run`), at any depth and for any operator.
    Where a road leaves its bound, the first node at which it does is named.

    Args:
        path: a model with MYLINEAR nodes.
        checkpoint: of `mylinear train`; torch eager then runs the network in it. Without one it runs the
            operator at every node of the model.
        batch_sizes: sizes of the dynamic dimensions to try with seeded normal input; None for 1, 2, 7 and 64, with 32
            for the last where an input has more than one of them.
        seed: of that input.
        dtypes: further element types to run each node alone in, with its weights rounded to them.
        compile_backend: of the road ``torch.compile``: ``aot_eager`` traces forward as inductor does but generates no
            code, which takes long; ``inductor`` does all; None leaves the road out.
        device: ``auto`` takes the CPU's roads, and CUDA's where onnxruntime has its provider; ``cuda`` does so too, and
            raises where the CUDA kernel cannot run; ``cpu`` leaves CUDA's roads out.
        on_progress: called with runs done, runs in all, and the road's name.

    Raises: VerificationError, ModelError, ContractError, CheckpointError, KernelError; never for a mere difference,
        which the result reports.
    """
    model = load_model(path)
    require_linear_nodes(model, path)
    check_linear_shapes(model)
    rng = np.random.default_rng(seed)
    if batch_sizes is not None and any(size < 0 for size in batch_sizes):
        raise VerificationError(f"batch sizes must be 0 or more, got {', '.join(map(str, batch_sizes))}")
    if device not in DEVICES:
        raise VerificationError(f"device must be {' or '.join(DEVICES)}, got {device}")
    sizes = default_batch_sizes(model) if batch_sizes is None else batch_sizes
    inputs = {f"batch {size}": random_inputs(model, size, rng) for size in sizes}
    inputs[EDGES] = edge_inputs(model)
    evaluate_again, evaluations, bound = _evaluations(model, inputs)
    roads = find_roads(model, path, checkpoint, compile_backend, device)
    calls: dict[str, list[LinearCall]] = {}
    for evaluation in evaluations.values():
        for call in evaluation.calls:
            calls.setdefault(call.label, []).append(call)
    if EDGES not in evaluations:
        calls = {label: [*received, edge_call(received[-1])] for label, received in calls.items()}
    found = {road.name: [] if road.reason is None else [Row(road.name, "-", None, road.reason)] for road in roads}
    roads = [road for road in roads if road.reason is None]
    each_node = [_NodeRow(road, element_type) for road in roads for element_type in _types_of(road, dtypes)]
    with_backward = [road for road in roads if road.has_backward]
    total = len(roads) * len(evaluations) + len(calls) + 2 * len(with_backward)
    done = itertools.count()

    def progress(what: str) -> None:
        if on_progress is not None:
            on_progress(next(done), total, what)

    for road in roads:
        for label, evaluation in evaluations.items():
            progress(f"{road.name}, {label}")
            row = _whole_row(model, road, label, inputs[label], evaluation, evaluate_again)
            if row not in found[road.name]:  # one reason, not one for each input
                found[road.name].append(row)
    for label, received in calls.items():
        progress(f"node {label} alone")
        _run_alone(received, each_node)
    for node_row in each_node:
        found[node_row.road.name].append(node_row.finish())
    for road in with_backward:
        for label in (FINITE_DIFFERENCES, NN_LINEAR):
            progress(f"{road.name}, {label}")
            found[road.name].append(_backward_row(road, label, [received[-1] for received in calls.values()]))
    rows = [row for of_road in found.values() for row in of_road]
    missed = [linear.path for linear in linear_nodes(model) if linear.path not in calls]
    if missed:
        reason = f"what {_listed(missed)} received cannot be had: covered only with the model as a whole"
        rows.append(Row("every road", NODES, None, reason))
    nodes = [(n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node]
    return Verification(rows, str(path), bound, nodes)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"node '{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _types_of(road: Road, dtypes: Sequence[str]) -> list[ElementType | None]:
    """The element types to run each node alone in: its own, which is None here, and those asked for that are served."""
    served = [dtype for dtype in dtypes if road.element_types is None or dtype in road.element_types]
    return [None, *(MYLINEAR.element_type(dtype) for dtype in served)]


def _whole_row(
    model: onnx.ModelProto,
    road: Road,
    label: str,
    feed: Mapping[str, Array],
    evaluation: Evaluation,
    evaluate_again: Callable[[Mapping[str, Array]], Evaluation],
) -> Row:
    try:
        outputs = road.run(feed)
    except WholeModelError as error:
        return Row(road.name, "the whole model", None, str(error))
    comparison, ulp, counts = _compare_outputs(outputs, evaluation.outputs)
    where = "" if comparison.is_within_bound else _first_divergence(model, road, feed, evaluate_again(feed))
    return Row(road.name, label, comparison, ulp=ulp, histogram=counts, diverges_at=where)


@dataclass
class _NodeRow:
    """The row of one road on each node alone, as it grows."""

    road: Road
    element_type: ElementType | None
    worst: tuple[str, Comparison] | None = None
    ulp: float = 0.0
    counts: tuple[int, ...] = (0,) * (len(HISTOGRAM_EDGES) + 1)

    def add(self, label: str, comparison: Comparison, ulp: float, counts: tuple[int, ...]) -> None:
        if self.worst is None or _worst_of([self.worst[1], comparison]) is not self.worst[1]:
            self.worst = label, comparison
        self.ulp = max(self.ulp, ulp)
        self.counts = tuple(a + b for a, b in zip(self.counts, counts, strict=True))

    def finish(self) -> Row:
        inputs = NODES if self.element_type is None else f"{NODES}, in {self.element_type.name}"
        if self.worst is None:
            return Row(self.road.name, inputs, None, "no input of any node can be had")
        label, comparison = self.worst
        where = "" if comparison.is_within_bound else f"at node '{label}'"
        return Row(self.road.name, inputs, comparison, "", self.ulp, self.counts, where)


def _run_alone(calls: Sequence[LinearCall], rows: Sequence[_NodeRow]) -> None:
    """Run one node alone on what it received, on every road, where the bound is that of a single sum."""
    for element_type in {row.element_type: None for row in rows}:
        own_type = element_type or calls[0].element_type
        runners: dict[tuple[int, int], Any] = {}
        for call in calls:
            x, weight, bias = _arguments(call, own_type)
            exact = linear_float64(x, weight, bias)
            ways = {row.road.arithmetic for row in rows}
            bounds = {way: linear_bound(x, weight, bias, own_type, arithmetic=way) for way in ways}
            for index, row in enumerate(rows):
                if row.element_type is not element_type:
                    continue
                # A session for each rank, not for each input; a weight that is computed may be another each time.
                key = (index, x.ndim)
                known = runners.get(key)
                if known is None or not (_is_same(known[0], call.weight) and _is_same(known[1], call.bias)):
                    known = runners[key] = call.weight, call.bias, row.road.open_node(weight, bias, x.ndim)
                got, bound = known[2](x), bounds[row.road.arithmetic]
                comparison = compare(got, exact, bound, own_type)
                row.add(call.label, comparison, max_ulp(got, exact, own_type), histogram(got, exact, bound.error))


def _is_same(a: Array | None, b: Array | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))


def _backward_row(road: Road, label: str, calls: Sequence[LinearCall]) -> Row:
    from exporter import backward_check

    rng = np.random.default_rng(0)
    comparisons = []
    for call in calls:
        if label == FINITE_DIFFERENCES:
            comparisons.append(backward_check.against_finite_differences(thinned(call, MAX_ROWS_BACKWARD), rng))
        else:
            call = thinned(call, MAX_ROWS_BACKWARD)
            comparisons.append(backward_check.against_linear(call, *_arguments(call, call.element_type), rng))
    if not comparisons:
        return Row(road.name, label, None, "no input of any node can be had")
    return Row(road.name, label, _worst_of(comparisons))


def _evaluations(
    model: onnx.ModelProto, inputs: Mapping[str, Mapping[str, Array]]
) -> tuple[Callable[[Mapping[str, Array]], Evaluation], dict[str, Evaluation], str]:
    """Return how to evaluate the model, what came of each input without inner values, and the bound in words."""

    def each(run: Callable[[Mapping[str, Array]], Evaluation], labels: Iterable[str]) -> dict[str, Evaluation]:
        found = {}
        for label in labels:
            evaluation = run(inputs[label])
            found[label] = replace(evaluation, calls=[thinned(call) for call in evaluation.calls])
        return found

    run = Float64Run(model)
    # What other operators make of infinities and NaN is their own matter; then edge values are for the nodes alone.
    has_edges = all(node.op_type in HAVE_AGREED_EDGES or node.domain == MYLINEAR.domain for node in all_nodes(model))
    found = each(run, [label for label in inputs if label != EDGES or has_edges])
    return lambda feed: run(feed, keep_values=True), found, BOUND_IN_WORDS


def _first_divergence(model: onnx.ModelProto, road: Road, feed: Mapping[str, Array], evaluation: Evaluation) -> str:
    """Name the first node of the main graph whose value leaves its bound on this road, and the MYLINEAR node in it."""
    try:
        values = road.run_all(feed)
    except Exception as error:  # a road that cannot show its inner values
        return f"its inner values cannot be had ({type(error).__name__})"
    for node in model.graph.node:
        for name in node.output:
            exact = evaluation.values.get(name)
            if name in values and exact is not None and not exact.compare(values[name]).is_within_bound:
                where = f"first at node '{node.name or name}' ({node.op_type})"
                return where + _divergence_within(model, road, node, evaluation)
    return ""


def _divergence_within(model: onnx.ModelProto, road: Road, node: onnx.NodeProto, evaluation: Evaluation) -> str:
    """Name the MYLINEAR node within a node (in its bodies, or functions that it calls) that leaves its bound alone."""
    inside = [linear.path for linear in linear_nodes_within(model, node)]
    if not inside or (node.domain, node.op_type) == (MYLINEAR.domain, MYLINEAR.name):
        return ""
    for call in evaluation.calls:
        if call.label in inside:
            row = _NodeRow(road, None)
            _run_alone([thinned(call)], [row])
            if row.worst is not None and not row.worst[1].is_within_bound:
                return f", in it at node '{call.label}'"
    return f", which holds {_listed(inside)}"


def _arguments(call: LinearCall, element_type: ElementType) -> tuple[Array, Array, Array | None]:
    dtype = helper.tensor_dtype_to_np_dtype(element_type.onnx_type)
    with np.errstate(all="ignore"):
        bias = None if call.bias is None else call.bias.astype(dtype)
        return call.x.astype(dtype), call.weight.astype(dtype), bias


def _compare_outputs(outputs: list[Array], exact: Mapping[str, Value]) -> tuple[Comparison, float, tuple[int, ...]]:
    """Compare every output; the comparison that is furthest off, the largest ULP, and all errors in one histogram."""
    comparisons, ulps, counts = [], [], []
    for output, value in zip(outputs, exact.values(), strict=True):
        if value.element_type is None:
            continue
        comparisons.append(value.compare(output))
        ulps.append(max_ulp(output, value.exact, value.element_type))
        counts.append(histogram(output, value.exact, value.error))
    if not comparisons:
        raise ModelError("verify compares floating-point outputs, and the model has none")
    return _worst_of(comparisons), max(ulps), tuple(map(int, np.sum(counts, axis=0)))


def _worst_of(comparisons: Iterable[Comparison]) -> Comparison:
    return max(comparisons, key=lambda c: (not c.is_within_bound, c.max_in_bounds))
