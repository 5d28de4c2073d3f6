"""Each MYLINEAR node alone: on what it received, on every backend, against the bound of its own sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.verification.backends import NodeAlone, Road
from exporter.verification.inputs import MAX_ROWS_BACKWARD, rounded, thinned
from exporter.verification.result import EDGES, NODES, Part, Row, worst_of
from ort_ops.analysis.evaluation import LinearCall
from ort_ops.numerics.bound import Arithmetic, Bound
from ort_ops.numerics.compare import Comparison, compare
from ort_ops.numerics.statistics import EDGES as HISTOGRAM_EDGES
from ort_ops.numerics.statistics import histogram, max_ulp
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64

Array = NDArray[Any]
FINITE_DIFFERENCES = "gradients, finite differences in float64"
NN_LINEAR = "gradients, nn.Linear"
_CHUNK = 2**22  # weights that are widened to float64 at a time
_TOGETHER = 2**21  # results that are computed from one pass over a weight
_MOST_WEIGHTS = 2**20  # of a node whose gradients are checked: its first features
_MOST_OF_A_SHAPE = 3  # nodes whose gradients are checked: they are one function of the same shapes


@dataclass(frozen=True)
class NodeCall:
    """What one node received from one input, which may be of edge values."""

    call: LinearCall
    is_edge: bool = False


@dataclass
class NodeRows:
    """The rows of one backend on each node alone, in one element type, as they grow."""

    road: Road
    element_type: ElementType | None
    """None for each node's own."""
    worst: dict[bool, tuple[str, Comparison]] = field(default_factory=dict)
    counts: dict[bool, tuple[int, ...]] = field(default_factory=dict)
    ulp: dict[bool, float] = field(default_factory=dict)
    dtypes: dict[str, None] = field(default_factory=dict)

    def add(self, label: str, is_edge: bool, comparison: Comparison, ulp: float, counts: tuple[int, ...]) -> None:
        """Take one result, of edge values or of others."""
        if is_edge not in self.worst:
            self.worst[is_edge] = label, comparison
            self.counts[is_edge] = (0,) * (len(HISTOGRAM_EDGES) + 1)
        known_label, known = self.worst[is_edge]
        total = worst_of([known, comparison])
        is_further = (not comparison.is_within_bound, comparison.max_in_bounds) > (
            not known.is_within_bound, known.max_in_bounds,
        )  # fmt: skip
        self.worst[is_edge] = label if is_further else known_label, total
        self.ulp[is_edge] = max(self.ulp.get(is_edge, 0.0), ulp)
        self.counts[is_edge] = tuple(a + b for a, b in zip(self.counts[is_edge], counts, strict=True))

    def finish(self) -> list[Row]:
        """Return a row for ordinary numbers and one for edge values, as far as there were any."""
        suffix = "" if self.element_type is None else f", in {self.element_type.name}"
        if not self.worst:
            return [Row(self.road.name, NODES + suffix, None, "no node could be run alone", part=Part.NODES)]
        rows = []
        for is_edge, (label, comparison) in sorted(self.worst.items()):
            where = "" if comparison.is_within_bound else f"at node '{label}'"
            name = f"{NODES}, {EDGES}" if is_edge else NODES
            rows.append(
                Row(
                    self.road.name,
                    name + suffix,
                    comparison,
                    ulp=self.ulp[is_edge],
                    histogram=self.counts[is_edge],
                    diverges_at=where,
                    part=Part.NODES,
                    dtype=", ".join(self.dtypes),
                    is_edge=is_edge,
                )
            )
        return rows


def types_of(road: Road, dtypes: Sequence[str]) -> list[ElementType | None]:
    """The element types to run each node alone in: its own, which is None here, and those asked for that are served."""
    served = [dtype for dtype in dtypes if road.element_types is None or dtype in road.element_types]
    return [None, *(MYLINEAR.element_type(dtype) for dtype in served)]


def run_alone(calls: Sequence[NodeCall], rows: Sequence[NodeRows]) -> bool:
    """Run one node alone on all that it received, on every backend, and return whether anything was compared by it.

    Its weight is read once. The sessions of one element type are open together, and end before those of the next.
    """
    first = calls[0].call
    weight, bias = first.weight, first.bias
    is_proved = False
    for element_type in {row.element_type: None for row in rows}:
        own = [row for row in rows if row.element_type is element_type]
        is_proved |= _run_in_type(calls, own, element_type or first.element_type, weight, bias)
    return is_proved


def _run_in_type(
    calls: Sequence[NodeCall], rows: Sequence[NodeRows], own_type: ElementType, weight: Array, bias: Array | None
) -> bool:
    served = [row for row in rows if row.road.element_types is None or own_type.name in row.road.element_types]
    ways = {row.road.arithmetic for row in served}
    is_proved = False
    first = True
    for group in _calls_of_one_node(calls):
        if not first:  # a weight that is computed may be another each time
            weight, bias = group[0].call.weight, group[0].call.bias
        first = False
        node = NodeAlone(rounded(weight, own_type), None if bias is None else rounded(bias, own_type))
        runners: dict[tuple[int, int], Any] = {}
        xs = [rounded(node_call.call.x, own_type) for node_call in group]
        for node_call, x, (exact, bounds) in zip(group, xs, _exact_and_bounds(xs, node, own_type, ways), strict=True):
            for index, row in enumerate(served):
                key = (index, x.ndim)  # a session for each rank, not for each input
                if key not in runners:
                    runners[key] = row.road.open_node(node, x.ndim)
                got, bound = runners[key](x), bounds[row.road.arithmetic]
                comparison = compare(got, exact, bound, own_type)
                row.dtypes[own_type.name] = None
                row.add(
                    node_call.call.label, node_call.is_edge, comparison, max_ulp(got, exact, own_type),
                    histogram(got, exact, bound.error),
                )  # fmt: skip
                unproved = comparison.num_unbounded + comparison.num_undecided
                is_proved |= not comparison.num_values or unproved < comparison.num_values
    return is_proved


