"""`mylinear bench --quiet`: a cell is timed until two tries agree, and the machine is watched meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.bench.measure import quiet
from exporter.bench.measure.cells import Cell
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.quiet import Load, Quiet, read_load, shares, until_quiet
from exporter.bench.measure.timing import Timing
from exporter.bench.show import tables
from ort_ops.cli import main as cli
from tests.bench.support import result


def timed(*tries: tuple[float, float]) -> tuple[dict[str, float], Quiet]:
    """Give these medians of two backends, try by try, on a clock and a load that grow by one and a half a try."""
    left: Iterator[tuple[float, float]] = iter(tries)
    clock = iter(range(100))
    loads = iter(Load(0.25 * (i // 2 + i % 2), float(i), 0.75 * i) for i in range(100))

    def once() -> dict[str, Timing]:
        return {name: Timing(t, t, t, 3, 1) for name, t in zip("ab", next(left), strict=True)}

    found, how = until_quiet(once, clock=lambda: next(clock), load=lambda: next(loads))
    assert next(left, None) is None, "it stops as soon as two agree"
    return {name: timing.median for name, timing in found.items()}, how


def test_two_tries_that_agree_end_it() -> None:
    found, how = timed((1.0, 2.0), (1.02, 2.0))
    assert found == {"a": 1.02, "b": 2.0}
    assert how == Quiet(2, True, 0.25, 0.25)
    assert str(how) == "2 tries; stolen 25%, others 25% of a processor"


def test_every_backend_must_agree_and_any_earlier_try_counts() -> None:
    found, how = timed((1.0, 2.0), (1.0, 3.0), (5.0, 3.0), (1.0, 2.05))
    assert (found, how.tries, how.has_agreed) == ({"a": 1.0, "b": 2.05}, 4, True)


def test_tries_that_never_agree_give_the_fastest_and_say_so() -> None:
    found, how = timed(*((1.0 + 0.1 * i, 9.0 - i) for i in range(quiet.MOST_TRIES)))
    assert found == {"a": 1.0, "b": 9.0 - (quiet.MOST_TRIES - 1)}
    assert not how.has_agreed
    assert str(how).startswith("never agreed in 6 tries")


def test_the_load_is_read_from_linux_and_unknown_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text("cpu  100 10 50 9999 99 5 5 40 0 0\ncpu0 1 1 1 1\n")
    (tmp_path / "own").write_text("7 (a ) name) R" + " 0" * 10 + " 30 20 0 0\n")
    monkeypatch.setattr(quiet.os, "sysconf", lambda name: 100)
    assert read_load(tmp_path / "stat", tmp_path / "own") == Load(0.4, 1.7, 0.5)
    assert read_load(tmp_path / "missing", tmp_path / "own") is None
    assert shares(None, Load(0, 0, 0), 1.0) is None
    assert str(Quiet(2, True)) == "2 tries; the system does not say what else ran"


def test_the_table_says_how_often_and_marks_what_never_agreed() -> None:
    cell = Cell(1, 2, 1, "float32", 1)
    agreed = replace(result(cell, 1.0, gemm=1.0), quiet=Quiet(2, True, 0.0, 0.5))
    never = replace(agreed, cell=replace(cell, M=2), quiet=Quiet(6, False, 0.1, 0.5))
    assert CellResult.from_dict(json.loads(json.dumps(never.as_dict()))) == never
    header, rows = tables.cell_table([agreed, never])
    assert header[-1] == "timed until two agreed"
    assert rows[0][-1] == "2 tries; stolen 0%, others 50% of a processor"
    assert rows[1][-1].startswith("never agreed in 6 tries")
    assert tables.quiet_notes([agreed, never]) == [
        "1 cells agreed after 2 tries",
        "(2, 2, 1) float32, 1 thread: never agreed in 6 tries; stolen 10%, others 50% of a processor",
    ]
    assert len(tables.cell_table([result(cell, 1.0)])[0]) == len(header) - 2


@pytest.mark.native
def test_the_command_times_until_two_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--M", "1", "--shapes", "2x1", "--dtypes", "float32", "--threads", "1", "--peers", "none"]
    assert cli.main(["bench", *sizes, "--parts", "grid", "--budget", "0.01", "--quiet", "--output", str(tmp_path)]) == 0
    assert "Timed until two medians agreed within 3%" in capsys.readouterr().out
    (cell,) = json.loads((tmp_path / "bench.json").read_bytes())["cells"]
    assert 2 <= cell["quiet"]["tries"] <= quiet.MOST_TRIES
