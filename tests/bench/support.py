"""Results that are made up, for the tests of the benchmark."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.bench.measure import runner
from exporter.bench.measure.ceilings import Ceilings, least_time, work
from exporter.bench.measure.cells import OURS, Cell
from exporter.bench.measure.grid import BackendResult, CellResult
from exporter.bench.measure.outcome import Outcome
from exporter.bench.measure.runner import Bench

CEILINGS = Ceilings(
    flops={"float32": {1: 100e9, 2: 200e9}, "float64": {1: 50e9, 2: 100e9}},
    bandwidth={"L2": {1: 100e9, 2: 200e9}, "L3": {1: 50e9, 2: 80e9}, "memory": {1: 20e9, 2: 30e9}},
    capacity={"L2": 1 << 20, "L3": 32 << 20, "memory": 0},
    isa=dict.fromkeys(("float32", "float64", "L2", "L3", "memory"), "avx2"),
    is_capacity_known=True,
)


def result(cell: Cell, ours: float | None, **peers: float | None) -> CellResult:
    """A cell's result with these medians; None is a backend with a wrong result."""

    def backend(median: float | None) -> BackendResult:
        if median is None:
            return BackendResult(outcome=Outcome.WRONG, detail="1 of 2 values are off")
        return BackendResult(median, 0.9 * median, 1.1 * median, 5, 1, 0.1)

    seconds, bound_by = least_time(cell, CEILINGS)
    return CellResult(
        cell, {OURS: backend(ours)} | {n: backend(m) for n, m in peers.items()}, seconds, bound_by, *work(cell)
    )


def bench_of(*results: CellResult, **parts: Any) -> Bench:
    identity = {
        "machine": {"cpu": "made up", "cores": 2},
        "versions": {"onnxruntime": "1"},
        "library": {"isa": "avx2"},
        "plan": {},
    }
    return Bench(identity, "now", "then", CEILINGS, {r.cell.key: r for r in results}, parts)


class Cells:
    """Stands for `run_cell`: remembers what was asked for, and is interrupted at one cell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Cell] = []
        self.interrupted_at: Cell | None = None
        self.ratio = 2.0
        monkeypatch.setattr(runner, "run_cell", self)
        monkeypatch.setattr(runner, "identify", lambda plan: {"machine": {"cpu": self.cpu}, "plan": plan.as_dict()})
        self.cpu = "A"

    def __call__(self, cell: Cell, *_: Any, **__: Any) -> CellResult:
        if cell == self.interrupted_at:
            raise KeyboardInterrupt
        self.asked.append(cell)
        return result(cell, 1.0, gemm=self.ratio + cell.M)
