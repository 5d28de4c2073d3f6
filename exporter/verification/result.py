"""The result of `verify`: a row for each backend on each input, what went untested, and both in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exporter.verification.reasons import Note, StepNotProved, Untested, listed
from exporter.verification.row import Part, Row
from ort_ops.console.report_text import json_text
from ort_ops.console.shown import Shown, Table
from ort_ops.errors import MylinearError


class ParityError(MylinearError, AssertionError):
    """A backend leaves its bound, or a node went untested; the message says which."""


@dataclass(frozen=True)
class GraphNode:
    """One node of the main graph, for the page that draws it."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_ours: bool = False


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """The result of `verify`; ``rows`` in the order in which they ran.

    Attributes:
        path: of the model.
        bound: how far the outputs of the whole model may be off, in words.
        nodes: of the main graph.
        reasons_untested: why a node of a registered operator was proved by no backend, by its path.
        remarks: what else a reader must know, such as inputs that could not be drawn.
        num_nodes: nodes of registered operators in the model.
        allow_untested: whether nodes that went untested were allowed; the conclusion says so.
        unbounded: outputs of the model of which no bound says anything, on any input.
        training: what is left out of the proof of a training file, in words; empty for any other model.
        step_not_proved: why the whole step of a training file is not proved; None where it is.
    """

    rows: list[Row]
    path: str = ""
    bound: str = ""
    nodes: list[GraphNode] = field(default_factory=list)
    reasons_untested: dict[str, Untested] = field(default_factory=dict)
    remarks: list[Note] = field(default_factory=list)
    num_nodes: int = 0
    allow_untested: bool = False
    unbounded: tuple[str, ...] = ()
    training: str = ""
    step_not_proved: StepNotProved | None = None

    @property
    def untested(self) -> dict[str, str]:
        """The nodes that no backend proved, each with the reason in words."""
        return {name: str(reason) for name, reason in self.reasons_untested.items()}

    @property
    def notes(self) -> list[str]:
        """The remarks in words."""
        return [str(remark) for remark in self.remarks]

    @property
    def is_within_bounds(self) -> bool:
        """Whether nothing that ran left its bound."""
        return not any(row.is_violated for row in self.rows)

    @property
    def is_ok(self) -> bool:
        """Whether parity holds: nothing left its bound, no node of a registered operator went untested, and of a
        training file the whole step was compared.
        """
        return self.is_within_bounds and not self.reasons_untested and self.step_not_proved is None

    def passes(self, *, allow_untested: bool | None = None) -> bool:
        """Return `is_ok`, or where untested nodes are allowed `is_within_bounds`.

        Args:
            allow_untested: None for the argument of `verify`.
        """
        allowed = self.allow_untested if allow_untested is None else allow_untested
        return self.is_within_bounds if allowed else self.is_ok

    def check(self, *, allow_untested: bool | None = None) -> None:
        """Check that parity holds; ``allow_untested`` as for `passes`.

        Raises: ParityError with the rows that violate it and the untested nodes.
        """
        if not self.passes(allow_untested=allow_untested):
            wrong = [f"{row.backend}, {row.inputs}: {row.verdict}" for row in self.rows if row.is_violated]
            allowed = self.allow_untested if allow_untested is None else allow_untested
            step = [] if allowed or self.step_not_proved is None else [str(self.step_not_proved)]
            raise ParityError("; ".join([*wrong, *([] if allowed else self.untested_lines()), *step]))

    def untested_lines(self, most: int = 10) -> list[str]:
        """Return a line for each reason for which nodes went untested, with the names of at most so many."""
        by_reason: dict[Untested, list[str]] = {}
        for name, reason in self.reasons_untested.items():
            by_reason.setdefault(reason, []).append(name)
        return [f"untested: {listed(names, most)}: {reason}" for reason, names in by_reason.items()]

    def conclusion(self) -> str:
        """Return the verdict in one line; it says that parity holds only where every node of ours was tested."""
        if not self.is_within_bounds:
            return "parity is VIOLATED"
        if self.reasons_untested:
            untested = len(self.reasons_untested)
            tested = self.num_nodes - untested
            others = f"the other {tested} are within their bounds" if tested else "all of them"
            allowed = "; untested nodes are allowed" if self.allow_untested else ""
            return f"parity is NOT PROVED: {untested} of {self.num_nodes} nodes went untested ({others}){allowed}"
        if self.step_not_proved is not None:
            return f"parity is NOT PROVED: {self.step_not_proved}"
        whole = [row for row in self.rows if row.part in (Part.WHOLE, Part.EVAL_MODE) and row.comparison is not None]
        proved = [row for row in whole if row.is_ok]
        if not whole:
            return "parity holds for each node alone; the whole model was not run"
        if len(proved) < len(whole):
            return (
                f"parity holds for each node alone; the whole model was compared in {len(proved)} of {len(whole)} "
                "runs, and the others have values that no bound decides"
            )
        return "parity holds"

    def shown(self) -> list[str | Table]:
        """Return the summary as `mylinear verify` prints it."""
        wrong = [f"edge values, {row.backend}, {row.dtype}: {row.verdict}" for row in self.edge_rows() if not row.is_ok]
        notes = [f"note: {note}" for note in self.notes]
        limits = [self.training] if self.training else []
        return [self.path, self.summary(), *wrong, *notes, *limits, *self.untested_lines(), self.conclusion()]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, numbers and strings, for JSON; infinity as a string."""
        found = {"model": self.path, "is_ok": self.is_ok, "is_within_bounds": self.is_within_bounds}
        found |= {"conclusion": self.conclusion(), "allow_untested": self.allow_untested}
        rows = [row.as_dict() for row in self.rows]
        found |= {"untested": self.untested, "notes": self.notes, "bound": self.bound}
        if self.training:
            step = "" if self.step_not_proved is None else str(self.step_not_proved)
            found |= {"training": self.training, "step_not_proved": step}
        return {**found, "rows": rows}

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
            cells.append([row.backend, row.dtype or "-", row.inputs, *numbers, row.toned_verdict])
        return ["backend", "dtype", "input", "max abs error", "error / bound", "ULP", "verdict"], cells

    def worst_rows(self) -> list[Row]:
        """Return for each backend the row that is furthest off."""
        return worst_of_each(self.rows, lambda row: row.backend)

    def summary(self, *, with_gradients: bool = True) -> tuple[list[str], list[list[str]]]:
        """Return a table with one row for each backend and dtype: its worst verdict and its largest errors.

        Rows of edge values are left out, because absolute errors of very large numbers say nothing; `edge_rows` has
        them. Gradients, which only torch has, get rows of their own.
        """
        rows = [row for row in self.rows if not row.is_edge and (with_gradients or row.part is not Part.GRADIENTS)]
        ran = {row.backend for row in rows if row.comparison is not None}
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row.comparison is not None or row.backend not in ran:
                name = f"{row.backend}, gradients" if row.part is Part.GRADIENTS else row.backend
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
        return worst_of_each(rows, lambda row: (row.backend, row.dtype))

    def not_run(self) -> list[Row]:
        """Return the rows of backends that ran something, but not this."""
        ran = {row.backend for row in self.rows if row.comparison is not None}
        return [row for row in self.rows if row.comparison is None and row.backend in ran]


def worst_of_each(rows: Iterable[Row], key: Any) -> list[Row]:
    """Return the row that is furthest off among those of each key, in the order in which keys come."""
    worst: dict[Any, Row] = {}
    for row in rows:
        known = worst.get(key(row))
        if known is None or _distance(row) > _distance(known):
            worst[key(row)] = row
    return list(worst.values())


def _distance(row: Row) -> tuple[int, float]:
    if row.comparison is None:
        return -1, -1.0
    return row.comparison.distance


def _number(value: float | None, form: str = ".3g") -> str:
    """Write a number; a dash where there is none, as where NaN or a shape is wrong: the verdict says that in words."""
    return "-" if value is None or not np.isfinite(value) else f"{value:{form}}"
