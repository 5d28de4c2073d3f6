"""Measure one cell of the grid: check every side's result, time the right ones, compare with the ceiling."""

from __future__ import annotations

import gc
import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.bench.measure import cuda
from exporter.bench.measure.ceilings import Ceilings, least_time, work
from exporter.bench.measure.cells import OURS, Cell
from exporter.bench.measure.sides import (
    Arrays,
    Side,
    UnavailableError,
    aligned,
    draw,
    first_words,
    inference_mode,
    make_side,
)
from exporter.bench.measure.timing import measure
from ort_ops.numerics.bound import ROUNDED, Arithmetic
from ort_ops.numerics.compare import compare
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_error_bound
from ort_ops.operators.mylinear.reference import linear_float64


@dataclass(frozen=True)
class SideResult:
    """The result of one side in a cell.

    Attributes:
        median, q1, q3: seconds a call; None where it was not timed.
        slots, calls: how often it was timed, with how many calls each time.
        error_in_bounds: its largest error in units of the derived bound; at most 1 for a right result. None where it
            did not run, or has NaN or infinity in the wrong place.
        reason: why it was not timed; empty if it was.
    """

    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    slots: int = 0
    calls: int = 0
    error_in_bounds: float | None = None
    reason: str = ""

    @property
    def spread(self) -> float | None:
        """The interquartile range in units of the median."""
        if self.median is None or self.q1 is None or self.q3 is None:
            return None
        return (self.q3 - self.q1) / self.median


@dataclass(frozen=True)
class CellResult:
    """The result of one cell, as in the result file.

    Attributes:
        sides: by name, ours first.
        ceiling_s: the shortest time that this machine could take; None where ceilings were not measured.
        bound_by: what limits that time: ``flops`` or a level of memory.
    """

    cell: Cell
    sides: dict[str, SideResult]
    ceiling_s: float | None
    bound_by: str
    flops: int
    nbytes: int

    @property
    def ours(self) -> float | None:
        """Our median in seconds."""
        return self.sides[OURS].median

    @property
    def best_peer(self) -> str | None:
        """The fastest peer with a right result, or None."""
        timed = {n: s.median for n, s in self.sides.items() if n != OURS and s.median is not None}
        return min(timed, key=lambda name: timed[name]) if timed else None

    def ratio(self, peer: str | None) -> float | None:
        """Return the peer's time in units of ours: above 1 we are faster. None where either was not timed."""
        theirs = self.sides[peer].median if peer in self.sides else None
        return theirs / self.ours if theirs is not None and self.ours is not None else None

    @property
    def fraction(self) -> float | None:
        """The shortest possible time in units of ours; 1 is the most that the machine can do."""
        return self.ceiling_s / self.ours if self.ceiling_s is not None and self.ours is not None else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, with derived figures, for JSON."""
        peers = [name for name in self.sides if name != OURS]
        return {
            **asdict(self.cell),
            "device": self.cell.device,
            "sides": {name: asdict(side) for name, side in self.sides.items()},
            "best_peer": self.best_peer,
            "ratio_to_best": self.ratio(self.best_peer),
            "ratios": {name: self.ratio(name) for name in peers},
            "ceiling_s": self.ceiling_s,
            "fraction_of_ceiling": self.fraction,
            "bound_by": self.bound_by,
            "flops": self.flops,
            "nbytes": self.nbytes,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> CellResult:
        """Read `as_dict`."""
        return cls(
            Cell(*(found[name] for name in ("M", "K", "N", "dtype", "threads"))),
            {name: SideResult(**side) for name, side in found["sides"].items()},
            *(found[name] for name in ("ceiling_s", "bound_by", "flops", "nbytes")),
        )


@dataclass(frozen=True)
class Problem:
    """One weight, the rows that it is run with, and their results in float64 with derived bounds."""

    arrays: Arrays
    expected: NDArray[np.float64]
    bound: NDArray[np.float64]


@lru_cache(maxsize=1)  # cells of one weight follow each other; their rows are the first of these
def make_problem(
    rows: int, in_features: int, out_features: int, dtype: str, arithmetic: Arithmetic = ROUNDED
) -> Problem:
    """Draw the arrays, and compute the exact results and their bounds."""
    a = draw(rows, in_features, out_features, dtype)
    bound = linear_error_bound(a.x, a.weight, a.bias, MYLINEAR.element_type(dtype), arithmetic=arithmetic)
    return Problem(a, linear_float64(a.x, a.weight, a.bias), bound)


def run_cell(
    cell: Cell, problem: Problem, peers: Sequence[str], budget_s: float, ceilings: Ceilings | None
) -> CellResult:
    """Check and time every side of one cell."""
    arrays = Arrays(aligned(problem.arrays.x[: cell.M]), problem.arrays.weight, problem.arrays.bias)
    results: dict[str, SideResult] = {}
    sides: dict[str, Side] = {}
    with inference_mode(peers):
        for name in (OURS, *peers):
            try:
                side = make_side(name, cell, arrays)
                results[name] = check(side, problem)
            except UnavailableError as error:
                results[name] = SideResult(reason=str(error))
            else:
                if not results[name].reason:
                    sides[name] = side
        if OURS in sides:
            rng = random.Random(zlib.crc32(cell.key.encode()))
            runs = {name: side.run for name, side in sides.items()}
            timings = measure(runs, budget_s, rng=rng, finish=cuda.finish(cell.threads))
            for name, t in timings.items():
                error_in_bounds = results[name].error_in_bounds
                results[name] = SideResult(t.median, t.q1, t.q3, t.slots, t.calls, error_in_bounds)
    sides.clear()
    gc.collect()  # sessions end here, not while the next cell is timed
    flops, nbytes = work(cell)
    seconds, bound_by = (None, "") if ceilings is None else least_time(cell, ceilings)
    return CellResult(cell, results, seconds, bound_by, flops, nbytes)


def check(side: Side, problem: Problem) -> SideResult:
    """Run the side once and compare with the float64 definition; ``reason`` says what is wrong, if anything."""
    try:
        y = side.result()
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise UnavailableError(first_words(error)) from error
    dtype = problem.arrays.x.dtype
    if y.dtype != dtype:
        return SideResult(reason=f"wrong result: {y.dtype} instead of {dtype}")
    rows = len(y)
    found = compare(y, problem.expected[:rows], problem.bound[:rows], MYLINEAR.element_type(dtype.name))
    reason = "" if found.complaint is None else f"wrong result: {found.complaint}"
    error_in_bounds = found.max_in_bounds if math.isfinite(found.max_in_bounds) else None
    return SideResult(error_in_bounds=error_in_bounds, reason=reason)
