"""What a rewrite did: the nodes that changed, those that were left alone and why, and how it was checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ort_ops.console.counts import counted
from ort_ops.console.shown import Shown, Table
from ort_ops.rewrite.reasons import Reason


@dataclass(frozen=True)
class Place:
    """The graph that a node stands in.

    Attributes:
        function: name of the model-local function; None outside of them.
        subgraph: name of the body of If, Loop or Scan; None outside of them.
    """

    function: str | None = None
    subgraph: str | None = None

    def __str__(self) -> str:
        parts = [] if self.subgraph is None else [f"subgraph '{self.subgraph}'"]
        parts += [] if self.function is None else [f"function '{self.function}'"]
        return " of ".join(parts) or "main graph"


@dataclass(frozen=True)
class Rewritten:
    """One node that changed.

    Attributes:
        name: of the node, or of its output where it has none.
        what: the standard operators that it was (adopt) or is (lower), such as ``MatMul+Add``.
        shape: what tells it from others, such as that of its weight; None for what is not known.
        operator: domain and name of the operator that it is (adopt) or was (lower).
        is_compared: whether it was compared by itself.
    """

    name: str
    place: Place
    what: str
    shape: tuple[int | str | None, ...] = ()
    operator: str = ""
    is_compared: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return dictionaries, lists and strings, for JSON."""
        shape = ["?" if size is None else size for size in self.shape]
        where = str(self.place)
        return {"name": self.name, "where": where, "what": self.what, "shape": shape, "operator": self.operator}


@dataclass(frozen=True)
class Left:
    """One node that might have been meant and was not changed.

    Attributes:
        name: of the node, or of its output where it has none.
        domain, op_type: of the node.
    """

    name: str
    place: Place
    domain: str
    op_type: str
    reason: Reason

    @property
    def what(self) -> str:
        """The operator in words, with its domain where that is not ONNX's own."""
        return f"{self.domain}::{self.op_type}" if self.domain not in ("", "ai.onnx") else self.op_type

    def as_dict(self) -> dict[str, Any]:
        """Return dictionaries and strings, for JSON."""
        reason = self.reason.as_dict()
        return {"name": self.name, "where": str(self.place), "what": self.what, "reason": reason.pop("text"), **reason}


@dataclass(frozen=True)
class LeftOut:
    """An operator that was not looked for.

    Attributes:
        operator: domain and name.
        min_opset: that it needs.
        opset: of the model or one of its functions.
    """

    operator: str
    min_opset: int
    opset: int

    def __str__(self) -> str:
        return f"{self.operator} takes opset {self.min_opset} or newer, and the model has {self.opset}"

    def as_dict(self) -> dict[str, Any]:
        """Return strings and numbers, for JSON."""
        return {"operator": self.operator, "min_opset": self.min_opset, "opset": self.opset}


class Extent(Enum):
    """What a `Check` compared, or why it did not. The value is the sentence, to be filled in by the check."""

    NODES = "{nodes} one by one in float64"
    WHOLE = "{tensors} of the whole model in float64"
    NOTHING = "nothing was rewritten"
    TOO_LARGE = "the whole model was not run, for its weights are more than {limit_mib} MiB"
    NOT_DRAWN = "the whole model was not run: {detail}; give real inputs by --inputs file.npz"
    NOT_RUN = "the whole model was not run: {detail}"


@dataclass(frozen=True)
class Check:
    """One proof that a model means what it meant.

    Attributes:
        count: the nodes or tensors that were compared.
        num_blank: the tensors among them that had no finite number, so that little was compared.
        num_undecided: further tensors that hang on decisions which rounding errors may turn, such as comparisons.
        num_unbounded: further tensors that are not equal, and whose difference no bound limits.
        by: what ran a whole model.
        limit_mib: above which weights a model is not run.
        detail: what the evaluators say of a model that they cannot run.
        change: of an output by rounded weights, at most, relative to the output's largest number; None for none.
    """

    extent: Extent
    count: int = 0
    num_blank: int = 0
    num_undecided: int = 0
    num_unbounded: int = 0
    by: tuple[str, ...] = ()
    limit_mib: int = 0
    detail: str = ""
    change: float | None = None

    def __str__(self) -> str:
        counts = {"nodes": counted(self.count, "node"), "tensors": counted(self.count, "tensor")}
        text = self.extent.value.format(**counts, limit_mib=self.limit_mib, detail=self.detail)
        if self.by:
            text += f", by {' and by '.join(self.by)}"
        if self.num_blank:
            text += f"; {self.num_blank} of them had no finite number, give real inputs by --inputs file.npz"
        if self.num_undecided:
            text += f"; {self.num_undecided} more undecided, for rounding errors turn decisions"
        if self.num_unbounded:
            text += f"; {self.num_unbounded} more unbounded, for no bound limits how far they may differ"
        if self.change is not None:
            text += f"; rounding the weights changed an output by {self.change:.2g} of its largest number at most"
        return text

    @property
    def has_compared(self) -> bool:
        return self.extent in (Extent.NODES, Extent.WHOLE) and self.count > 0


