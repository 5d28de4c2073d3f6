"""`mylinear bench`: its arithmetic on made-up figures, its state, its messages, one tiny run. No time is asserted."""

from __future__ import annotations

import csv
import json
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from exporter.bench.backends import contestants as backends
from exporter.bench.measure import ceilings, goals, grid, runner, timing
from exporter.bench.measure.ceilings import Ceilings, cache_sizes, least_time, work
from exporter.bench.measure.cells import DTYPES, OURS, PARTS, ROWS, SHAPES, BenchError, Cell, Plan, make_plan
from exporter.bench.measure.goals import at_least, at_most, judge, mean_at_least
from exporter.bench.measure.grid import BackendResult, CellResult
from exporter.bench.measure.outcome import Outcome
from exporter.bench.measure.runner import Bench, run_bench
from exporter.bench.parts import bits, chain, loading
from exporter.bench.show import tables
from exporter.bench.show.drawings import as_svg, heat_maps, ratio_color, roofline
from exporter.bench.show.report import write_files
from exporter.operators.mylinear import bench as operator_bench
from ort_ops.cli import main as cli
from ort_ops.files.atomic import OutputError

SVG = "{http://www.w3.org/2000/svg}"
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


class FakeClock:
    """A clock that only backends move, and what they did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def backend(self, name: str, seconds: Callable[[int], float]) -> Callable[[], None]:
        count = 0

        def run() -> None:
            nonlocal count
            self.now += seconds(count)
            count += 1
            self.log.append(name)

        return run


def measured(budget_s: float, **seconds: float) -> tuple[dict[str, timing.Timing], FakeClock]:
    clock = FakeClock()
    runs = {name: clock.backend(name, lambda _, s=s: s) for name, s in seconds.items()}  # type: ignore[misc]
    found = timing.measure(runs, budget_s, rng=random.Random(0), clock=clock, settle=lambda: clock.log.append("settle"))
    return found, clock


# How backends are timed


def test_times_are_per_call_and_sides_take_turns() -> None:
    found, clock = measured(1.0, a=0.0001, b=0.0002)
    assert found["a"].median == pytest.approx(0.0001)
    assert found["b"].median == pytest.approx(0.0002)
    assert found["a"].calls > 1
    turns = [block.split() for block in " ".join(clock.log).split("settle") if block.strip()]
    names = [block[0] for block in turns]
    assert all(set(block) == {name} for block, name in zip(turns, names, strict=True)), "one backend in each slot"
    assert len(names) == 2 + found["a"].slots + found["b"].slots
    pairs = [set(names[i : i + 2]) for i in range(2, len(names), 2)]
    assert all(pair == {"a", "b"} for pair in pairs), "each round has every backend once"
    orders = {tuple(names[i : i + 2]) for i in range(2, len(names), 2)}
    assert len(orders) == 2, "and in either order"


def test_a_cell_ends_with_its_budget_but_not_before_three_slots() -> None:
    found, clock = measured(1.0, a=0.0001, b=0.0002)
    assert 3 < found["a"].slots <= 30
    assert clock.now < 2
    found, _ = measured(0.001, a=1.0, b=1.0)
    assert found["a"].slots == found["b"].slots == 3
    assert found["a"].calls == 1


def test_a_side_that_is_far_behind_is_timed_three_times_and_no_more() -> None:
    found, _ = measured(10.0, fast=0.1, near=0.2, slow=2.0)
    assert found["slow"].slots == 3
    assert found["fast"].slots == found["near"].slots > 3


def test_a_short_call_is_warmed_up_and_a_long_one_is_not() -> None:
    clock = FakeClock()
    cold = {"short": True, "long": True}

    def backend(name: str, warm: float) -> Callable[[], None]:
        def run() -> None:
            clock.now += 10 * warm if cold[name] else warm
            cold[name] = False

        return run

    def settle() -> None:
        cold.update(short=True, long=True)

    runs = {"short": backend("short", 0.0011), "long": backend("long", 0.05)}
    found = timing.measure(runs, 1.0, rng=random.Random(0), clock=clock, settle=settle)
    assert found["short"].median == pytest.approx(0.0011)
    assert found["long"].median == pytest.approx(0.5)


def test_quartiles() -> None:
    found = timing.summarize([5.0, 1.0, 3.0, 2.0, 4.0], 7)
    assert (found.q1, found.median, found.q3, found.slots, found.calls) == (2, 3, 4, 5, 7)
    assert timing.summarize([2.0], 1) == timing.Timing(2, 2, 2, 1, 1)
    assert result(Cell(1, 2, 1, "float32", 1), 2.0).backends[OURS].spread == pytest.approx(0.2)


def test_settling_waits_for_threads_that_run_and_ends_however_long_they_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for task, state in (("1", "S"), ("2", "R"), (str(threading.get_native_id()), "R")):
        (tmp_path / task).mkdir()
        (tmp_path / task / "stat").write_text(f"{task} (a thread) R) {state} 1 1")
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == stops_after:
            (tmp_path / "2" / "stat").write_text("2 (a thread) S 1 1")

    monkeypatch.setattr(timing, "_TASKS", tmp_path)
    monkeypatch.setattr(timing.time, "sleep", sleep)
    stops_after = 0
    timing.settle()
    assert len(naps) == 200
    naps.clear()
    stops_after = 5
    timing.settle()
    assert len(naps) == 5
    naps.clear()
    timing.settle()
    assert not naps
    monkeypatch.setattr(timing, "_TASKS", tmp_path / "no such system")
    timing.settle()
    assert naps == [0.06]


# The ceiling


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


# What is measured


def test_the_default_plan_is_the_whole_grid() -> None:
    plan = replace(make_plan(), threads=(1, 2))
    cells = list(plan.cells())
    assert len(cells) == len(set(cells)) == 640
    assert {c.M for c in cells} == set(ROWS)
    assert {(c.K, c.N) for c in cells} == set(SHAPES)
    assert {c.dtype for c in cells} == set(DTYPES)
    quick = make_plan(is_quick=True)
    assert set(replace(quick, threads=(1, 2)).cells()) < set(cells)
    assert quick.parts == PARTS
    assert plan.num_steps == 640 + len(PARTS) - 1
    assert replace(plan, parts=("load", "bits")).num_steps == 2
    assert json.loads(json.dumps(plan.as_dict())) == plan.as_dict()


def test_options_choose() -> None:
    plan = make_plan(rows="8,1,8", shapes="768x3072, 2X1", dtypes="float16", threads="1", peers="none", parts="grid")
    assert plan.rows == (8, 1)
    assert plan.shapes == ((768, 3072), (2, 1))
    assert (plan.dtypes, plan.threads, plan.peers, plan.parts) == (("float16",), (1,), (), ("grid",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--M", "0"], "--M must be whole numbers from 1 to 1048576 with commas between, got '0'"),
        (["--M", "1,x"], "--M must be whole numbers"),
        (["--M", "1,,2"], "--M must be values with commas between, got '1,,2'"),
        (["--M", ""], "--M must be values with commas between, got ''"),
        (["--shapes", "768"], "--shapes must be pairs KxN with commas between, such as 768x3072, got '768'"),
        (["--shapes", "0x3"], "--shapes must be pairs KxN"),
        (["--dtypes", "float8"], "--dtypes must be among float64, float32, float16, bfloat16, got 'float8'"),
        (["--threads", "4096"], "--threads must be at most"),
        (["--peers", "mkl"], "--peers must be among gemm, matmul, torch, compile, openvino, got 'mkl'"),
        (["--peers", "none,gemm"], "got 'none'"),
        (["--parts", "all"], "--parts must be among ceilings, grid, load, memory, chain, bits, got 'all'"),
        (["--budget", "0"], "--budget must be seconds, more than 0 and less than 3600, got 0"),
        (["--budget", "nan"], "--budget must be seconds"),
        (["--again-below", "0"], "--again-below must be a ratio above 0, got 0"),
        (["--output", "file"], "'file' is a file; name a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_option_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert cli.main(["bench", "--parts", "grid", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mylinear: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# State


@pytest.fixture
def plan() -> Plan:
    return make_plan(rows="1,2", shapes="2x1,3x4", dtypes="float32", threads="1", peers="gemm", parts="grid")


class Cells:
    """Stands for `run_cell`: remembers what was asked for, and is interrupted at one cell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Cell] = []
        self.interrupted_at: Cell | None = None
        self.ratio = 2.0
        monkeypatch.setattr(runner, "run_cell", self)
        monkeypatch.setattr(runner, "identify", lambda plan: {"machine": {"cpu": self.cpu}, "plan": plan.as_dict()})
        self.cpu = "A"

    def __call__(self, cell: Cell, *_: Any) -> CellResult:
        if cell == self.interrupted_at:
            raise KeyboardInterrupt
        self.asked.append(cell)
        return result(cell, 1.0, gemm=self.ratio + cell.M)


