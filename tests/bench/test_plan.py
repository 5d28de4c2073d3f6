"""What `mylinear bench` measures, and how bad options are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.bench.measure.options import DTYPES, PARTS, ROWS, SHAPES, make_plan
from ort_ops.cli import main as cli


def test_the_default_plan_is_the_whole_grid() -> None:
    plan = replace(make_plan(), threads=(1, 2))
    cells = list(plan.cells())
    plain = [cell for cell in cells if cell.kind.is_plain]
    assert len(plain) == len(set(plain)) == 640
    assert {c.M for c in plain} == set(ROWS)
    assert {(c.K, c.N) for c in cells} == set(SHAPES)
    assert {c.dtype for c in plain} == set(DTYPES)
    assert not any(cell.is_cold for cell in plain)
    assert len({cell.key for cell in cells}) == len(cells) == 1120
    assert plan.num_steps == 1120 + len(PARTS) - 1
    assert replace(plan, parts=("load", "bits")).num_steps == 2
    assert json.loads(json.dumps(plan.as_dict())) == plan.as_dict()


def test_the_grid_has_activations_and_narrow_weights_of_float32() -> None:
    more = [kind for kind in make_plan().kinds if not kind.is_plain]
    assert {kind.dtype for kind in more} == {"float32"}
    assert [(kind.weight, kind.activation) for kind in more] == [
        *(("", name) for name in ("relu", "gelu", "gelu_tanh", "silu")),
        *((name, "none") for name in ("bfloat16", "float16")),
    ]
    quick = make_plan(is_quick=True)
    assert set(quick.kinds) < set(make_plan().kinds)
    assert {kind.weight for kind in quick.kinds} == {"", "bfloat16"}
    assert {kind.activation for kind in quick.kinds} == {"none", "relu", "gelu"}
    assert quick.parts == PARTS
    assert all(kind.is_plain for kind in make_plan(dtypes="float32,float16").kinds), "who chooses gets no more"


def test_activations_and_weights_are_combined_and_those_of_few_rows_come_from_memory() -> None:
    plan = make_plan(
        rows="4,8", shapes="768x768,64x64", threads="1", weights="same,float16", activations="none,tanh", parts="grid"
    )
    assert plan.dtypes == ("float32",)
    assert [str(kind) for kind in plan.kinds] == [
        "float32",
        "float32, tanh",
        "float32 with float16 weights",
        "float32 with float16 weights, tanh",
    ]
    assert {(c.M, c.K, c.weight) for c in plan.cells() if c.is_cold} == {(4, 768, "float16")}
    assert {c.K for c in replace(plan, is_cold=True).cells() if c.is_cold} == {768}
    assert str(next(c for c in plan.cells() if c.is_cold)) == (
        "(4, 768, 768) float32 with float16 weights, weights from memory, 1 thread"
    )


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
        (["--peers", "mkl"], "--peers must be among gemm, matmul, torch, compile, openvino, zentorch, got 'mkl'"),
        (["--peers", "none,gemm"], "got 'none'"),
        (["--parts", "all"], "--parts must be among ceilings, grid, load, memory, chain, bits, got 'all'"),
        (
            ["--activations", "elu"],
            "--activations must be among none, relu, gelu, gelu_tanh, silu, sig",
        ),
        (["--weights", "int8"], "--weights must be among same, bfloat16, float16, got 'int8'"),
        (["--weights", "float16", "--dtypes", "float64"], "--weights float16 needs float32 among --dtypes"),
        (["--device", "cuda", "--cold"], "--cold must be left out with --device cuda"),
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
