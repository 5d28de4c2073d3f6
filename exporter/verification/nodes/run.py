"""Run each operator's node alone on what it received, on every backend, and compare by its kit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.verification.backends.base import Backend
from exporter.verification.backends.unwritten import UnwrittenError
from exporter.verification.nodes.alone import Expected, NodeAlone, expected_of, in_types
from exporter.verification.nodes.drawn import Types, dtype_of, in_type
from exporter.verification.reasons import (
    Divergence,
    LacksOperator,
    NoBackend,
    NothingProved,
    NothingRan,
    Reason,
    Untested,
)
from exporter.verification.row import EDGES, NODES, Part, Row
from ort_ops.numerics.compare import Comparison, compare_output, failed, worst_of
from ort_ops.numerics.faults import WrongCount
from ort_ops.numerics.statistics import EDGES as HISTOGRAM_EDGES
from ort_ops.numerics.statistics import histogram, max_ulp
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
RunCall = Callable[[Call], Sequence[Array]]
_NO_COUNTS = (0,) * (len(HISTOGRAM_EDGES) + 1)


@dataclass(frozen=True)
class NodeCall:
    """What one node received for one input of the model, which may have edge values."""

    kit: OperatorKit
    call: Call
    is_edge: bool = False


@dataclass
class NodeRows:
    """The rows of one backend on each node alone, in one element type, as they grow.

    Attributes:
        element_type: None for each node's own.
        refused: why nodes of an operator were not run, by the operator.
    """

    backend: Backend
    element_type: ElementType | None
    worst: dict[bool, tuple[str, Comparison]] = field(default_factory=dict)
    counts: dict[bool, tuple[int, ...]] = field(default_factory=dict)
    ulp: dict[bool, float] = field(default_factory=dict)
    dtypes: dict[str, None] = field(default_factory=dict)
    refused: dict[str, Reason] = field(default_factory=dict)

    def add(self, label: str, is_edge: bool, comparison: Comparison, ulp: float, counts: tuple[int, ...]) -> None:
        """Add one result, of edge values or of others."""
        if is_edge not in self.worst:
            self.worst[is_edge] = label, comparison
            self.counts[is_edge] = _NO_COUNTS
        known_label, known = self.worst[is_edge]
        total = worst_of([known, comparison])
        is_further = (not comparison.is_within_bound, comparison.max_in_bounds) > (
            not known.is_within_bound, known.max_in_bounds,
        )  # fmt: skip
        self.worst[is_edge] = label if is_further else known_label, total
        self.ulp[is_edge] = max(self.ulp.get(is_edge, 0.0), ulp)
        self.counts[is_edge] = tuple(a + b for a, b in zip(self.counts[is_edge], counts, strict=True))

    def finish(self) -> list[Row]:
        """Return a row for ordinary numbers, one for edge values, and those of operators that were not run."""
        suffix = "" if self.element_type is None else f", in {self.element_type.name}"
        refused = [
            Row(self.backend.name, f"{NODES}, {op_type}{suffix}", None, reason, part=Part.NODES)
            for op_type, reason in self.refused.items()
            if self.element_type is None
        ]
        if not self.worst:
            nothing = Row(self.backend.name, NODES + suffix, None, NothingRan(), part=Part.NODES)
            return refused or [nothing]
        rows = []
        for is_edge, (label, comparison) in sorted(self.worst.items()):
            name = f"{NODES}, {EDGES}" if is_edge else NODES
            rows.append(
                Row(
                    self.backend.name,
                    name + suffix,
                    comparison,
                    ulp=self.ulp[is_edge],
                    histogram=self.counts[is_edge],
                    where=None if comparison.is_within_bound else Divergence(label),
                    part=Part.NODES,
                    dtype=", ".join(self.dtypes),
                    is_edge=is_edge,
                )
            )
        return [*rows, *refused]


def types_of(backend: Backend, dtypes: Sequence[str]) -> list[ElementType | None]:
    """Return the element types to run each node alone in: its own, which is None here, and those that are served."""
    served = [dtype for dtype in dtypes if backend.element_types is None or dtype in backend.element_types]
    return [None, *(ELEMENT_TYPES[dtype] for dtype in served)]


def run_alone(calls: Sequence[NodeCall], rows: Sequence[NodeRows]) -> Untested | None:
    """Run one node alone on all that it received, on every backend.

    Its stored inputs are read once. The sessions of one element type are open together, and end before those of the
    next.

    Returns: why nothing proves the node right; None if a backend other than its definition was compared in each output.
    """
    kit, first = calls[0].kit, calls[0].call
    proved: set[int] = set()
    has_backend = False
    for element_type in {row.element_type: None for row in rows}:
        own = [row for row in rows if row.element_type is element_type]
        types = in_type(first, element_type)
        if types is None:
            continue
        served = [row for row in own if _serves(row, kit, types)]
        has_backend |= any(not row.backend.is_definition for row in served)
        proved |= _run_in_types(calls, served, types)
    if not has_backend:
        reasons = {row.backend.name: row.refused.get(kit.operator.op_type) for row in rows}
        return NoBackend(tuple((name, reason) for name, reason in reasons.items() if reason is not None))
    outputs = [output.argument for output in kit.operator.outputs]
    missing = [
        name for i, (name, has) in enumerate(zip(outputs, first.has_output, strict=True)) if has and i not in proved
    ]
    if not missing:
        return None
    return NothingProved(tuple(missing) if len(outputs) > 1 else ())


def _serves(row: NodeRows, kit: OperatorKit, types: Types) -> bool:
    reason = row.backend.why_not(kit, types)
    if reason is not None and isinstance(reason, LacksOperator):
        row.refused[kit.operator.op_type] = reason
    return reason is None


def _run_in_types(calls: Sequence[NodeCall], rows: Sequence[NodeRows], types: Types) -> set[int]:
    """Run a node in some element types and return which outputs were proved by another backend than the definition."""
    ways = {row.backend.arithmetic for row in rows}
    proved: set[int] = set()
    has_ordinary = not all(node_call.is_edge for node_call in calls)
    for group in _calls_of_one_node(calls):
        kit, original = group[0].kit, group[0].call
        first = in_types(original, types)
        in_own = [first, *(in_types(node_call.call, types, first) for node_call in group[1:])]
        node = NodeAlone(kit, first, [hasattr(value, "load") for value in original.inputs])
        runners: dict[tuple[Any, ...], RunCall] = {}
        for node_call, call, expected in zip(group, in_own, expected_of(in_own, kit, ways), strict=True):
            for index, row in enumerate(rows):
                key = (index, *node.key(call))  # a session for each rank, not for each input
                if key not in runners:
                    runners[key] = row.backend.open_node(node, call)
                row.dtypes[_types_in_words(call)] = None
                try:
                    got = runners[key](call)
                    results = list(compared(call, got, expected, row.backend))
                except UnwrittenError as error:
                    results = [(0, failed(error.fault), 0.0, _NO_COUNTS)]
                row.add(
                    _label(node_call.call),
                    node_call.is_edge,
                    worst_of([comparison for _, comparison, _, _ in results]),
                    max(ulp for _, _, ulp, _ in results),
                    tuple(map(sum, zip(*(counts for _, _, _, counts in results), strict=True))),
                )
                # Infinities and NaN among edge values are compared even where no number has a bound.
                if not row.backend.is_definition and not (has_ordinary and node_call.is_edge):
                    proved |= {i for i, comparison, _, _ in results if comparison.is_proof}
    return proved


def _types_in_words(call: Call) -> str:
    """Return the element type of the first output, and the floating-point ones that differ: ``float32, w float16``."""
    words = [call.element_type.name]
    for variable in call.operator.variables:
        found = call.types.get(variable.name)
        if found is not None and found.is_floating and found != call.element_type:
            argument = next(p.argument for p in (*call.operator.inputs, *call.operator.outputs) if p.type == variable)
            words.append(f"{argument} {found.name}")
    return ", ".join(words)


def _label(call: Call) -> str:
    """Return the node's label, with what it chose among the few values of an attribute."""
    chosen = [
        f"{a.name} {call.attributes[a.name]}"
        for a in call.operator.attributes
        if a.choices and call.attributes.get(a.name, a.default) != a.default
    ]
    return f"{call.label} ({', '.join(chosen)})" if chosen else call.label


