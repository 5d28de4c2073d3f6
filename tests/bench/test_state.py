"""A benchmark that is interrupted goes on where it was; a state of other things is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.bench.measure.cells import BenchError, Plan
from exporter.bench.measure.options import make_plan
from exporter.bench.measure.runner import Bench, run_bench
from ort_ops.files.atomic import OutputError
from tests.bench.support import Cells


@pytest.fixture
def plan() -> Plan:
    return make_plan(rows="1,2", shapes="2x1,3x4", dtypes="float32", threads="1", peers="gemm", parts="grid")


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
