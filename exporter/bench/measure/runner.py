"""Run the whole benchmark, part after part and cell after cell, and save each as soon as it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from exporter.bench.backends import cuda
from exporter.bench.measure.ceilings import Ceilings, measure_ceilings
from exporter.bench.measure.cells import BenchError, Plan
from exporter.bench.measure.grid import CellResult, make_problem, run_cell
from exporter.bench.measure.identity import differences, identify
from exporter.bench.parts.bits import check_bits
from exporter.bench.parts.chain import measure_chain
from exporter.bench.parts.loading import measure_load, measure_memory
from ort_ops.files.atomic import make_folder, write_atomically

RESULT_NAME = "bench.json"
_FORMAT = 1
_CEILING_S, _QUICK_CEILING_S = 1.2, 0.3
OnProgress = Callable[[int, str], None]
PARTS: dict[str, Callable[[Plan, Callable[[str], None]], list[dict[str, Any]]]] = {
    "load": measure_load,
    "memory": measure_memory,
    "chain": measure_chain,
    "bits": check_bits,
}
"""The parts beside ceilings and grid; each takes the plan, and a function that reports progress."""


@dataclass
class Bench:
    """The measurements so far; also the state from which an interrupted run goes on.

    Attributes:
        identity: of machine, versions, library and plan, by `identify`.
        started, finished: times in UTC; ``finished`` is None until all is done.
        ceilings: None where they were not measured.
        cells: by `Cell.key`.
        parts: results of the further parts, plain data by name.
    """

    identity: dict[str, Any]
    started: str
    finished: str | None = None
    ceilings: Ceilings | None = None
    cells: dict[str, CellResult] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "format": _FORMAT,
            "identity": self.identity,
            "started": self.started,
            "finished": self.finished,
            "ceilings": None if self.ceilings is None else self.ceilings.as_dict(),
            "cells": [cell.as_dict() for cell in self.cells.values()],
            "parts": self.parts,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Bench:
        """Read `as_dict`. Raises: KeyError, TypeError or ValueError for anything else."""
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']}")
        cells = [CellResult.from_dict(cell) for cell in found["cells"]]
        return cls(
            dict(found["identity"]),
            found["started"],
            found["finished"],
            None if found["ceilings"] is None else Ceilings.from_dict(found["ceilings"]),
            {result.cell.key: result for result in cells},
            dict(found["parts"]),
        )

    def save(self, folder: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write the result file and derived figures (``more``), completely or not at all. Raises: OutputError."""
        text = json.dumps(self.as_dict() | dict(more or {}), indent=1, allow_nan=False)
        write_atomically(folder / RESULT_NAME, text.encode() + b"\n")


def run_bench(
    plan: Plan,
    folder: str | Path,
    *,
    is_fresh: bool = False,
    again_below: float | None = None,
    on_progress: OnProgress = lambda done, note: None,
) -> Bench:
    """Measure everything that is not in the folder's result file yet, and write it there after every step.

    Args:
        plan: what to measure.
        folder: made if it is missing.
        is_fresh: whether to ignore and replace the folder's result.
        again_below: a ratio to the best peer below which cells are measured again.
        on_progress: called with how many of the plan's steps are done, and what is next.

    Raises: BenchError if the folder's result is of another machine, version, library or plan, or is not a result, or if
        the plan is for a GPU and something for that is missing; NativeLibraryError without the C++ library;
        OutputError.
    """
    if again_below is not None and not again_below > 0:
        raise BenchError(f"--again-below must be a ratio above 0, got {again_below:g}")
    if plan.device == "cuda":
        cuda.require()
    identity = identify(plan)
    folder = make_folder(folder)
    bench = None if is_fresh else read_state(folder / RESULT_NAME, identity)
    if bench is None:
        bench = Bench(identity, _now())
    if again_below is not None:
        kept = {k: r for k, r in bench.cells.items() if (r.ratio(r.best_peer) or again_below) >= again_below}
        if len(kept) < len(bench.cells):
            bench.cells, bench.finished = kept, None
    cells = list(plan.cells()) if "grid" in plan.parts else []
    done = 0
    if "ceilings" in plan.parts:
        if bench.ceilings is None:
            seconds = _QUICK_CEILING_S if plan.is_quick else _CEILING_S
            bench.ceilings = measure_ceilings(plan.threads, seconds=seconds, on_note=partial(on_progress, done))
            bench.save(folder)
        done += 1
    for cell in cells:
        if cell.key not in bench.cells:
            on_progress(done, str(cell))
            most = max(plan.rows_of(cell.kind))
            problem = make_problem(most, cell.K, cell.N, cell.kind, cuda.arithmetic(cell.threads))
            bench.cells[cell.key] = run_cell(
                cell, problem, plan.peers, plan.budget_s, bench.ceilings, is_quiet=plan.is_quiet
            )
            bench.save(folder)
        done += 1
    bench.cells = {cell.key: bench.cells[cell.key] for cell in cells}  # in the plan's order
    for name in plan.parts:
        if name not in PARTS:
            continue
        if name not in bench.parts:
            bench.parts[name] = PARTS[name](plan, partial(on_progress, done))
            bench.save(folder)
        done += 1
    if bench.finished is None:
        bench.finished = _now()
        bench.save(folder)
    on_progress(done, "done")
    return bench


def read_state(path: Path, identity: dict[str, Any]) -> Bench | None:
    """Return the result of an earlier run, or None.

    Raises: BenchError if it is not a result, or one of another machine, version, library or plan.
    """
    advice = "--fresh measures all of it anew, --output names another folder"
    try:
        found = Bench.from_dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BenchError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"'{path}' is no result of this version of `mylinear bench`; {advice}") from error
    differing = differences(found.identity, identity)
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise BenchError(f"'{path}' was measured otherwise, {differing[0]}{more}; {advice}")
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
