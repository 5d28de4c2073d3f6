"""The goals, on made-up figures."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.bench.measure import goals
from exporter.bench.measure.cells import Cell
from exporter.bench.measure.goals import at_least, at_most, judge, mean_at_least
from tests.bench.support import bench_of, result


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


def test_activations_and_narrow_weights_have_goals_of_their_own() -> None:
    def cell(rows: int, shape: tuple[int, int], **more: Any) -> Cell:
        return Cell(rows, *shape, "float32", 1, **more)

    results = [
        result(cell(1, (768, 3072), weight="float16", is_cold=True), 1.0, gemm=1.8, torch=0.1),
        result(cell(4, (768, 3072), weight="bfloat16", is_cold=True), 1.0, gemm=1.6),
        result(cell(4, (768, 768), weight="bfloat16", is_cold=True), 1.0, gemm=0.1),
        result(cell(64, (768, 3072), weight="bfloat16"), 1.0, gemm=0.96),
        result(cell(8, (64, 64), activation="relu"), 1.0, gemm=1.1, torch=0.1),
        result(cell(8, (2, 1), activation="relu"), 1.0, gemm=0.1),
        result(cell(8, (64, 64), activation="gelu"), 1.0, gemm=1.0),
        result(cell(8, (64, 64), activation="silu"), 1.0, gemm=2.0),
        result(cell(8, (64, 64), activation="tanh"), 1.0, gemm=0.1),
    ]
    judged = judge(bench_of(*results))
    found = {j.goal.split(",")[0].split(" at ")[0]: (j.measured, j.count) for j in judged if j.count}
    assert found == {
        "M <= 4": (1.6, 2),
        "M >= 64": (0.96, 1),
        "relu": (1.1, 1),
        "mean of gelu": (pytest.approx(2**0.5), 2),
    }, "and no goal of the grid counts these"


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
