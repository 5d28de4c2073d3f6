"""What a rewrite did: the nodes that changed, those that were left alone and why, and how it was checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One node.

    Attributes:
        name: of the node, or of its output where it has none.
        where: ``main graph``, the name of the subgraph, or that of the function.
        what: the operators it was, or is.
        reason: why it was left alone; empty for one that was rewritten.
        shape: ``[out_features, in_features]``, where known.
    """

    name: str
    where: str
    what: str
    reason: str = ""
    shape: tuple[int | str, ...] = ()


@dataclass
class Rewrite:
    """What `adopt` or `lower` did.

    Attributes:
        rewritten: nodes that changed.
        left: nodes that could have been meant and were not changed, with the reason.
        num_nodes_before, num_nodes_after: of all graphs and functions, the operator's own definition not counted.
        checks: in words, how it was proven that the model means what it meant.
        nbytes: of the weights in the rewritten model.
    """

    rewritten: list[Entry] = field(default_factory=list)
    left: list[Entry] = field(default_factory=list)
    num_nodes_before: int = 0
    num_nodes_after: int = 0
    checks: list[str] = field(default_factory=list)
    nbytes: int = 0

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and cells, for `ort_ops.table.format_table`: what was, how many, and what became of it."""
        alike: dict[tuple[str, str, str], list[Entry]] = {}
        for entry in (*self.rewritten, *self.left):  # what differs in the names of values only is one row
            alike.setdefault((entry.what, entry.where, entry.reason.split(" (")[0]), []).append(entry)
        rows = []
        for (what, where, _), entries in alike.items():
            reason, more = entries[0].reason, len(entries) - 1
            reason = f"{reason[:-1]}, and {more} more)" if more and reason.endswith(")") else reason
            verdict = f"left alone: {reason}" if reason else "rewritten"
            rows.append([what, where, str(len(entries)), verdict])
        return ["found", "where", "nodes", "what became of it"], rows

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists and strings, for JSON."""
        return asdict(self)