def test_an_interrupted_run_goes_on_where_it_was(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = Cells(monkeypatch)
    every = list(plan.cells())
    cells.interrupted_at = every[2]
    with pytest.raises(KeyboardInterrupt):
        run_bench(plan, tmp_path)
    assert cells.asked == every[:2]
    left = json.loads((tmp_path / "bench.json").read_bytes())
    assert left["finished"] is None
    assert len(left["cells"]) == 2
    cells.interrupted_at = None
    bench = run_bench(plan, tmp_path)
    assert cells.asked == every
    assert list(bench.cells) == [cell.key for cell in every]
    assert bench.finished
    assert bench.started == left["started"]
    assert Bench.from_dict(json.loads((tmp_path / "bench.json").read_bytes())) == bench
    run_bench(plan, tmp_path)
    assert cells.asked == every, "nothing is left to measure"
    run_bench(plan, tmp_path, is_fresh=True)
    assert cells.asked == every * 2


def test_a_state_of_other_things_is_refused(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = Cells(monkeypatch)
    run_bench(plan, tmp_path)
    before = (tmp_path / "bench.json").read_bytes()
    cells.cpu = "B"
    with pytest.raises(BenchError, match=r"measured otherwise, machine: cpu was 'A', is 'B'; --fresh measures"):
        run_bench(plan, tmp_path)
    cells.cpu = "A"
    with pytest.raises(BenchError, match=r"plan: budget_s was 2\.5, is 1\.0; --fresh"):
        run_bench(replace(plan, budget_s=1.0), tmp_path)
    with pytest.raises(BenchError, match=r"plan: rows was \[1, 2\], is \[1\] \(and 1 more\)"):
        run_bench(replace(plan, rows=(1,), peers=()), tmp_path)
    assert (tmp_path / "bench.json").read_bytes() == before
    run_bench(replace(plan, rows=(1,)), tmp_path, is_fresh=True)
    assert len(json.loads((tmp_path / "bench.json").read_bytes())["cells"]) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}', "null", "\0"], ids=repr)
def test_what_is_no_state_is_refused(text: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cells(monkeypatch)
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(BenchError, match=r"is no result of this version of `mylinear bench`; --fresh"):
        run_bench(plan, tmp_path)
    assert (tmp_path / "bench.json").read_text() == text


def test_the_identity_names_the_library_and_the_versions(plan: Plan) -> None:
    from exporter.bench.measure.identity import differences, identify

    try:
        found = identify(plan)
    except Exception as error:
        pytest.skip(str(error))
    assert len(found["library"]["sha256"]) == 64
    assert found["versions"]["onnxruntime"]
    assert found["machine"]["cpu"]
    assert found["plan"] == plan.as_dict()
    assert differences(found, json.loads(json.dumps(found))) == []
    assert differences({}, found)[0] == "machine is missing"


def test_poor_cells_are_measured_again_and_stay_in_order(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = Cells(monkeypatch)
    run_bench(plan, tmp_path)
    cells.asked.clear()
    cells.ratio = 5.0
    bench = run_bench(plan, tmp_path, again_below=3.5)  # the ratios were 3 for M = 1, 4 for M = 2
    assert [cell.M for cell in cells.asked] == [1, 1]
    assert list(bench.cells) == [cell.key for cell in plan.cells()]
    assert [r.ratio("gemm") for r in bench.cells.values()] == [6, 4, 6, 4]


def test_a_state_that_cannot_be_written_leaves_the_old_one(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = Cells(monkeypatch)
    cells.interrupted_at = list(plan.cells())[1]
    with pytest.raises(KeyboardInterrupt):
        run_bench(plan, tmp_path)
    before = (tmp_path / "bench.json").read_bytes()
    cells.interrupted_at = None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="free some space"):
        run_bench(plan, tmp_path)
    assert (tmp_path / "bench.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


# One cell


def spoiled(maker: Callable[..., backends.Backend]) -> Callable[..., backends.Backend]:
    """The same backend with a result that is a little off."""

    def make(cell: Cell, arrays: backends.Arrays) -> backends.Backend:
        backend = maker(cell, arrays)
        return backends.Backend(backend.run, lambda: backend.result() * np.float32(1.001))

    return make


@pytest.fixture
def tiny() -> tuple[Cell, grid.Problem]:
    cell = Cell(3, 5, 4, "float32", 1)
    return cell, grid.make_problem(7, cell.K, cell.N, cell.dtype)


@pytest.mark.native
def test_a_cell_times_every_side_with_a_right_result(tiny: tuple[Cell, grid.Problem]) -> None:
    cell, problem = tiny
    found = grid.run_cell(cell, problem, ("gemm", "matmul", "torch"), 0.01, CEILINGS)
    assert list(found.backends) == [OURS, "gemm", "matmul", "torch"]
    for backend in found.backends.values():
        assert (backend.outcome, backend.reason) == (Outcome.TIMED, "")
        assert backend.median is not None
        assert backend.median > 0
        assert backend.error_in_bounds is not None
        assert backend.error_in_bounds <= 1
        assert backend.slots >= 3
    assert found.best_peer in ("gemm", "matmul", "torch")
    assert (found.flops, found.nbytes) == (2 * 3 * 5 * 4, 4 * (20 + 15 + 12 + 4))
    assert CellResult.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.native
def test_a_wrong_peer_is_reported_and_never_the_best(
    tiny: tuple[Cell, grid.Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends._MAKERS, "gemm", spoiled(backends._MAKERS["gemm"]))
    found = grid.run_cell(*tiny, ("gemm", "matmul"), 0.01, None)
    assert found.backends["gemm"].outcome is Outcome.WRONG
    assert found.backends["gemm"].reason.startswith("wrong result: ")
    assert found.backends["gemm"].median is None
    assert (found.backends["gemm"].error_in_bounds or 0) > 1
    assert found.best_peer == "matmul"
    assert found.ratio("gemm") is None
    assert (found.ceiling_s, found.fraction, found.bound_by) == (None, None, "")


@pytest.mark.native
def test_nothing_is_timed_where_our_own_result_is_wrong(
    tiny: tuple[Cell, grid.Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends._MAKERS, OURS, spoiled(backends._MAKERS[OURS]))
    found = grid.run_cell(*tiny, ("gemm",), 0.01, CEILINGS)
    assert found.backends[OURS].outcome is Outcome.WRONG
    assert found.backends["gemm"].outcome is Outcome.NOT_TIMED
    assert found.backends["gemm"].median is None
    assert found.ours is found.ratio("gemm") is found.fraction is None


@pytest.mark.native
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_bound_to_memory_of_ours(dtype: str) -> None:
    cell = Cell(2, 6, 3, dtype, 1)
    problem = grid.make_problem(2, cell.K, cell.N, dtype)
    found = grid.run_cell(cell, problem, ("gemm", "torch"), 0.005, None)
    assert found.backends[OURS].median is not None, found.backends[OURS].reason
    assert found.backends["torch"].median is not None, found.backends["torch"].reason
    if dtype == "bfloat16":
        assert "NOT_IMPLEMENTED" in found.backends["gemm"].reason


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    cell = Cell(1, 2, 1, "float32", 1)
    arrays = backends.draw(1, 2, 1, "float32")
    with backends.inference_mode(("torch",)):
        for peer, package in (("torch", "torch"), ("compile", "torch"), ("openvino", "openvino")):
            with pytest.raises(backends.UnavailableError, match=f"{package} is not installed"):
                backends.make_backend(peer, cell, arrays)


def test_arrays_start_at_cache_lines() -> None:
    for array in vars(backends.draw(3, 5, 7, "bfloat16")).values():
        assert array.ctypes.data % 64 == 0
        assert array.dtype.name == "bfloat16"
        assert array.flags.c_contiguous


# The further parts


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(loading, "_QUICK_SIZES", ((8, 2),))
    monkeypatch.setattr(chain, "_QUICK_BUDGET_S", 0.02)
    return make_plan(rows="1,2,5", shapes="3x4,40x33", dtypes="float32,bfloat16", threads="1", is_quick=True)


@pytest.mark.native
def test_load_and_memory_are_measured_for_both_storages(small: Plan) -> None:
    load = loading.measure_load(small)
    assert [(row["dtype"], row["storage"]) for row in load] == [
        (dtype, storage) for dtype in ("float32", "bfloat16") for storage in ("inline", "external")
    ]
    assert load[0]["sides"][OURS]["median"] > 0
    assert load[0]["sides"]["gemm"]["slots"] >= 5
    assert "NOT_IMPLEMENTED" in load[2]["sides"]["gemm"]["reason"]
    if not sys.platform.startswith("linux"):
        return
    memory = loading.measure_memory(replace(small, dtypes=("float32",)))
    for row in memory:
        for backend in (OURS, "gemm"):
            found = row["sides"][backend]
            assert set(found) == {"before", "loaded", "called", "peak"}, found
            for moment in ("before", "loaded", "called"):
                assert found[moment]["rss"] == found[moment]["anonymous"] + found[moment]["file"]
                assert found[moment]["rss"] <= found["peak"]
    bench = bench_of(load=load, memory=memory)
    assert [len(tables.load_table(load)[1]), len(tables.memory_table(memory)[1])] == [4, 4]
    assert {j.count for j in judge(bench) if j.group == "load time"} == {2}


def test_growth_is_the_larger_of_loading_and_calling() -> None:
    def backend(loaded: int, called: int) -> dict[str, dict[str, int]]:
        return {"before": {"rss": 100}, "loaded": {"rss": loaded}, "called": {"rss": called}}

    assert goals.growth(backend(150, 140)) == 50
    assert goals.growth(backend(100, 190)) == 90  # mapped, and read by the call
    assert goals.growth({"reason": {}}) is goals.growth({}) is None
    rows = [{"dtype": "float16", "storage": "inline", "sides": {OURS: backend(150, 150), "gemm": backend(200, 200)}}]
    memory = {j.goal: j for j in judge(bench_of(memory=rows)) if j.group == "memory"}
    assert [j.measured for j in memory.values()] == [0.5, 0.5]


@pytest.mark.native
def test_the_chain_is_checked_and_timed(small: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = chain.measure_chain(small)
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert set(rows[0]["sides"][OURS]) == {"one", "chain", "node"}
    assert "NOT_IMPLEMENTED" in rows[1]["sides"]["gemm"]["reason"]
    monkeypatch.setattr(operator_bench, "linear_float64", lambda x, w, b: x @ w.T + b + 1e-3)
    assert "wrong result" in chain.measure_chain(small)[0]["sides"][OURS]["reason"]


@pytest.mark.native
def test_bits_are_compared_by_threads_and_by_batch(small: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = bits.check_bits(small)
    assert [(row["K"], row["N"], row["dtype"]) for row in rows] == [
        (k, n, dtype) for k, n in ((3, 4), (40, 33)) for dtype in ("float32", "bfloat16")
    ]
    assert all(row["batches_that_differ_by_threads"] == {} for row in rows)
    results = bits._results

    def off(arrays: backends.Arrays, batches: list[int], threads: int) -> dict[int, np.ndarray[Any, Any]]:
        found = results(arrays, batches, threads)
        if threads == 3:
            found[2][1, -1] *= 2
        if threads == 1:
            found[5][4, 0] *= 2
        return found

    monkeypatch.setattr(bits, "_results", off)
    row = bits.check_bits(small)[0]
    assert row["batches_that_differ_by_threads"]["3"] == [2, 5]
    assert row["batches_that_differ_by_threads"]["2"] == [5]
    assert row["batches_whose_rows_differ"] == [5]
    judged = {j.goal: j for j in judge(bench_of(bits=[row])) if j.group == "same bits"}
    assert {j.verdict for j in judged.values()} == {"missed"}


@pytest.mark.native
def test_an_onnxruntime_without_bfloat16_arrays_leaves_bfloat16_out(
    small: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(backends.onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")
    rows = bits.check_bits(replace(small, shapes=((3, 4),)))
    assert ["reason" in row for row in rows] == [False, True]
    assert "takes no bfloat16 arrays from Python; 1.20 does" in tables.bits_table(rows)[1][1][3]
    assert {j.count for j in judge(bench_of(bits=rows)) if j.group == "same bits"} == {1}
    cell = Cell(1, 3, 4, "bfloat16", 1)
    found = grid.run_cell(cell, grid.make_problem(1, 3, 4, "bfloat16"), (), 0.01, None)
    assert "1.20 does" in found.backends[OURS].reason


# Goals


def test_verdicts() -> None:
    values = [(2.0, "a"), (0.97, "b"), (None, "c")]
    assert at_least("g", "what", 1.0, values).verdict == "met within noise"
    assert at_least("g", "what", 1.0, values).where == "b"
    assert at_least("g", "what", 1.0, values).count == 2
    assert at_least("g", "what", 0.97, values).verdict == "met"
    assert at_least("g", "what", 1.03, values).verdict == "missed"
    assert at_least("g", "what", 1.0, [(None, "c")]).verdict == "not measured"
    assert at_most("g", "what", 1.95, values, is_timed=True).verdict == "met within noise"
    assert at_most("g", "what", 1.95, values, is_timed=False).verdict == "missed"
    assert at_most("g", "what", 2.0, values, is_timed=False).verdict == "met"
    assert at_most("g", "what", 2.0, [], is_timed=False).verdict == "not measured"
    assert mean_at_least("g", "what", 2.0, [(1.0, ""), (4.0, "")]).measured == pytest.approx(2)
    assert mean_at_least("g", "what", 2.1, [(1.0, ""), (4.0, "")]).verdict == "missed"
    assert mean_at_least("g", "what", 2.1, []).verdict == "not measured"


def test_goals_are_judged_on_the_cells_that_they_are_about() -> None:
    results = [
        result(Cell(1, 2, 1, "float32", 1), 1.0, gemm=0.9, matmul=3.0),
        result(Cell(8, 768, 768, "float32", 1), 1.0, gemm=2.0, matmul=None, torch=1.5),
        result(Cell(4, 768, 768, "float64", 1), 1.0, gemm=1.5),
        result(Cell(8, 768, 768, "float64", 1), 1.0, gemm=1.2),
        result(Cell(2, 64, 768, "float64", 1), 1.0, gemm=1.3),
        result(Cell(2, 4096, 4096, "float16", 1), 1.0, gemm=1.8),
        result(Cell(8, 64, 64, "bfloat16", 1), 1.0, torch=4.9, openvino=0.1),
        result(Cell(1, 64, 64, "bfloat16", 1), 1.0, torch=0.2),
        result(Cell(1, 4096, 4096, "bfloat16", 1), 1.0),
        result(Cell(1, 4096, 4096, "float32", 1), 1.7, gemm=1.7),
        result(Cell(128, 768, 3072, "float32", 1), 2 * 128 * 768 * 3072 / 95e9, gemm=1.0),
        result(Cell(128, 768, 3072, "float32", 2), 2 * 128 * 768 * 3072 / 171e9, gemm=1.0),
    ]
    judged = {(j.group, j.goal): j for j in judge(bench_of(*results))}

    def found(group: str, words: str) -> goals.Judged:
        (one,) = [j for (g, goal), j in judged.items() if g == group and words in goal]
        return one

    assert found("float32", "ORT Gemm").measured == pytest.approx(0.9)
    assert found("float32", "ORT Gemm").where == "(1, 2, 1) float32, 1 thread"
    assert found("float32", "ORT Gemm").count == 5
    assert found("float32", "MatMul").count == 1, "a wrong peer is not judged against"
    assert found("float64", "every cell").measured == pytest.approx(1.2)
    assert found("float64", "M <= 4").measured == pytest.approx(1.5)
    assert found("float64", "M <= 4").verdict == "missed"
    assert found("float64", "mean").measured == pytest.approx((1.5 * 1.2 * 1.3) ** (1 / 3))
    assert found("float16", "M <= 2").verdict == "met"
    assert found("bfloat16", "against torch").measured == pytest.approx(4.9)
    assert found("bfloat16", "against torch").verdict == "met within noise"
    assert found("bfloat16", "our float32").measured == pytest.approx(1.7)
    assert found("tiny", "(1, 2, 1)").measured == pytest.approx(0.9)
    assert found("roofline", "FMA").measured == pytest.approx(171 / 200)
    assert found("roofline", "FMA").count == 2
    assert found("roofline", "memory bandwidth").count == 2
    assert found("two threads", "over one").measured == pytest.approx(171 / 95)
    assert found("memory", "resident, of").verdict == "not measured"


# What it leaves


class Page(HTMLParser):
    """Collects what a page would load, and counts its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_drawings_are_xml_and_have_every_cell() -> None:
    results = [result(Cell(m, k, 64, "float32", 1), 1e-3 / m, gemm=2e-3 / m) for m in (1, 8) for k in (64, 256)]
    results[3] = result(results[3].cell, None, gemm=1.0)
    drawn = as_svg(heat_maps(results, lambda r: r.ratio("gemm"), ratio_color, "a < b"), "a < b")
    assert drawn == as_svg(heat_maps(results, lambda r: r.ratio("gemm"), ratio_color, "a < b"), "a < b")
    svg = ElementTree.fromstring(drawn)
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "a < b")
    texts = [node.text for node in svg.iter(f"{SVG}text")]
    assert texts.count("2.00") == 3
    assert texts.count("-") == 1
    assert {"64x64", "256x64", "1", "8", "M", "a < b"} <= set(texts)
    assert not list(svg.iter(f"{SVG}metadata")), "no date, no version"
    tips = [node.text for node in svg.iter(f"{SVG}title")]
    assert tips[0] == (
        "(1, 64, 64) float32, 1 thread\nours: 1 ms (spread 20%)\ngemm: 2 ms (spread 20%), 2.00 of ours\n"
        f"ceiling: {tables.format_time(results[0].ceiling_s or 0)} by L2"
    )
    assert [tip for tip in tips if tip and "wrong result, 1 of 2 values are off" in tip] == [tips[3]]
    plot = roofline(results, CEILINGS, 1)
    assert plot is not None
    drawn = as_svg(plot, "Roofline")
    assert len(list(ElementTree.fromstring(drawn).iter(f"{SVG}title"))) == 3, "a point for each of our times"
    assert {"float32 100 GFLOP/s", "L2 100 GB/s"} <= {
        node.text for node in ElementTree.fromstring(drawn).iter(f"{SVG}text")
    }
    assert roofline(results, CEILINGS, 2) is None


def test_without_matplotlib_the_page_has_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "exporter.bench.show.drawings", raising=False)
    monkeypatch.delattr("exporter.bench.show.drawings", raising=False)
    bench = bench_of(result(Cell(1, 2, 1, "float32", 1), 1.0, gemm=1.5))
    assert [path.name for path in write_files(bench, tmp_path)] == ["bench.json", "bench.csv", "bench.html"]
    page = (tmp_path / "bench.html").read_text()
    assert "Drawings need matplotlib" in page
    assert "<td>1.50</td>" in page
    assert "<svg" not in page


def test_verdicts_are_colored_by_their_fields(tmp_path: Path) -> None:
    bench = bench_of(result(Cell(1, 2, 1, "float32", 1), 1.0, gemm=0.9))
    write_files(bench, tmp_path, with_goals=True)
    page = (tmp_path / "bench.html").read_text()
    assert '<td class="bad">missed</td>' in page
    assert '<td class="quiet">not measured</td>' in page
    assert '"verdict": "missed"' in (tmp_path / "bench.json").read_text()


def test_csv_has_a_line_for_every_side_of_every_cell() -> None:
    text = tables.to_csv([result(Cell(1, 2, 1, "float32", 1), 2e-6, gemm=3e-6, torch=None)])
    ours, gemm, torch = csv.DictReader(text.splitlines())
    assert (ours["side"], ours["median_us"], ours["ratio_to_ours"], ours["is_best_peer"]) == ("ours", "2", "1", "0")
    assert (gemm["median_us"], gemm["ratio_to_ours"], gemm["is_best_peer"]) == ("3", "1.5", "1")
    assert (torch["median_us"], torch["ratio_to_ours"]) == ("", "")
    assert torch["reason"].startswith("wrong result")


@pytest.mark.native
def test_the_command_leaves_all_that_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    command = ["bench", "--M", "1,3", "--shapes", "2x1,16x8", "--dtypes", "float32,bfloat16", "--threads", "1"]
    command += ["--peers", "gemm,torch", "--parts", "grid,chain,bits", "--budget", "0.01", "--quick", "--goals"]
    assert cli.main([*command, "--output", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "best peer / ours" in shown.out
    assert "NOT_IMPLEMENTED" in shown.out
    assert "Goals" in shown.out
    assert "10/10" in shown.err, "progress is shown"
    assert {path.name for path in folder.iterdir()} == {"bench.json", "bench.csv", "bench.html", "ratios.png"}
    for name in ("bench.json", "bench.csv", "bench.html", "ratios.png"):
        assert str(folder / name) in shown.out
    found = json.loads((folder / "bench.json").read_bytes())
    assert len(found["cells"]) == 8
    assert set(found["parts"]) == {"chain", "bits"}
    assert {row["verdict"] for row in found["goals"]} <= {"met", "met within noise", "missed", "not measured"}
    assert found["cells"][0]["sides"]["ours"]["error_in_bounds"] <= 1
    assert len(list(csv.DictReader((folder / "bench.csv").read_text().splitlines()))) == 8 * 3
    page = Page()
    page.feed((folder / "bench.html").read_text())
    assert page.links == []
    assert page.tags.count("svg") >= 2
    assert "script" not in page.tags
    assert cli.main([*command, "--output", str(folder)]) == 0
    again = json.loads((folder / "bench.json").read_bytes())
    assert again == found, "a complete result is shown again, not measured again"
    assert cli.main([*command, "--budget", "0.02", "--output", str(folder)]) == 2
    assert "plan: budget_s was 0.01, is 0.02" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = Cells(monkeypatch)
    cells.interrupted_at = Cell(1, 2, 1, "float32", 1)
    command = ["bench", "--M", "1", "--shapes", "3x1,2x1", "--dtypes", "float32", "--threads", "1", "--parts", "grid"]
    assert cli.main([*command, "--output", str(tmp_path)]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "bench.json").read_bytes())["cells"]) == 1


def test_without_the_library_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MYLINEAR_LIBRARY", "/nowhere/library.so")
    assert cli.main(["bench", "--output", str(tmp_path / "out")]) == 2
    assert "MYLINEAR_LIBRARY names no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
