"""Measure one cell of the grid: check every backend's result, time the right ones, compare with the ceiling."""

from __future__ import annotations

import gc
import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.bench.backends import cuda
from exporter.bench.backends.arrays import Arrays, Backend, UnavailableError, aligned, draw, first_words
from exporter.bench.backends.contestants import make_backend
from exporter.bench.backends.subject import subject
from exporter.bench.backends.torch_peers import inference_mode
from exporter.bench.measure.ceilings import Ceilings, least_time, work
from exporter.bench.measure.cells import NO_ACTIVATION, OURS, Cell, Kind
from exporter.bench.measure.cold import num_layers
from exporter.bench.measure.outcome import Outcome
from exporter.bench.measure.quiet import Quiet, until_quiet
from exporter.bench.measure.timing import measure
from ort_ops.numerics.bound import ROUNDED, Arithmetic
from ort_ops.numerics.compare import Comparison, compare, worst_of
from ort_ops.opdef.element_types import ELEMENT_TYPES


@dataclass(frozen=True)
class BackendResult:
    """The result of one backend in a cell.

    Attributes:
        median, q1, q3: seconds a call; None where it was not timed.
        slots, calls: how often it was timed, with how many calls each time.
        error_in_bounds: its largest error in units of the derived bound; at most 1 for a right result. None where it
            did not run, and where NaN or infinity stand in the wrong place.
        error_in_our_bounds: the same in units of what our result may be off, where the bound is that of other nodes.
        outcome: what became of it.
        detail: more on an outcome other than `TIMED`: what is wrong, or why it does not run.
        nodes: what onnxruntime made of its model, where an activation follows.
    """

    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    slots: int = 0
    calls: int = 0
    error_in_bounds: float | None = None
    error_in_our_bounds: float | None = None
    outcome: Outcome = Outcome.TIMED
    detail: str = ""
    nodes: str = ""

    @property
    def reason(self) -> str:
        """Why it was not timed, in words; empty if it was."""
        return f"{self.outcome}: {self.detail}" if self.outcome is Outcome.WRONG else self.detail

    @property
    def spread(self) -> float | None:
        """The interquartile range in units of the median."""
        if self.median is None or self.q1 is None or self.q3 is None:
            return None
        return (self.q3 - self.q1) / self.median

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, with the reason in words, for JSON."""
        return {**asdict(self), "reason": self.reason}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> BackendResult:
        """Read `as_dict`. Raises: KeyError, TypeError or ValueError for anything else."""
        fields = {name: value for name, value in found.items() if name != "reason"}
        return cls(**{**fields, "outcome": Outcome(fields["outcome"])})


@dataclass(frozen=True)
class CellResult:
    """The result of one cell, as in the result file.

    Attributes:
        backends: by name, ours first.
        ceiling_s: the shortest time that this machine could take; None where ceilings were not measured.
        bound_by: what limits that time: ``flops`` or a level of memory.
        num_layers: how many layers a call computed, with a weight each; times are those of one.
        quiet: how often it was timed until two tries agreed; None where it was timed once, as it came.
    """

    cell: Cell
    backends: dict[str, BackendResult]
    ceiling_s: float | None
    bound_by: str
    flops: int
    nbytes: int
    num_layers: int = 1
    quiet: Quiet | None = None

    @property
    def ours(self) -> float | None:
        """Our median in seconds."""
        return self.backends[OURS].median

    @property
    def best_peer(self) -> str | None:
        """The fastest peer with a right result, or None."""
        timed = {n: s.median for n, s in self.backends.items() if n != OURS and s.median is not None}
        return min(timed, key=lambda name: timed[name]) if timed else None

    def ratio(self, peer: str | None) -> float | None:
        """Return the peer's time in units of ours: above 1 we are faster. None where either was not timed."""
        theirs = self.backends[peer].median if peer in self.backends else None
        return theirs / self.ours if theirs is not None and self.ours is not None else None

    @property
    def fraction(self) -> float | None:
        """The shortest possible time in units of ours; 1 is the most that the machine can do."""
        return self.ceiling_s / self.ours if self.ceiling_s is not None and self.ours is not None else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, with derived figures, for JSON."""
        peers = [name for name in self.backends if name != OURS]
        return {
            **asdict(self.cell),
            "device": self.cell.device,
            "sides": {name: backend.as_dict() for name, backend in self.backends.items()},
            "best_peer": self.best_peer,
            "ratio_to_best": self.ratio(self.best_peer),
            "ratios": {name: self.ratio(name) for name in peers},
            "ceiling_s": self.ceiling_s,
            "fraction_of_ceiling": self.fraction,
            "bound_by": self.bound_by,
            "flops": self.flops,
            "nbytes": self.nbytes,
            "num_layers": self.num_layers,
            "quiet": None if self.quiet is None else asdict(self.quiet),
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> CellResult:
        """Read `as_dict`."""
        return cls(
            Cell(**{field.name: found[field.name] for field in fields(Cell) if field.name in found}),
            {name: BackendResult.from_dict(backend) for name, backend in found["sides"].items()},
            **{name: found[name] for name in ("ceiling_s", "bound_by", "flops", "nbytes")},
            num_layers=found.get("num_layers", 1),
            quiet=Quiet(**found["quiet"]) if found.get("quiet") else None,
        )


@dataclass(frozen=True)
class Problem:
    """One weight, the rows that it is run with, and their results in float64 with derived bounds.

    Attributes:
        peer_bound: for peers, which round once more where an activation follows as a node or function of its own.
        nodes_bound: for peers that compute the activation as ONNX's own nodes, where those may be off further.
    """

    arrays: Arrays
    expected: NDArray[np.float64]
    bound: NDArray[np.float64]
    peer_bound: NDArray[np.float64]
    nodes_bound: NDArray[np.float64]


@lru_cache(maxsize=1)  # cells of one weight follow each other; their rows are the first of these
def make_problem(rows: int, columns: int, outputs: int, kind: Kind, arithmetic: Arithmetic = ROUNDED) -> Problem:
    """Draw the arrays, and compute the exact results and their bounds."""
    kit = subject()
    a = draw(rows, columns, outputs, kind.dtype, kind.weight)
    layer = a.weight, a.bias
    if kind.is_plain or kit.newer_exact is None:
        expected, bound = kit.exact(a.x, [layer], arithmetic)
        return Problem(a, expected, bound, bound, bound)
    expected, bound = kit.newer_exact(a.x, layer, kind.activation, arithmetic)
    peer_bound, element_type = bound, ELEMENT_TYPES[kind.dtype]
    if element_type.accumulator != element_type.name:
        rounding = replace(arithmetic, rounds_between=True)
        peer_bound = kit.newer_exact(a.x, layer, kind.activation, rounding)[1]
    nodes_bound, activation = peer_bound, kit.activations.get(kind.activation)
    if activation is not None and activation.nodes_error is not None:
        sums = kit.newer_exact(a.x, layer, NO_ACTIVATION, arithmetic)
        nodes_bound = peer_bound + activation.nodes_error(*sums, element_type)
    return Problem(a, expected, bound, peer_bound, nodes_bound)


def run_cell(
    cell: Cell,
    problem: Problem,
    peers: Sequence[str],
    budget_s: float,
    ceilings: Ceilings | None,
    *,
    is_quiet: bool = False,
) -> CellResult:
    """Check and time every backend of one cell; until two tries agree, if it is to be quiet."""
    number = num_layers(cell)
    arrays = Arrays(aligned(problem.arrays.x[: cell.M]), problem.arrays.weight, problem.arrays.bias, number)
    results: dict[str, BackendResult] = {}
    backends: dict[str, Backend] = {}
    quiet = None
    with inference_mode(peers):
        for name in (OURS, *peers):
            try:
                backend = make_backend(name, cell, arrays)
                results[name] = check(backend, problem, is_peer=name != OURS)
            except UnavailableError as error:
                results[name] = BackendResult(outcome=Outcome.UNAVAILABLE, detail=str(error))
            else:
                if results[name].outcome is Outcome.NOT_TIMED:
                    backends[name] = backend
        if OURS in backends:
            rng = random.Random(zlib.crc32(cell.key.encode()))
            runs = {name: backend.run for name, backend in backends.items()}
            time_once = partial(measure, runs, budget_s, rng=rng, finish=cuda.finish(cell.threads))
            if is_quiet:
                timings, quiet = until_quiet(time_once)
            else:
                timings = time_once()
            for name, t in timings.items():
                results[name] = replace(
                    results[name],
                    median=t.median / number,
                    q1=t.q1 / number,
                    q3=t.q3 / number,
                    slots=t.slots,
                    calls=t.calls,
                    outcome=Outcome.TIMED,
                )
    backends.clear()
    del arrays
    gc.collect()  # sessions end here, not while the next cell is timed
    flops, nbytes = work(cell)
    least, bound_by = (None, "") if ceilings is None else least_time(cell, ceilings)
    return CellResult(cell, results, least, bound_by, flops, nbytes, number, quiet)


def check(backend: Backend, problem: Problem, *, is_peer: bool = False) -> BackendResult:
    """Run the backend once and compare every layer with the float64 definition: `WRONG`, or `NOT_TIMED` yet."""
    try:
        y = backend.result()
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise UnavailableError(first_words(error)) from error
    dtype = problem.arrays.x.dtype
    if y.dtype != dtype:
        return BackendResult(outcome=Outcome.WRONG, detail=f"{y.dtype} instead of {dtype}")
    layers = y if y.ndim > 2 else y[np.newaxis]
    rows = layers.shape[1]
    bound = problem.bound if not is_peer else problem.nodes_bound if backend.nodes else problem.peer_bound
    element_type = ELEMENT_TYPES[dtype.name]

    def compared(bound: NDArray[np.float64]) -> Comparison:
        # Each layer's rows of W are moved on by one, and so are its results.
        return worst_of(
            compare(np.roll(layer, -i, axis=-1), problem.expected[:rows], bound[:rows], element_type)
            for i, layer in enumerate(layers)
        )

    found = compared(bound)
    in_ours = compared(problem.peer_bound).max_in_bounds if bound is not problem.peer_bound and is_peer else None
    return BackendResult(
        error_in_bounds=_finite(found.max_in_bounds),
        error_in_our_bounds=_finite(in_ours),
        outcome=Outcome.NOT_TIMED if found.complaint is None else Outcome.WRONG,
        detail=found.complaint or "",
        nodes=backend.nodes,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
