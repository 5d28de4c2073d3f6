"""The goals of the kernels, and whether a result meets them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import OURS, Cell, Kind
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.runner import Bench
from ort_ops.console.tone import Tone

NOISE = 0.95
"""A single time may be off by this factor: from this share of a goal on, it counts as met within noise."""

_COLD_SHAPES = ((768, 3072), (1024, 4096), (4096, 4096))

Values = Iterable[tuple[float | None, str]]
Choice = Callable[[Cell], bool]


class Verdict(StrEnum):
    """Whether a goal is met; the value is what the result file has."""

    MET = "met"
    WITHIN_NOISE = "met within noise"
    MISSED = "missed"
    NOT_MEASURED = "not measured"

    @property
    def tone(self) -> Tone:
        """How a table shows it."""
        return {Verdict.MISSED: Tone.BAD, Verdict.NOT_MEASURED: Tone.QUIET}.get(self, Tone.GOOD)


@dataclass(frozen=True)
class Judged:
    """One goal beside what was measured.

    Attributes:
        group: its subject; goal: the requirement in words; threshold: the number.
        measured: the worst value or the geometric mean; None where nothing of it was measured.
        where: the cell of the worst value.
        count: how many values were judged.
    """

    group: str
    goal: str
    threshold: float
    measured: float | None
    where: str
    count: int
    verdict: Verdict


def judge(bench: Bench) -> list[Judged]:
    """Compare a result with every goal; a goal without measurements is not judged."""
    return [
        *_speed_goals(bench),
        *_newer_goals(bench),
        *_roofline_goals(bench),
        *_cost_goals(bench),
        *_bit_goals(bench),
    ]


def at_least(group: str, goal: str, threshold: float, values: Values) -> Judged:
    """Judge the smallest value, allowing for noise."""
    found = [(value, where) for value, where in values if value is not None]
    if not found:
        return Judged(group, goal, threshold, None, "", 0, Verdict.NOT_MEASURED)
    value, where = min(found)
    verdict = _verdict(value >= threshold, value >= NOISE * threshold)
    return Judged(group, goal, threshold, value, where, len(found), verdict)


def at_most(group: str, goal: str, threshold: float, values: Values, *, is_timed: bool) -> Judged:
    """Judge the largest value, allowing for noise in times only."""
    found = [(value, where) for value, where in values if value is not None]
    if not found:
        return Judged(group, goal, threshold, None, "", 0, Verdict.NOT_MEASURED)
    value, where = max(found)
    verdict = _verdict(value <= threshold, is_timed and value <= threshold / NOISE)
    return Judged(group, goal, threshold, value, where, len(found), verdict)


def mean_at_least(group: str, goal: str, threshold: float, values: Values) -> Judged:
    """Judge the geometric mean, in which noise has averaged out."""
    found = [value for value, _ in values if value is not None]
    if not found:
        return Judged(group, goal, threshold, None, "", 0, Verdict.NOT_MEASURED)
    mean = math.exp(sum(map(math.log, found)) / len(found))
    return Judged(group, goal, threshold, mean, "geometric mean", len(found), _verdict(mean >= threshold, False))


def _verdict(is_met: bool, is_near: bool) -> Verdict:
    return Verdict.MET if is_met else Verdict.WITHIN_NOISE if is_near else Verdict.MISSED


def _speed_goals(bench: Bench) -> list[Judged]:
    def large(c: Cell) -> bool:
        return c.K >= 768 and c.N >= 768

    def square(c: Cell) -> bool:
        return c.M <= 2 and (c.K, c.N) == (4096, 4096)

    def of(dtype: str, peer: str | None = None, choice: Choice = lambda cell: True) -> Values:
        """Return our ratio to the best peer, or to the named one."""
        for r in _plain(bench):
            if r.cell.dtype == dtype and choice(r.cell):
                yield r.ratio(r.best_peer if peer is None else peer), str(r.cell)

    return [
        at_least("float32", "every cell against ORT Gemm", 1.0, of("float32", "gemm")),
        at_least("float32", "every cell against ORT MatMul + Add", 1.0, of("float32", "matmul")),
        mean_at_least("float32", "mean against the best peer", 1.2, of("float32")),
        at_least("float64", "every cell against the best peer", 1.1, of("float64")),
        mean_at_least("float64", "mean against the best peer", 1.7, of("float64")),
        at_least("float64", "M <= 4, K and N >= 768", 2.0, of("float64", None, lambda c: c.M <= 4 and large(c))),
        mean_at_least("float16", "mean against the best peer", 1.3, of("float16")),
        at_least("float16", "M <= 2 at (4096, 4096)", 1.7, of("float16", None, square)),
        at_least("bfloat16", "against torch, M >= 8", 5.0, of("bfloat16", "torch", lambda c: c.M >= 8)),
        at_least("bfloat16", "against our float32, M <= 2 at (4096, 4096)", 1.6, _over_own_float32(bench, square)),
        at_least("tiny", "(1, 2, 1) against ORT Gemm", 1.0, _tiny(bench)),
    ]  # fmt: skip


def _plain(bench: Bench) -> Iterator[CellResult]:
    """Yield the results that the goals of the grid are about: one dtype, no activation, a weight that may be cached."""
    for result in bench.cells.values():
        if result.cell.kind.is_plain and not result.cell.is_cold:
            yield result


def _newer_goals(bench: Bench) -> list[Judged]:
    """Judge activations, and weights narrower than x, beside the node that onnxruntime has for the product."""
    activations = subject().activations
    fused = [name for name, activation in activations.items() if activation.is_on_grid and activation.fused]
    others = [name for name, activation in activations.items() if activation.is_on_grid and not activation.fused]

    def of(choice: Choice) -> Values:
        for r in bench.cells.values():
            if choice(r.cell):
                yield r.ratio("gemm"), str(r.cell)

    def cold(c: Cell) -> bool:
        return bool(c.weight) and c.is_cold and c.M <= 4 and (c.K, c.N) in _COLD_SHAPES

    def many(c: Cell) -> bool:
        return bool(c.weight) and c.M >= 64

    def activated(names: Sequence[str]) -> Values:
        return of(lambda c: c.activation in names and not c.weight and c.dtype == "float32" and min(c.K, c.N) >= 64)

    few = "M <= 4 at (768, 3072), (1024, 4096), (4096, 4096), from memory, against float32 ORT Gemm"
    fused_words = f"{', '.join(fused)}, every cell from 64 x 64 on, against its fused node"
    return [
        at_least("narrow weights", few, 1.7, of(cold)),
        at_least("narrow weights", "M >= 64, against float32 ORT Gemm", 0.95, of(many)),
        at_least("activation", fused_words, 1.0, activated(fused)),
        mean_at_least("activation", f"mean of {', '.join(others)}, against Gemm and theirs", 1.15, activated(others)),
    ]


def _tiny(bench: Bench) -> Values:
    for result in _plain(bench):
        if (result.cell.M, result.cell.K, result.cell.N) == (1, 2, 1):
            yield result.ratio("gemm"), str(result.cell)


def _over_own_float32(bench: Bench, choice: Choice) -> Values:
    for result in _plain(bench):
        c = result.cell
        if c.dtype == "bfloat16" and choice(c):
            yield _quotient(bench.cells.get(Cell(c.M, c.K, c.N, "float32", c.threads).key), result), str(c)


def _quotient(above: CellResult | None, below: CellResult) -> float | None:
    if above is None or above.ours is None or below.ours is None:
        return None
    return above.ours / below.ours


def _roofline_goals(bench: Bench) -> list[Judged]:
    def computing() -> Values:
        for r in _plain(bench):
            c = r.cell
            if bench.ceilings is None or r.ours is None or c.dtype not in ("float32", "float64"):
                continue
            if c.M >= 128 and c.K >= 768 and c.N >= 768:
                yield r.flops / r.ours / bench.ceilings.flops[c.dtype][c.threads], str(c)

    def reading() -> Values:
        for r in _plain(bench):
            c = r.cell
            if bench.ceilings is not None and r.ours is not None and (c.M, c.K, c.N) == (1, 4096, 4096):
                yield r.nbytes / r.ours / bench.ceilings.bandwidth["memory"][c.threads], str(c)

    def two_threads() -> Values:
        for r in _plain(bench):
            c = r.cell
            if c.threads == 2 and c.M >= 64 and (c.K, c.N) == (768, 3072):
                yield _quotient(bench.cells.get(Cell(c.M, c.K, c.N, c.dtype, 1).key), r), str(c)

    return [
        at_least("roofline", "of the FMA rate, M >= 128, K and N >= 768 (float32, float64)", 0.9, computing()),
        at_least("roofline", "of the memory bandwidth, M = 1 at (4096, 4096)", 0.85, reading()),
        at_least("two threads", "over one thread, M >= 64 at (768, 3072)", 1.85, two_threads()),
    ]


def _cost_goals(bench: Bench) -> list[Judged]:
    def chain() -> Values:
        for row in bench.parts.get("chain", ()):
            ours, gemm = (row["sides"].get(backend, {}).get("node") for backend in (OURS, "gemm"))
            yield gemm / ours if ours and gemm else None, f"{row['dtype']}, {row['threads']} threads"

    def load() -> Values:
        for row in bench.parts.get("load", ()):
            ours, gemm = (row["sides"].get(backend, {}).get("median") for backend in (OURS, "gemm"))
            where = f"{row['layers']} x {row['size']}x{row['size']} {row['dtype']}, {row['storage']}"
            yield ours / gemm if ours and gemm else None, where

    def memory(dtype: str | None = None, *, is_narrow: bool = False) -> Values:
        for row in bench.parts.get("memory", ()):
            weight = row.get("weight", "")  # which older results lack
            if dtype in (None, row["dtype"]) and bool(weight) == is_narrow:
                ours, gemm = (growth(row["sides"].get(backend, {})) for backend in (OURS, "gemm"))
                yield ours / gemm if ours and gemm else None, f"{Kind(row['dtype'], weight)}, {row['storage']}"

    return [
        at_least("tiny", "a node in a chain of 100 against ORT Gemm", 1.0, chain()),
        at_most("memory", "resident, of the Gemm model's", 1.05, memory(), is_timed=False),
        at_most("memory", "resident, float16, of the Gemm model's", 0.55, memory("float16"), is_timed=False),
        at_most(
            "memory", "resident, narrow weights, of the Gemm model's", 0.52, memory(is_narrow=True), is_timed=False
        ),
        at_most("load time", "of the Gemm model's", 1.2, load(), is_timed=True),
    ]


def growth(backend: dict[str, dict[str, int]]) -> int | None:
    """Return by how many bytes a process grew, after loading or after a first call; None where it did not run.

    It is the larger of the two, because weights that are mapped from a file take no memory before the first call.
    """
    if "reason" in backend or not backend:
        return None
    return max(backend[moment]["rss"] for moment in ("loaded", "called")) - backend["before"]["rss"]


def _bit_goals(bench: Bench) -> list[Judged]:
    rows = bench.parts.get("bits", ())

    def differing(key: str) -> Values:
        for row in rows:
            if key in row:
                yield float(len(row[key])), f"({row['K']}, {row['N']}) {row['dtype']}"

    by_threads, by_batch = "batches_that_differ_by_threads", "batches_whose_rows_differ"
    return [
        at_most(
            "same bits", "for every number of threads (counts that differ)", 0, differing(by_threads), is_timed=False
        ),
        at_most("same bits", "for every batch size (batches that differ)", 0, differing(by_batch), is_timed=False),
    ]
