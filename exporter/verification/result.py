"""What `verify` found: a row for each backend on each input, what went untested, and both in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np

from ort_ops.console.report_text import json_text
from ort_ops.console.tone import Tone, Toned
from ort_ops.errors import MylinearError
from ort_ops.numerics.compare import Comparison, Verdict

EDGES = "edge values"
NODES = "each node alone"
WHOLE = "the whole model"
EDGES_IN_WORDS = "zeros of both signs, the smallest and large numbers, cancellation, infinities and NaN"


class ParityError(MylinearError, AssertionError):
    """A backend that leaves its bound, or a node that went untested; the message says which."""


class Part(Enum):
    """What a row is about."""

    WHOLE = "the whole model"
    NODES = "each node alone"
    GRADIENTS = "gradients"


@dataclass(frozen=True)
class Row:
    """One backend on one input.

    Attributes:
        road: the backend: ``torch eager``, ``reference``, or the name of a kernel.
        inputs: which input, in words; `NODES` for the nodes one by one, on what they received of all inputs.
        comparison: with the exact result; None where there was none.
        reason: why there was none.
        ulp: largest error in units of the last place.
        histogram: of the errors in units of their bound, in the classes of `ort_ops.numerics.statistics.EDGES`.
        diverges_at: the first node of the graph whose value leaves its bound, if the model's result does.
        part: what the row is about.
        dtype: element types of what was compared.
        is_edge: whether the input is of edge values, whose absolute errors tell nothing.
    """

    road: str
    inputs: str
    comparison: Comparison | None
    reason: str = ""
    ulp: float = 0.0
    histogram: tuple[int, ...] = ()
    diverges_at: str = ""
    part: Part = Part.WHOLE
    dtype: str = ""
    is_edge: bool = False

    @property
    def is_violated(self) -> bool:
        return self.comparison is not None and not self.comparison.is_within_bound

    @property
    def verdict(self) -> str:
        if self.comparison is None:
            return f"not run: {self.reason}"
        where = f"; {self.diverges_at}" if self.is_violated and self.diverges_at else ""
        return self.comparison.text + where

    @property
    def toned_verdict(self) -> str:
        """The verdict as a table shows it: right, wrong, or not run; an undecided one does not stand out."""
        if self.comparison is None:
            return Toned(self.verdict, Tone.QUIET)
        if self.comparison.verdict is Verdict.OK:
            return Toned(self.verdict, Tone.GOOD)
        return Toned(self.verdict, Tone.BAD) if self.is_violated else self.verdict


@dataclass(frozen=True)
class Verification:
    """What `verify` found; ``rows`` in the order in which they ran.

    Attributes:
        path: of the model.
        bound: how far the outputs of the whole model may be off, in words.
        untested: MYLINEAR nodes that ran alone on no backend, each with the reason.
        notes: what else a reader must know, such as inputs that could not be drawn.
        num_nodes: MYLINEAR nodes in the model.
    """

    rows: list[Row]
    path: str = ""
    bound: str = ""
    nodes: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    untested: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    num_nodes: int = 0

    @property
    def is_within_bounds(self) -> bool:
        """Whether nothing that ran left its bound."""
        return not any(row.is_violated for row in self.rows)

    @property
    def is_ok(self) -> bool:
        """Whether parity holds: nothing left its bound, and no MYLINEAR node went untested."""
        return self.is_within_bounds and not self.untested

    def passes(self, *, allow_untested: bool = False) -> bool:
        """Return `is_ok`, or with ``allow_untested`` `is_within_bounds`."""
        return self.is_within_bounds if allow_untested else self.is_ok

    def check(self, *, allow_untested: bool = False) -> None:
        """Do nothing if parity holds. Raises: ParityError with the rows that violate it and the untested nodes."""
        if not self.passes(allow_untested=allow_untested):
            wrong = [f"{row.road}, {row.inputs}: {row.verdict}" for row in self.rows if row.is_violated]
            raise ParityError("; ".join([*wrong, *([] if allow_untested else self.untested_lines())]))

    def untested_lines(self, most: int = 10) -> list[str]:
        """Return a line for each reason for which nodes went untested, with the names of at most so many."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.untested.items():
            by_reason.setdefault(reason, []).append(name)
        return [f"untested: {listed(names, most)}: {reason}" for reason, names in by_reason.items()]

    def conclusion(self) -> str:
        """Return the verdict in one line; it says that parity holds only where every MYLINEAR node was tested."""
        if not self.is_within_bounds:
            return "parity is VIOLATED"
        if self.untested:
            tested = self.num_nodes - len(self.untested)
            return f"parity is NOT PROVED: {len(self.untested)} of {self.num_nodes} MYLINEAR nodes went untested " + (
                f"(the other {tested} are within their bounds)" if tested else "(all of them)"
            )
        whole = [row for row in self.rows if row.part is Part.WHOLE and row.comparison is not None]
        proved = [row for row in whole if row.comparison is not None and row.comparison.text == "ok"]
        if not whole:
            return "parity holds for each node alone; the whole model was not run"
        if len(proved) < len(whole):
            return (
                f"parity holds for each node alone; the whole model was compared in {len(proved)} of {len(whole)} "
                "runs, and the others have values that no bound decides"
            )
        return "parity holds"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, numbers and strings, for JSON; infinity as a string."""
        rows = []
        for row in self.rows:
            entry = {**asdict(row), "part": row.part.value, "verdict": row.verdict}
            for part in (entry, entry["comparison"] or {}):
                part.update({k: str(v) for k, v in part.items() if isinstance(v, float) and not np.isfinite(v)})
            rows.append(entry)
        found = {"model": self.path, "is_ok": self.is_ok, "is_within_bounds": self.is_within_bounds}
        return {**found, "untested": self.untested, "notes": self.notes, "bound": self.bound, "rows": rows}

    def to_json(self) -> str:
        """Return `as_dict` as JSON text."""
        return json_text(self.as_dict())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and cells of every row, for `ort_ops.console.table.print_table` and the report."""
        cells = []
        for row in self.rows:
            numbers = ["-", "-", "-"]
            if row.comparison is not None:
                numbers = [_number(row.comparison.max_error), _number(row.comparison.max_in_bounds, ".3f")]
                numbers.append(_number(row.ulp))
            cells.append([row.road, row.dtype or "-", row.inputs, *numbers, row.toned_verdict])
        return ["backend", "dtype", "input", "max abs error", "error / bound", "ULP", "verdict"], cells

    def worst_rows(self) -> list[Row]:
        """Return for each backend the row that is furthest off."""
        return worst_of_each(self.rows, lambda row: row.road)

    def summary(self, *, with_gradients: bool = True) -> tuple[list[str], list[list[str]]]:
        """Return a table with one row for each backend and dtype: its worst verdict and its largest errors.

        Rows of edge values are left out: `edge_rows` has them, and among them are numbers so large that an error of
        theirs tells nothing. Gradients, which only torch has, get rows of their own.
        """
        rows = [row for row in self.rows if not row.is_edge and (with_gradients or row.part is not Part.GRADIENTS)]
        ran = {row.road for row in rows if row.comparison is not None}
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row.comparison is not None or row.road not in ran:
                name = f"{row.road}, gradients" if row.part is Part.GRADIENTS else row.road
                groups.setdefault((name, row.dtype), []).append(row)
        cells = []
        for (name, dtype), of_this in groups.items():
            (worst,) = worst_of_each(of_this, lambda row: None)
            found = [row.comparison for row in of_this if row.comparison is not None]
            largest = max((comparison.max_error for comparison in found), default=None)
            units = None if worst.comparison is None else worst.comparison.max_in_bounds
            cells.append([name, dtype or "-", _number(largest), _number(units, ".3f"), worst.toned_verdict])
        return ["backend", "dtype", "max abs error", "error / bound", "verdict"], cells

    def edge_rows(self) -> list[Row]:
        """Return for each backend and dtype its worst row of edge values."""
        rows = [row for row in self.rows if row.is_edge and row.comparison is not None]
        return worst_of_each(rows, lambda row: (row.road, row.dtype))

    def not_run(self) -> list[Row]:
        """Return the rows of backends that did run something, but not this."""
        ran = {row.road for row in self.rows if row.comparison is not None}
        return [row for row in self.rows if row.comparison is None and row.road in ran]