def _calls_of_one_node(calls: Sequence[NodeCall]) -> list[list[NodeCall]]:
    """Return the calls in their order, those beside each other with one weight and bias together."""
    groups: list[list[NodeCall]] = []
    for node_call in calls:
        if groups and _is_same_node(groups[-1][0].call, node_call.call):
            groups[-1].append(node_call)
        else:
            groups.append([node_call])
    return groups


def _is_same_node(a: LinearCall, b: LinearCall) -> bool:
    return _is_same(a.stored_weight, b.stored_weight) and _is_same(a.stored_bias, b.stored_bias)


def _is_same(a: Any, b: Any) -> bool:
    both = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return a is b or (both and np.array_equal(a, b, equal_nan=True))


def _exact_and_bounds(
    xs: Sequence[Array], node: NodeAlone, own_type: ElementType, ways: Iterable[Arithmetic]
) -> Iterator[tuple[Array, dict[Arithmetic, Bound]]]:
    """Give for each x the exact result, and for each arithmetic what is allowed.

    Every pass over the weight in float64 costs, and so the rows of several x go together, as far as results fit.
    """
    together: list[Array] = []
    num_values = 0
    for x in xs:
        of_this = math.prod(x.shape[:-1]) * len(node.weight)
        if together and num_values + of_this > _TOGETHER:
            yield from _exact_and_bounds_together(together, node, own_type, ways)
            together, num_values = [], 0
        together.append(x)
        num_values += of_this
    if together:
        yield from _exact_and_bounds_together(together, node, own_type, ways)


def _exact_and_bounds_together(
    xs: Sequence[Array], node: NodeAlone, own_type: ElementType, ways: Iterable[Arithmetic]
) -> Iterator[tuple[Array, dict[Arithmetic, Bound]]]:
    """Do the same for the rows of all x at once, in float64 and so some features at a time."""
    weight, bias = node.weight, node.bias
    x = np.concatenate([x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) for x in xs])
    step = max(1, _CHUNK // max(1, weight.shape[1]))
    exact: list[Array] = []
    bounds: dict[Arithmetic, list[Bound]] = {way: [] for way in ways}
    for start in range(0, max(1, len(weight)), step):
        part = slice(start, start + step)
        rows, some_bias = weight[part], None if bias is None else bias[part]
        exact.append(linear_float64(x, rows, some_bias))
        for way, found in bounds.items():
            found.append(linear_bound(x, rows, some_bias, own_type, arithmetic=way))
    of_all = np.concatenate(exact, axis=-1)
    bound_of_all = {
        way: [np.concatenate([getattr(b, name) for b in found], axis=-1) for name in ("error", "above", "below")]
        for way, found in bounds.items()
    }
    start = 0
    for x in xs:
        part, shape = slice(start, start + math.prod(x.shape[:-1])), (*x.shape[:-1], weight.shape[0])
        start = part.stop
        yield (
            of_all[part].reshape(shape),
            {way: Bound(*(values[part].reshape(shape) for values in parts)) for way, parts in bound_of_all.items()},
        )


def backward_row(road: Road, label: str, calls: Mapping[str, Sequence[NodeCall]]) -> Row:
    """Check the gradients at the nodes: at a few of equal shapes, and of a large weight at its first features.

    torch's backward is one function; what it gives hangs on shapes and dtypes, and not on which node it is.
    """
    from exporter.verification import backward as backward_check

    rng = np.random.default_rng(0)
    comparisons = []
    dtypes: dict[str, None] = {}
    counts: dict[Any, int] = {}
    for received in calls.values():
        call = thinned(received[-1].call, MAX_ROWS_BACKWARD)
        weight, bias = call.weight, call.bias
        key = weight.shape, bias is None, call.element_type, call.x.ndim
        counts[key] = counts.get(key, 0) + 1
        if counts[key] > _MOST_OF_A_SHAPE:
            continue
        rows = max(1, _MOST_WEIGHTS // max(1, weight.shape[1]))
        call = replace(call, stored_weight=weight[:rows], stored_bias=None if bias is None else bias[:rows])
        if label == FINITE_DIFFERENCES:
            comparisons.append(backward_check.against_finite_differences(call, rng))
            dtypes["float64"] = None
        else:
            x, weight = rounded(call.x, call.element_type), rounded(call.weight, call.element_type)
            some_bias = None if call.bias is None else rounded(call.bias, call.element_type)
            comparisons.append(backward_check.against_linear(call, x, weight, some_bias, rng))
            dtypes[call.element_type.name] = None
    if not comparisons:
        return Row(road.name, label, None, "no node could be run alone", part=Part.GRADIENTS)
    return Row(road.name, label, worst_of(comparisons), part=Part.GRADIENTS, dtype=", ".join(dtypes))
