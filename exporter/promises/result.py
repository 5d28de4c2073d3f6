"""The result of `check_operator`: a line for each promise, and all of them in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ort_ops.console.report_text import json_text
from ort_ops.console.shown import Shown, Table
from ort_ops.console.tone import Tone, Toned
from ort_ops.errors import MylinearError


class PromiseError(MylinearError, AssertionError):
    """An operator that breaks a promise, or one that could not be tried; the message says which."""


class Outcome(Enum):
    """What became of a promise."""

    KEPT = "kept"
    BROKEN = "BROKEN"
    UNTESTED = "untested"
    """The operator promises it, and this machine cannot try it; then the operator is not proved."""
    NOT_MADE = "not promised"
    """The operator does not promise it, or nobody needs it here."""
    FEW = "few"
    """It holds for what was tried, which is less than the operator's samples should try."""
    NOT_RUN = "not run"
    """It takes a device that this machine lacks, or a kernel that onnxruntime lacks, and that nobody asked for."""


@dataclass(frozen=True)
class Promise:
    """One promise, tried on one subject.

    Attributes:
        promise: what is promised: ``schema``, ``kernel``, ``gradients``, ``export``.
        subject: of what: a kernel, an element type, an exporter.
        outcome: what became of it.
        detail: how near it came, or what is wrong.
    """

    promise: str
    subject: str
    outcome: Outcome
    detail: str = ""

    @property
    def toned_outcome(self) -> str:
        """The outcome as a table shows it."""
        tones = {Outcome.KEPT: Tone.GOOD, Outcome.BROKEN: Tone.BAD, Outcome.NOT_MADE: Tone.QUIET}
        tone = tones.get(self.outcome)
        return self.outcome.value if tone is None else Toned(self.outcome.value, tone)


@dataclass(frozen=True, repr=False)
class OperatorCheck(Shown):
    """The result of `check_operator`; ``promises`` in the order in which they were tried."""

    operator: str
    promises: tuple[Promise, ...]

    def of(self, outcome: Outcome) -> list[Promise]:
        """Return the promises that ended so."""
        return [promise for promise in self.promises if promise.outcome is outcome]

    @property
    def is_kept(self) -> bool:
        """Whether nothing that was tried is broken."""
        return not self.of(Outcome.BROKEN)

    @property
    def is_ok(self) -> bool:
        """Whether every promise was tried and is kept; those that are ``not run`` aside."""
        return self.is_kept and not self.of(Outcome.UNTESTED)

    def check(self, *, allow_untested: bool = False) -> None:
        """Check that every promise is kept. Raises: PromiseError that names those that are not."""
        wrong = [*self.of(Outcome.BROKEN), *([] if allow_untested else self.of(Outcome.UNTESTED))]
        if wrong:
            named = "; ".join(f"{p.promise}, {p.subject}: {p.outcome.value}: {p.detail}" for p in wrong)
            raise PromiseError(f"{self.operator}: {named}")

    def conclusion(self) -> str:
        """Return the verdict in one line."""
        broken, untested = self.of(Outcome.BROKEN), self.of(Outcome.UNTESTED)
        kept = len(self.of(Outcome.KEPT))
        if broken:
            return f"{self.operator} BREAKS {_listed(broken)}"
        if untested:
            return f"{self.operator} is NOT PROVED: untested here: {_listed(untested)}; the other {kept} are kept"
        few = ", on few samples" if self.of(Outcome.FEW) else ""
        not_run = self.of(Outcome.NOT_RUN)
        rest = f"; not run here: {_listed(not_run)}" if not_run else ""
        return f"{self.operator} keeps all {kept} promises{few}{rest}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and cells, for `ort_ops.console.table.print_table`."""
        header = ["promise", "of", "outcome", "detail"]
        return header, [[p.promise, p.subject, p.toned_outcome, p.detail] for p in self.promises]

    def shown(self) -> list[str | Table]:
        """Return a row for each promise, and the conclusion."""
        return [self.table(), self.conclusion()]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        found = {"operator": self.operator, "is_ok": self.is_ok, "is_kept": self.is_kept}
        rows = [
            {"promise": p.promise, "subject": p.subject, "outcome": p.outcome.value, "detail": p.detail}
            for p in self.promises
        ]
        return {**found, "conclusion": self.conclusion(), "promises": rows}

    def to_json(self) -> str:
        """Return `as_dict` as JSON text."""
        return json_text(self.as_dict())


def _listed(promises: Sequence[Promise], most: int = 6) -> str:
    names = [f"{p.promise} ({p.subject})" for p in promises]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