@dataclass(repr=False)
class Rewrite(Shown):
    """What `adopt` or `lower` did.

    Attributes:
        rewritten: nodes that changed.
        left: nodes that could have been meant and were not changed, with the reason.
        left_out: operators that were not looked for, because the model's opset is too old for them.
        num_nodes_before, num_nodes_after: of all graphs and functions, the operator's own definition not counted.
        checks: how it was proven that the model means what it meant.
        nbytes: of the weights in the rewritten model.
        constants: names of stored numbers that were rounded, with what the rewritten model takes each for.
        rounded: names of weights that were stored in another element type, with its name.
        rounding: the largest change of a weight by that, relative to the weight.
    """

    rewritten: list[Rewritten] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    num_nodes_before: int = 0
    num_nodes_after: int = 0
    checks: list[Check] = field(default_factory=list)
    nbytes: int = 0
    constants: dict[str, float] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    rounding: float = 0.0

    def add(self, later: Rewrite) -> None:
        """Add what a later rewrite of the same model did."""
        for name in ("rewritten", "left", "left_out", "checks"):
            getattr(self, name).extend(getattr(later, name))
        if self.rewritten:  # by one of the two, whose checks tell all
            self.checks = [check for check in self.checks if check.extent is not Extent.NOTHING]
        self.constants.update(later.constants)
        self.rounded.update(later.rounded)
        self.rounding = max(self.rounding, later.rounding)
        self.num_nodes_after = later.num_nodes_after

    @property
    def rounding_note(self) -> str:
        """What rounding did to the weights, in words; empty where there was none."""
        if not self.rounded:
            return ""
        dtypes = " and ".join(sorted(set(self.rounded.values())))
        count = f"{len(self.rounded)} weight{'s' if len(self.rounded) > 1 else ''}"
        return f"{count} rounded to {dtypes}: largest relative change {self.rounding:.2g}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows, for `print_table`: what was, how many, and what became of it."""
        changed = Counter((entry.what, entry.place, entry.operator) for entry in self.rewritten)
        rows = [[what, str(place), str(count), "rewritten"] for (what, place, _), count in changed.items()]
        alike: dict[Hashable, list[Left]] = {}
        for left in self.left:  # what differs in the names of values only is one row
            alike.setdefault((left.what, left.place, left.reason.kind), []).append(left)
        for entries in alike.values():
            first, reasons = entries[0], [left.reason for left in entries]
            told = f"left alone: {first.reason.sentence}{_origins(reasons)}"
            rows.append([first.what, str(first.place), str(len(entries)), told])
        return ["found", "where", "nodes", "what became of it"], rows

    def shown(self) -> list[str | Table]:
        """Return what was found and what became of it, then how it was compared."""
        found = self.table() if self.rewritten or self.left else "nothing to rewrite"
        told = (
            f"{counted(self.num_nodes_before, 'node')} became {self.num_nodes_after}, {len(self.rewritten)} rewritten, "
            f"{len(self.left)} left alone"
        )
        out = [f"left out: {entry}" for entry in self.left_out]
        out += [self.rounding_note] if self.rounded else []
        return [found, told, *out, *(f"compared: {check}" for check in self.checks)]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists and strings, for JSON."""
        return {
            "rewritten": [entry.as_dict() for entry in self.rewritten],
            "left": [entry.as_dict() for entry in self.left],
            "left_out": [entry.as_dict() for entry in self.left_out],
            "num_nodes_before": self.num_nodes_before,
            "num_nodes_after": self.num_nodes_after,
            "checks": [str(check) for check in self.checks],
            "nbytes": self.nbytes,
            **({"rounded": dict(self.rounded), "rounding": self.rounding} if self.rounded else {}),
        }


def _origins(reasons: Sequence[Reason]) -> str:
    """Name the first origin, and how many more there are."""
    first = reasons[0].origin
    if first is None:
        return ""
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f" ({first}{more})"
