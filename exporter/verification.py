"""`verify`: do torch, the reference, the function body and every kernel compute the same, within the derived bound?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from exporter.error_statistics import histogram, max_ulp
from exporter.roads import Road, find_roads
from ort_ops.contract import ELEMENT_TYPES, MYLINEAR
from ort_ops.error_bound import Comparison, compare, linear_error_bound
from ort_ops.errors import MylinearError
from ort_ops.evaluate import Evaluation, LinearCall, NoRuleError, Value, evaluate
from ort_ops.model import ModelError, load_model, require_linear_nodes
from ort_ops.operator import ElementType
from ort_ops.reference import linear_float64

Array = NDArray[Any]
DEFAULT_BATCH_SIZES = (1, 2, 7, 64)
EDGES = "edge values"
NODES = "each node alone"
FINITE_DIFFERENCES = "gradients, finite differences in float64"
NN_LINEAR = "gradients, nn.Linear"


class ParityError(MylinearError, AssertionError):
    """A road that leaves its bound; the message has the rows."""


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
        if self.comparison.complaint is None:
            return "ok"
        return self.comparison.complaint + (f"; {self.diverges_at}" if self.diverges_at else "")


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
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

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
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    seed: int = 0,
    dtypes: Sequence[str] = (),
    compile_backend: str | None = "aot_eager",
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Verification:
    """Run one model on every road that this machine has, and hold each against the float64 reference.

    In a test of yours: ``exporter.verify("model.onnx").check()``.

    The bound is derived, not chosen: a running error analysis through the graph, from K, the unit roundoff and the
    magnitudes of what is summed (`ort_ops.evaluate`, `ort_ops.error_bound`). Through many layers it grows wide, so
    that each MYLINEAR node is also run alone on what it received, against the bound of its own sum. A graph with an
    operator that has no rule there is held against float64 as a whole, with what its longest sums allow for numbers of
    that size, and each node alone as ever. Where a road leaves its bound, the first node at which it does is named.

    Args:
        path: a model with MYLINEAR nodes.
        checkpoint: of `mylinear train`; torch eager then runs the network in it. Without one it runs the
            operator at every node of the model.
        batch_sizes: sizes of the dynamic dimensions to try with seeded normal input.
        seed: of that input.
        dtypes: further element types to run each node alone in, with its weights rounded to them.
        compile_backend: of the road ``torch.compile``: ``aot_eager`` traces forward as inductor does but generates no
            code, which takes long; ``inductor`` does all; None leaves the road out.
        on_progress: called with runs done, runs in all, and the road's name.

    Raises: ModelError, ContractError, CheckpointError; never for a mere difference, which the result reports.
    """
    model = load_model(path)
    require_linear_nodes(model, path)
    rng = np.random.default_rng(seed)
    inputs = {f"batch {size}": _random_inputs(model, size, rng) for size in batch_sizes}
    inputs[EDGES] = _edge_inputs(model)
    evaluations, bound = _evaluations(model, inputs)
    roads = find_roads(model, path, checkpoint, compile_backend)
    calls = [call for evaluation in evaluations.values() for call in evaluation.calls]
    if EDGES not in evaluations:
        calls += [_edge_call(call) for call in {call.label: call for call in calls}.values()]
    tasks: list[tuple[Road, str, Callable[[], Row]]] = []
    for road in roads:
        if road.reason is not None:
            reason = Row(road.name, "-", None, road.reason)
            tasks.append((road, "", lambda reason=reason: reason))  # type: ignore[misc]
            continue
        for label, evaluation in evaluations.items():
            tasks.append((road, label, _whole_task(model, road, label, inputs[label], evaluation)))
        tasks.append((road, NODES, _nodes_task(road, NODES, calls, None)))
        for dtype in dtypes:
            label = f"{NODES}, in {dtype}"
            if road.element_types is None or dtype in road.element_types:
                tasks.append((road, label, _nodes_task(road, label, calls, MYLINEAR.element_type(dtype))))
        if road.has_backward:
            tasks += [(road, label, _backward_task(road, label, calls)) for label in (FINITE_DIFFERENCES, NN_LINEAR)]
    rows: list[Row] = []
    total, done = sum(road.reason is None for road, _, _ in tasks), 0
    for road, label, task in tasks:
        if road.reason is None:
            if on_progress is not None:
                on_progress(done, total, f"{road.name}, {label}")
            done += 1
        rows.append(task())
    nodes = [(n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node]
    return Verification(rows, str(path), bound, nodes)


def _whole_task(
    model: onnx.ModelProto, road: Road, label: str, feed: Mapping[str, Array], evaluation: Evaluation
) -> Callable[[], Row]:
    def run() -> Row:
        outputs = road.run(feed)
        comparison, ulp, counts = _compare_outputs(outputs, evaluation.outputs)
        where = "" if comparison.is_within_bound else _first_divergence(model, road, feed, evaluation)
        return Row(road.name, label, comparison, ulp=ulp, histogram=counts, diverges_at=where)

    return run


def _nodes_task(road: Road, label: str, calls: list[LinearCall], element_type: ElementType | None) -> Callable[[], Row]:
    def run() -> Row:
        results = [(call, *_compare_call(road, call, element_type)) for call in calls]
        call, comparison, _, _ = max(results, key=lambda r: (not r[1].is_within_bound, r[1].max_in_bounds))
        ulp = max(result[2] for result in results)
        counts = np.sum([result[3] for result in results], axis=0)
        where = "" if comparison.is_within_bound else f"at node '{call.label}'"
        return Row(road.name, label, comparison, "", ulp, tuple(map(int, counts)), where)

    return run


def _backward_task(road: Road, label: str, calls: list[LinearCall]) -> Callable[[], Row]:
    def run() -> Row:
        from exporter import backward_check

        rng = np.random.default_rng(0)
        comparisons = []
        for call in {call.label: call for call in calls}.values():
            if label == FINITE_DIFFERENCES:
                comparisons.append(backward_check.against_finite_differences(call, rng))
            else:
                comparisons.append(backward_check.against_linear(call, *_arguments(call, call.element_type), rng))
        return Row(road.name, label, _worst_of(comparisons))

    return run


def _evaluations(
    model: onnx.ModelProto, inputs: Mapping[str, Mapping[str, Array]]
) -> tuple[dict[str, Evaluation], str]:
    try:
        found = {label: evaluate(model, feed) for label, feed in inputs.items()}
        return found, "a running error analysis through the graph"
    except NoRuleError as error:
        from exporter.float64_run import evaluate_in_float64

        # Edge values are for the nodes alone: what another operator makes of infinity in float64 is its own matter.
        batches = {label: feed for label, feed in inputs.items() if label != EDGES}
        found = {label: evaluate_in_float64(model, feed) for label, feed in batches.items()}
        return found, f"the longest sums of the graph, in float64 ({error})"


def _first_divergence(model: onnx.ModelProto, road: Road, feed: Mapping[str, Array], evaluation: Evaluation) -> str:
    """Name the first node of the main graph whose value leaves its bound on this road."""
    try:
        values = road.run_all(feed)
    except Exception as error:  # a road that cannot show its inner values
        return f"its inner values cannot be had ({type(error).__name__})"
    for node in model.graph.node:
        for name in node.output:
            exact = evaluation.values.get(name)
            if name in values and exact is not None and exact.element_type is not None:
                comparison = compare(values[name], exact.exact, exact.error, exact.element_type)
                if not comparison.is_within_bound:
                    return f"first at node '{node.name or name}' ({node.op_type})"
    return ""


def _arguments(call: LinearCall, element_type: ElementType) -> tuple[Array, Array, Array | None]:
    dtype = helper.tensor_dtype_to_np_dtype(element_type.onnx_type)
    with np.errstate(all="ignore"):
        bias = None if call.bias is None else call.bias.astype(dtype)
        return call.x.astype(dtype), call.weight.astype(dtype), bias


def _compare_call(
    road: Road, call: LinearCall, element_type: ElementType | None
) -> tuple[Comparison, float, tuple[int, ...]]:
    """Run one node alone on what it received, where the bound is that of a single sum."""
    element_type = element_type or call.element_type
    x, weight, bias = _arguments(call, element_type)
    bound = linear_error_bound(x, weight, bias, element_type)
    exact, got = linear_float64(x, weight, bias), road.run_node(x, weight, bias)
    return compare(got, exact, bound, element_type), max_ulp(got, exact, element_type), histogram(got, exact, bound)


def _compare_outputs(outputs: list[Array], exact: Mapping[str, Value]) -> tuple[Comparison, float, tuple[int, ...]]:
    """Compare every output; the comparison that is furthest off, the largest ULP, and all errors in one histogram."""
    comparisons, ulps, counts = [], [], []
    for output, value in zip(outputs, exact.values(), strict=True):
        if value.element_type is None:
            continue
        comparisons.append(compare(output, value.exact, value.error, value.element_type))
        ulps.append(max_ulp(output, value.exact, value.element_type))
        counts.append(histogram(output, value.exact, value.error))
    if not comparisons:
        raise ModelError("verify compares floating-point outputs, and the model has none")
    return _worst_of(comparisons), max(ulps), tuple(map(int, np.sum(counts, axis=0)))


def _worst_of(comparisons: Iterable[Comparison]) -> Comparison:
    return max(comparisons, key=lambda c: (not c.is_within_bound, c.max_in_bounds))


def _inputs_of(model: onnx.ModelProto) -> list[tuple[str, list[int | str], np.dtype[Any]]]:
    """Name, shape and dtype of every input that must be fed."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in initializers:
            continue
        tensor = value.type.tensor_type
        dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        found.append((value.name, dims, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
    return found


def _random_inputs(model: onnx.ModelProto, size: int, rng: np.random.Generator) -> dict[str, Array]:
    feed = {}
    for name, dims, dtype in _inputs_of(model):
        shape = [size if isinstance(dim, str) else dim for dim in dims]
        if _is_floating(dtype):
            feed[name] = rng.standard_normal(shape).astype(dtype)
        else:  # such as token numbers and masks
            feed[name] = rng.integers(0, 2, shape).astype(dtype)
    return feed


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.name in {element_type.name for element_type in ELEMENT_TYPES}


def _edge_call(call: LinearCall) -> LinearCall:
    """Return the call with edge values for x, where none come to it through the model."""
    element_type = call.element_type
    tiny, large = element_type.smallest, element_type.largest**0.25
    patterns = [[0.0], [-0.0], [tiny, -tiny], [large, -large], [np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0]]
    x = np.array([np.resize(pattern, call.x.shape[-1]) for pattern in patterns])
    return replace(call, x=x)


def _edge_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Zeros of both signs, the smallest and large numbers, near cancellation, infinities and NaN, row by row."""
    feed = {}
    for name, dims, dtype in _inputs_of(model):
        if not _is_floating(dtype):
            feed[name] = np.zeros([9 if isinstance(dim, str) else dim for dim in dims], dtype)
            continue
        element_type = MYLINEAR.element_type(dtype.name)
        tiny, large = element_type.smallest, element_type.largest**0.25
        patterns = [[0.0], [-0.0], [tiny, -tiny], [large, -large], [1.0, -1.0, 1.0 + 2 * element_type.unit_roundoff]]
        patterns += [[np.inf, 1.0], [-np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0]]
        shape = [len(patterns) if isinstance(dim, str) else dim for dim in dims]
        flat = np.zeros(shape).reshape(shape[0] if len(shape) > 1 else 1, -1)
        for row, values in zip(flat, patterns * (len(flat) // len(patterns) + 1), strict=False):
            row[:] = np.resize(values, row.shape)
        feed[name] = flat.reshape(shape).astype(dtype)
    return feed
