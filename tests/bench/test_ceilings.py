"""The machine's ceilings, and the least time of a cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter.bench.measure import ceilings
from exporter.bench.measure.ceilings import Ceilings, cache_sizes, least_time
from exporter.bench.measure.cells import Cell
from tests.bench.support import CEILINGS, result


@pytest.mark.parametrize(
    ("cell", "seconds", "bound_by"),
    [
        (Cell(1, 256, 256, "float32", 1), 4 * (256 * 256 + 3 * 256) / 100e9, "L2"),
        (Cell(1, 768, 768, "float32", 1), 4 * (768 * 768 + 3 * 768) / 50e9, "L3"),
        (Cell(1, 576, 576, "float32", 2), 4 * (576 * 576 + 3 * 576) / 200e9, "L2"),  # two cores have twice the L2
        (Cell(1, 4096, 4096, "float32", 1), 4 * (4096 * 4096 + 3 * 4096) / 20e9, "memory"),
        (Cell(1, 4096, 4096, "bfloat16", 2), 2 * (4096 * 4096 + 3 * 4096) / 80e9, "L3"),
        (Cell(128, 768, 3072, "float32", 1), 2 * 128 * 768 * 3072 / 100e9, "flops"),
        (Cell(128, 768, 3072, "float64", 2), 2 * 128 * 768 * 3072 / 100e9, "flops"),
        (Cell(128, 768, 3072, "float16", 1), 2 * 128 * 768 * 3072 / 100e9, "flops"),  # sums in float32
    ],
    ids=str,
)
def test_the_least_time_is_the_larger_of_moving_and_computing(cell: Cell, seconds: float, bound_by: str) -> None:
    found, by = least_time(cell, CEILINGS)
    assert by == bound_by
    assert found == pytest.approx(seconds)
    assert result(cell, 2 * seconds).fraction == pytest.approx(0.5)


def test_cache_sizes_are_read_from_linux(tmp_path: Path) -> None:
    for i, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M")]
    ):
        (tmp_path / f"index{i}").mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (tmp_path / f"index{i}" / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()
    assert cache_sizes(tmp_path) == {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}
    assert cache_sizes(tmp_path / "missing") == {}


@pytest.mark.native
def test_the_loops_measure_something_on_every_isa_and_refuse_what_they_cannot_read() -> None:
    loops = ceilings._Loops()
    assert loops.isas
    buffer = ceilings._buffer(1 << 16)
    assert buffer.ctypes.data % 64 == 0
    for isa in loops.isas:
        for dtype in ("float32", "float64"):
            assert loops.flops(isa, dtype, 0.001) > 1e6
        for streams in (1, 4):
            assert loops.read(isa, streams, buffer, 0.001) > 1e6
            assert loops.read(isa, streams, buffer[1:4097], 0.001) == 0
            assert loops.read(isa, streams, buffer[:100], 0.001) == 0
            assert loops.read(isa, streams, buffer[:0], 0.001) == 0
    assert loops.flops(-1, "float32", 0.001) == loops.flops(99, "float32", 0.001) == 0


@pytest.mark.native
def test_ceilings_are_measured_for_every_number_of_threads_and_survive_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_MEMORY_NBYTES", 1 << 20)
    monkeypatch.setattr(ceilings, "cache_sizes", lambda: {2: 1 << 16, 3: 1 << 18})
    found = ceilings.measure_ceilings((1, 2), seconds=0.01)
    assert set(found.flops) == {"float32", "float64"}
    assert set(found.bandwidth) == {"L2", "L3", "memory"}
    assert all(set(row) == {1, 2} for row in (*found.flops.values(), *found.bandwidth.values()))
    assert Ceilings.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_rates_of_threads_that_did_not_work_at_once_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter([(True, 3.0), (False, 9.0), (True, 4.0), *[(False, 8.0)] * 1000])
    monkeypatch.setattr(ceilings, "together", lambda threads, rate: next(runs))
    loops = object.__new__(ceilings._Loops)
    loops.isas = {0: "wide"}
    assert loops.best(2, 0.1, lambda isa, thread, seconds: 0.0) == (4.0, "wide")


def test_the_rates_of_threads_are_added() -> None:
    assert ceilings.together(3, lambda thread: 10.0**thread)[1] == 111
    assert ceilings.together(1, lambda thread: 5.0) == (True, 5.0)