def compared(
    call: Call, got: Sequence[Array], expected: Expected, backend: Backend
) -> Iterator[tuple[int, Comparison, float, tuple[int, ...]]]:
    """Compare each output of a call that the node has; with its index, the largest error in ULP, and a histogram."""
    wanted = [i for i, has in enumerate(call.has_output) if has]
    if len(got) != len(wanted):
        yield wanted[0], failed(WrongCount(len(got), len(wanted))), 0.0, _NO_COUNTS
        return
    for i, actual in zip(wanted, got, strict=True):
        element_type, exact, bound = call.output_type(i), expected.exact[i], expected.bounds[backend.arithmetic][i]
        comparison = compare_output(actual, exact, bound, element_type, dtype_of(element_type))
        if element_type.is_floating and bound is not None:
            yield i, comparison, max_ulp(actual, exact, element_type), histogram(actual, exact, bound.error)
        else:
            yield i, comparison, 0.0, _NO_COUNTS


def _calls_of_one_node(calls: Sequence[NodeCall]) -> list[list[NodeCall]]:
    """Return the calls in their order, those beside each other that share all inputs but the fed ones together."""
    groups: list[list[NodeCall]] = []
    for node_call in calls:
        if groups and _shares_inputs(groups[-1][0], node_call):
            groups[-1].append(node_call)
        else:
            groups.append([node_call])
    return groups


def _shares_inputs(a: NodeCall, b: NodeCall) -> bool:
    if a.kit.rows == "" and [x is None for x in a.call.inputs] == [x is None for x in b.call.inputs]:
        # All inputs that the model does not store are fed.
        pairs = [(x, y) for x, y in zip(a.call.inputs, b.call.inputs, strict=True) if hasattr(x, "load")]
        return all(x is y for x, y in pairs)
    names = [parameter.name for parameter in a.call.operator.inputs]
    named = zip(names, a.call.inputs, b.call.inputs, strict=True)
    return all(name == a.kit.rows or _is_same(x, y) for name, x, y in named)


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
