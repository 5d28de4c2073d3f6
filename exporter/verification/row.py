"""One row of the result of `verify`: one backend on one input."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from exporter.verification.reasons import Reason, Where
from ort_ops.console.tone import Tone, Toned
from ort_ops.numerics.compare import Comparison, Verdict

EDGES = "edge values"
NODES = "each node alone"
WHOLE = "the whole model"
EDGES_IN_WORDS = "zeros of both signs, the smallest and large numbers, cancellation, infinities and NaN"


class Part(Enum):
    """The subject of a row."""

    WHOLE = "the whole model"
    NODES = "each node alone"
    GRADIENTS = "gradients"
    EVAL_MODE = "the model in eval mode"
    """As a whole; of a training file, which holds it beside its step."""


@dataclass(frozen=True)
class Row:
    """One backend on one input.

    Attributes:
        backend: ``torch eager``, ``reference``, or the name of a kernel.
        inputs: the input in words; `NODES` for the nodes one by one, on what they received from all inputs.
        comparison: with the exact result; None if there was none.
        reason: why there was no comparison.
        ulp: largest error in units of the last place.
        histogram: of the errors in units of their bound, in the classes of `ort_ops.numerics.statistics.EDGES`.
        where: the first node whose value leaves its bound, if the result does; None where it is not known.
        part: the subject of the row.
        dtype: element types of the compared results.
        is_edge: whether the input has edge values, whose absolute errors say nothing.
    """

    backend: str
    inputs: str
    comparison: Comparison | None
    reason: Reason | None = None
    ulp: float = 0.0
    histogram: tuple[int, ...] = ()
    where: Where | None = None
    part: Part = Part.WHOLE
    dtype: str = ""
    is_edge: bool = False

    @property
    def is_violated(self) -> bool:
        """Whether it ran and is wrong."""
        return self.comparison is not None and not self.comparison.is_within_bound

    @property
    def is_ok(self) -> bool:
        """Whether it ran and is proved right."""
        return self.comparison is not None and self.comparison.verdict is Verdict.OK

    @property
    def diverges_at(self) -> str:
        """Where it leaves its bound first, in words; empty where that is not known."""
        return "" if self.where is None else str(self.where)

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.comparison is None:
            return f"not run: {self.reason}"
        where = f"; {self.where}" if self.is_violated and self.where is not None else ""
        return self.comparison.text + where

    @property
    def toned_verdict(self) -> str:
        """The verdict as a table shows it: right, wrong, or not run; an undecided one does not stand out."""
        if self.comparison is None:
            return Toned(self.verdict, Tone.QUIET)
        if self.is_ok:
            return Toned(self.verdict, Tone.GOOD)
        return Toned(self.verdict, Tone.BAD) if self.is_violated else self.verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON: numbers and strings, infinity as a string."""
        found = self.comparison
        entry = {
            "backend": self.backend,
            "road": self.backend,  # the former name of "backend", for programs that read it
            "inputs": self.inputs,
            "comparison": None
            if found is None
            else {
                "verdict": found.verdict.value,
                "max_error": found.max_error,
                "max_in_bounds": found.max_in_bounds,
                "complaint": found.complaint,
                "num_values": found.num_values,
                "num_undecided": found.num_undecided,
                "num_unbounded": found.num_unbounded,
            },
            "reason": "" if self.reason is None else str(self.reason),
            "ulp": self.ulp,
            "histogram": self.histogram,
            "diverges_at": self.diverges_at,
            "diverging_nodes": [] if self.where is None else [*self.where.nodes],
            "part": self.part.value,
            "dtype": self.dtype,
            "is_edge": self.is_edge,
            "verdict": self.verdict,
        }
        for part in (entry, entry["comparison"] or {}):
            assert isinstance(part, dict)
            part.update({k: str(v) for k, v in part.items() if isinstance(v, float) and not np.isfinite(v)})
        return entry
