"""What `mylinear bench` measures, and how bad options are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.bench.measure.cells import DTYPES, PARTS, ROWS, SHAPES, make_plan
from ort_ops.cli import main as cli


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
