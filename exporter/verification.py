"""`verify`: do torch, the reference, the function body and every kernel compute the same, within the derived bound?"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from ort_ops.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.error_bound import Comparison, compare, linear_error_bound
from ort_ops.evaluate import LinearCall, evaluate
from ort_ops.model import ModelError, element_types, load_model, make_linear_model, require_linear_nodes
from ort_ops.reference import MylinearReference, linear, linear_float64
from ort_ops.session import InferenceSession, available_kernels

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], list[Array]]
DEFAULT_BATCH_SIZES = (1, 2, 7, 64)
EDGES = "edge values"
NODES = "each node alone"


@dataclass(frozen=True)
class Row:
    """One road on one input.

    Attributes:
        road: ``torch eager``, ``reference``, or the name of a kernel.
        inputs: which input, in words; `NODES` for the nodes one by one, on what they received of all inputs.
        comparison: with the exact result; None where the road could not be taken.
        reason: why it could not be taken.
    """

    road: str
    inputs: str
    comparison: Comparison | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        if self.comparison is None:
            return f"not run: {self.reason}"
        return self.comparison.complaint or "ok"


@dataclass(frozen=True)
class Verification:
    """What `verify` found; ``rows`` in the order in which they ran."""

    rows: list[Row]

    @property
    def is_ok(self) -> bool:
        return all(row.comparison is None or row.comparison.is_within_bound for row in self.rows)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and cells, for `ort_ops.table.format_table` and the report."""
        cells = []
        for row in self.rows:
            error, units = "-", "-"
            if row.comparison is not None:
                error, units = f"{row.comparison.max_error:.3g}", f"{row.comparison.max_in_bounds:.3f}"
            cells.append([row.road, row.inputs, error, units, row.verdict])
        return ["kernel", "input", "max abs error", "error / bound", "verdict"], cells

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
        for road, _, _, units, verdict in cells:
            rows.append([road, f"{largest[road]:.3g}" if road in largest else "-", units, verdict])
        return [name for name in header if name != "input"], rows


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
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Verification:
    """Run one model on every road that this machine has, and hold each against the float64 reference.

    The bound is derived, not chosen: a running error analysis through the graph, from K, the unit roundoff and the
    magnitudes of what is summed (`ort_ops.evaluate`, `ort_ops.error_bound`). Through many layers it grows wide, so
    that each MYLINEAR node is also run alone on what it received, against the bound of its own sum.

    Args:
        path: a model with MYLINEAR nodes.
        checkpoint: of `mylinear train`; torch eager then runs the network in it. Without one it runs the
            operator at every node of the model.
        batch_sizes: sizes of the dynamic dimensions to try with seeded normal input.
        seed: of that input.
        on_progress: called with runs done, runs in all, and the road's name.

    Raises: ModelError, ContractError, CheckpointError; never for a mere difference, which the result reports.
    """
    model = load_model(path)
    require_linear_nodes(model, path)
    rng = np.random.default_rng(seed)
    inputs = {f"batch {size}": _random_inputs(model, size, rng) for size in batch_sizes}
    inputs[EDGES] = _edge_inputs(model)
    evaluations = {label: evaluate(model, feed) for label, feed in inputs.items()}
    roads = _roads(model, path, checkpoint)
    rows: list[Row] = []
    total = sum(road.reason is None for road in roads) * (len(inputs) + 1)

    def report(road: _Road, what: str) -> None:
        if on_progress is not None:
            on_progress(sum(row.comparison is not None for row in rows), total, f"{road.name}, {what}")

    for road in roads:
        if road.reason is not None:
            rows.append(Row(road.name, "-", None, road.reason))
            continue
        for label, feed in inputs.items():
            report(road, label)
            rows.append(Row(road.name, label, _worst(road.run(feed), evaluations[label].outputs)))
        report(road, NODES)
        calls = [call for evaluation in evaluations.values() for call in evaluation.calls]
        rows.append(Row(road.name, NODES, _worst_of(_compare_call(road, call) for call in calls)))
    return Verification(rows)


@dataclass(frozen=True)
class _Road:
    """A way to run the model, and to run one of its MYLINEAR nodes alone; with a reason, it cannot be taken."""

    name: str
    run: Run = lambda feed: []
    run_node: Callable[[Array, Array, Array | None], Array] = lambda x, weight, bias: x
    reason: str | None = None