def worst_of_each(rows: Iterable[Row], key: Any) -> list[Row]:
    """Return the row that is furthest off among those of each key, in the order in which keys come."""
    worst: dict[Any, Row] = {}
    for row in rows:
        known = worst.get(key(row))
        if known is None or _distance(row) > _distance(known):
            worst[key(row)] = row
    return list(worst.values())


def worst_of(comparisons: Iterable[Comparison]) -> Comparison:
    """Return the comparison that is furthest off, with the counts of all."""
    found = list(comparisons)
    worst = max(found, key=lambda c: (not c.is_within_bound, c.max_in_bounds))
    counts = {name: sum(getattr(c, name) for c in found) for name in ("num_values", "num_undecided", "num_unbounded")}
    largest = max(c.max_error for c in found)
    return replace(worst, max_error=max(worst.max_error, largest), **counts)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names as nodes, and how many more there are.

    >>> listed(["a", "b"]), listed(["a", "b", "c"], 1)
    ("node 'a', node 'b'", "node 'a' and 2 more")
    """
    shown = ", ".join(f"node '{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _distance(row: Row) -> tuple[int, float]:
    if row.comparison is None:
        return -1, -1.0
    rank = ("ok", "undecided", "unbounded", "violated").index(row.comparison.verdict.value)
    return rank, row.comparison.max_in_bounds


def _number(value: float | None, form: str = ".3g") -> str:
    """Write a number; a dash where there is none, as where NaN or a shape is wrong: the verdict says that in words."""
    return "-" if value is None or not np.isfinite(value) else f"{value:{form}}"
