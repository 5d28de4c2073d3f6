"""What is measured beside the grid: loading, memory, chains, bits."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exporter.bench.backends import contestants as backends
from exporter.bench.measure import goals, grid
from exporter.bench.measure.cells import OURS, Cell, Kind, Plan
from exporter.bench.measure.goals import judge
from exporter.bench.measure.options import make_plan
from exporter.bench.parts import bits, chain, loading
from exporter.bench.show import tables
from exporter.operators.mylinear import bench as operator_bench
from tests.bench.support import bench_of


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
    memory = loading.measure_memory(replace(small, dtypes=("float32",), kinds=(Kind("float32", "bfloat16"),)))
    assert [row["weight"] for row in memory] == ["", "", "bfloat16", "bfloat16"]
    assert memory[2]["weights_nbytes"] * 2 == memory[0]["weights_nbytes"]
    for row in memory:
        for backend in (OURS, "gemm"):
            found = row["sides"][backend]
            assert set(found) == {"before", "loaded", "called", "peak"}, found
            for moment in ("before", "loaded", "called"):
                assert found[moment]["rss"] == found[moment]["anonymous"] + found[moment]["file"]
                assert found[moment]["rss"] <= found["peak"]
    bench = bench_of(load=load, memory=memory)
    assert [len(tables.load_table(load)[1]), len(tables.memory_table(memory)[1])] == [4, 8]
    assert {j.count for j in judge(bench) if j.group == "load time"} == {2}


def test_growth_is_the_larger_of_loading_and_calling() -> None:
    def backend(loaded: int, called: int) -> dict[str, dict[str, int]]:
        return {"before": {"rss": 100}, "loaded": {"rss": loaded}, "called": {"rss": called}}

    assert goals.growth(backend(150, 140)) == 50
    assert goals.growth(backend(100, 190)) == 90  # mapped, and read by the call
    assert goals.growth({"reason": {}}) is goals.growth({}) is None
    rows = [{"dtype": "float16", "storage": "inline", "sides": {OURS: backend(150, 150), "gemm": backend(200, 200)}}]
    rows += [{**rows[0], "dtype": "float32", "weight": "float16", "sides": {**rows[0]["sides"], OURS: backend(152, 0)}}]
    memory = {j.goal: j for j in judge(bench_of(memory=rows)) if j.group == "memory"}
    assert [j.measured for j in memory.values()] == [0.5, 0.5, 0.52]
    assert [j.verdict for j in memory.values()] == ["met"] * 3


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
    found = grid.run_cell(cell, grid.make_problem(1, 3, 4, cell.kind), (), 0.01, None)
    assert "1.20 does" in found.backends[OURS].reason