def _roads(model: onnx.ModelProto, path: str | Path, checkpoint: str | Path | None) -> list[_Road]:
    """Return every road: how it runs, or the reason why it cannot be taken."""
    roads = [_torch_road(model, checkpoint), _Road("reference", _evaluator(model, MylinearReference), linear)]
    types = element_types(model)
    for kernel in available_kernels():
        missing = types - set(kernel.element_types)
        reason = kernel.reason
        if reason is None and missing:
            reason = f"serves {' and '.join(kernel.element_types)}, the model has {' and '.join(sorted(missing))}"
        roads.append(_Road(kernel.name, reason=reason) if reason else _session_road(path, kernel.name))
    return roads


def _session_road(path: str | Path, kernel: str) -> _Road:
    options = _quiet_options()
    session = InferenceSession(path, options, kernels=kernel)

    def run_node(x: Array, weight: Array, bias: Array | None) -> Array:
        node = make_linear_model([f"d{i}" for i in range(x.ndim - 1)] + [x.shape[-1]], weight, bias)
        alone = InferenceSession(node.SerializeToString(), _quiet_options(), kernels=kernel)
        result: Array = alone.run(None, {"x": x})[0]
        return result

    return _Road(kernel, lambda feed: session.run(None, feed), run_node)


def _quiet_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _evaluator(model: onnx.ModelProto, operator: type[OpRun]) -> Run:
    # Without the model-local function, or the evaluator would take that instead of the operator.
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.functions[:]
    evaluator = ReferenceEvaluator(stripped, new_ops=[operator])

    def run(feed: Mapping[str, Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(output) for output in evaluator.run(None, dict(feed))]

    return run


def _torch_road(model: onnx.ModelProto, checkpoint: str | Path | None) -> _Road:
    name = "torch eager"
    if importlib.util.find_spec("torch") is None:
        return _Road(name, reason="torch is not installed; pip install 'ort-mylinear[export]'")
    import torch

    from exporter import functional
    from exporter.tensors import from_numpy, to_numpy

    def run_node(x: Array, weight: Array, bias: Array | None) -> Array:
        with torch.no_grad():
            bias_tensor = None if bias is None else from_numpy(bias)
            return to_numpy(functional.linear(from_numpy(x), from_numpy(weight), bias_tensor))

    if checkpoint is not None:
        from exporter.checkpoint import load_network

        network = load_network(checkpoint)

        def run(feed: Mapping[str, Array]) -> list[Array]:
            with torch.no_grad():
                return [to_numpy(network(*map(from_numpy, feed.values())))]

        return _Road(name, run, run_node)

    class TorchLinear(OpRun):
        op_domain = DOMAIN

        def _run(self, x: Any, weight: Any, bias: Any = None) -> tuple[Array]:
            return (run_node(x, weight, bias),)

    TorchLinear.__name__ = NAME
    return _Road(name, _evaluator(model, TorchLinear), run_node)


def _compare_call(road: _Road, call: LinearCall) -> Comparison:
    """Run one node alone on what it received, where the bound is that of a single sum."""
    dtype = helper.tensor_dtype_to_np_dtype(call.element_type.onnx_type)
    with np.errstate(all="ignore"):
        x, weight = call.x.astype(dtype), call.weight.astype(dtype)
        bias = None if call.bias is None else call.bias.astype(dtype)
    bound = linear_error_bound(x, weight, bias, call.element_type)
    return compare(road.run_node(x, weight, bias), linear_float64(x, weight, bias), bound, call.element_type)


def _worst(outputs: list[Array], exact: Mapping[str, Any]) -> Comparison:
    """Compare every output and return the comparison that is furthest off."""
    comparisons = []
    for output, value in zip(outputs, exact.values(), strict=True):
        if value.element_type is None:
            raise ModelError("verify compares floating-point outputs only")
        comparisons.append(compare(output, value.exact, value.error, value.element_type))
    return _worst_of(comparisons)


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
        MYLINEAR.element_type(tensor.elem_type)
        dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        found.append((value.name, dims, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
    return found


def _random_inputs(model: onnx.ModelProto, size: int, rng: np.random.Generator) -> dict[str, Array]:
    return {
        name: rng.standard_normal([size if isinstance(dim, str) else dim for dim in dims]).astype(dtype)
        for name, dims, dtype in _inputs_of(model)
    }


def _edge_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Zeros of both signs, the smallest and large numbers, near cancellation, infinities and NaN, row by row."""
    feed = {}
    for name, dims, dtype in _inputs_of(model):
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
