"""One cell: every backend is checked before it is timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from exporter.bench.backends import arrays, torch_peers
from exporter.bench.backends import contestants as backends
from exporter.bench.measure import cold, grid
from exporter.bench.measure.cells import OURS, Cell
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.options import DTYPES
from exporter.bench.measure.outcome import Outcome
from exporter.bench.show import tables
from tests.bench.support import CEILINGS


def spoiled(maker: Callable[..., arrays.Backend]) -> Callable[..., arrays.Backend]:
    """The same backend with a result that is a little off."""

    def make(cell: Cell, given: arrays.Arrays) -> arrays.Backend:
        backend = maker(cell, given)
        return arrays.Backend(backend.run, lambda: backend.result() * np.float32(1.001))

    return make


@pytest.fixture
def tiny() -> tuple[Cell, grid.Problem]:
    cell = Cell(3, 5, 4, "float32", 1)
    return cell, grid.make_problem(7, cell.K, cell.N, cell.kind)


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
    problem = grid.make_problem(2, cell.K, cell.N, cell.kind)
    found = grid.run_cell(cell, problem, ("gemm", "torch"), 0.005, None)
    assert found.backends[OURS].median is not None, found.backends[OURS].reason
    assert found.backends["torch"].median is not None, found.backends["torch"].reason
    if dtype == "bfloat16":
        assert "NOT_IMPLEMENTED" in found.backends["gemm"].reason


@pytest.mark.native
@pytest.mark.parametrize(("activation", "node"), [("relu", "FusedGemm"), ("gelu", "Gemm + Gelu"), ("none", "")])
@pytest.mark.parametrize("weight", ["", "bfloat16"])
def test_peers_compute_the_activation_and_wide_weights_of_the_same_numbers(
    activation: str, node: str, weight: str
) -> None:
    cell = Cell(3, 20, 7, "float32", 1, weight, activation)
    found = grid.run_cell(cell, grid.make_problem(5, 20, 7, cell.kind), ("gemm", "matmul", "torch"), 0.01, CEILINGS)
    assert {backend.outcome for backend in found.backends.values()} == {Outcome.TIMED}, found
    assert found.backends["gemm"].nodes == node
    assert found.nbytes == (2 if weight else 4) * 140 + 4 * (60 + 21 + 7)
    assert CellResult.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.native
def test_a_sum_that_peers_round_has_room_for_that(tiny: tuple[Cell, grid.Problem]) -> None:
    cell = Cell(64, 64, 64, "float16", 1, activation="gelu")
    found = grid.run_cell(cell, grid.make_problem(64, 64, 64, cell.kind), ("gemm", "torch"), 0.01, None)
    assert {backend.outcome for backend in found.backends.values()} == {Outcome.TIMED}, found
    problem = tiny[1]
    assert problem.peer_bound is problem.bound


def test_a_fusion_that_onnxruntime_does_not_make_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "optimized_nodes", lambda *_: ("Gemm", "Relu"))
    cell = Cell(1, 2, 1, "float32", 1, activation="relu")
    with pytest.raises(arrays.UnavailableError, match=r"makes Gemm \+ Relu of the product and relu, not FusedGemm"):
        backends.make_backend("gemm", cell, arrays.draw(1, 2, 1, "float32"))


@pytest.mark.native
def test_a_cold_cell_goes_through_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "num_layers", lambda cell: 3)
    cell = Cell(2, 20, 7, "float32", 1, "float16", is_cold=True)
    problem = grid.make_problem(2, 20, 7, cell.kind)
    found = grid.run_cell(cell, problem, ("gemm", "matmul", "torch"), 0.01, CEILINGS)
    assert {backend.outcome for backend in found.backends.values()} == {Outcome.TIMED}, found
    assert (found.num_layers, found.bound_by) == (3, "memory")
    assert tables.cold_notes([found]) == ["20x7: 3 weights in turn, 0 MiB in float32"]
    layers = arrays.Arrays(problem.arrays.x, problem.arrays.weight, problem.arrays.bias, 3).layers
    assert len({weight.tobytes() for weight, _ in layers}) == 3
    monkeypatch.setattr(arrays.Arrays, "layers", [layers[0], layers[1], layers[0]])
    wrong = grid.run_cell(cell, problem, (), 0.01, None)
    assert wrong.backends[OURS].outcome is Outcome.WRONG, "every layer is checked"


def test_cold_weights_exceed_twice_the_cache_unless_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(1, 1024, 1024, "float32", 1, "float16", is_cold=True)
    monkeypatch.setattr(cold, "cache_sizes", lambda: {2: 1 << 20, 3: 32 << 20})
    monkeypatch.setattr(cold, "free_memory", lambda: 16 << 30)
    assert cold.num_layers(cell) == 17
    monkeypatch.setattr(cold, "free_memory", lambda: 160 << 20)
    assert cold.num_layers(cell) == 2
    assert cold.num_layers(Cell(1, 1024, 1024, "float32", 1)) == 1
    monkeypatch.setattr(cold, "cache_sizes", dict)
    assert cold.largest_cache() == 32 << 20


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "openvino", "zentorch"):
        monkeypatch.setitem(sys.modules, name, None)
    cell = Cell(1, 2, 1, "float32", 1)
    drawn = arrays.draw(1, 2, 1, "float32")
    with torch_peers.inference_mode(("torch",)):
        for peer, package in (
            ("torch", "torch"),
            ("compile", "torch"),
            ("openvino", "openvino"),
            ("zentorch", "zentorch"),
        ):
            with pytest.raises(arrays.UnavailableError, match=f"{package} is not installed"):
                backends.make_backend(peer, cell, drawn)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_openvino_computes_the_product(dtype: str, num_layers: int) -> None:
    pytest.importorskip("openvino", reason="a peer that is no dependency")
    drawn = arrays.draw(5, 70, 9, dtype)
    several = arrays.Arrays(drawn.x, drawn.weight, drawn.bias, num_layers)
    found = backends.make_backend("openvino", Cell(5, 70, 9, dtype, 1), several).result().astype(np.float64)
    layers = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in several.layers]
    expected = [drawn.x.astype(np.float64) @ weight.T + bias for weight, bias in layers]
    np.testing.assert_allclose(found.reshape(num_layers, 5, 9), expected, rtol=0.02, atol=0.05)


def test_zentorch_is_no_peer_where_it_optimizes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zentorch", ModuleType("zentorch"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(arrays.UnavailableError, match="zentorch optimizes on CPUs with AVX-512 only, got AVX2"):
        backends.make_backend("zentorch", Cell(1, 2, 1, "float32", 1), arrays.draw(1, 2, 1, "float32"))


def test_arrays_start_at_cache_lines() -> None:
    drawn = arrays.draw(3, 5, 7, "bfloat16")
    for array in (drawn.x, drawn.weight, drawn.bias):
        assert array.ctypes.data % 64 == 0
        assert array.dtype.name == "bfloat16"
        assert array.flags.c_contiguous


@pytest.mark.native
def test_silu_of_two_nodes_has_room_for_the_error_of_a_sigmoid(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(256, 256, 64, "float32", 1, activation="silu")
    problem = grid.make_problem(256, 256, 64, cell.kind)
    assert problem.bound is problem.peer_bound
    assert problem.nodes_bound.max() > 4 * problem.bound[problem.nodes_bound > 1.01 * problem.bound].min()
    assert (problem.nodes_bound >= problem.bound).all()
    found = grid.run_cell(cell, problem, ("gemm", "torch"), 0.01, None)
    assert {backend.outcome for backend in found.backends.values()} == {Outcome.TIMED}, found
    gemm, torch = found.backends["gemm"], found.backends["torch"]
    assert (torch.error_in_our_bounds, found.backends[OURS].error_in_our_bounds) == (None, None)
    assert gemm.error_in_our_bounds is not None
    assert CellResult.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    notes = tables.node_notes([replace(found, backends={"gemm": replace(gemm, error_in_our_bounds=9.58)})])
    assert notes == [
        "gemm, float32, silu: Gemm + QuickGelu; right for these nodes, and off by up to 9.6 times what our "
        "kernel may be"
    ]

    # Off as two right nodes may be where x is negative, and one right kernel may not.
    def off(maker: Callable[..., arrays.Backend], nodes: str) -> Callable[..., arrays.Backend]:
        def make(cell: Cell, given: arrays.Arrays) -> arrays.Backend:
            backend = maker(cell, given)
            sums = given.x.astype(np.float64) @ given.weight.T.astype(np.float64) + given.bias
            change = np.where(sums < 0, 3 * 2.0**-24 * sums, 0.0)
            return arrays.Backend(backend.run, lambda: (problem.expected + change).astype(np.float32), nodes)

        return make

    for name, nodes, outcome in (("gemm", "Gemm + QuickGelu", Outcome.TIMED), ("gemm", "", Outcome.WRONG)):
        monkeypatch.setitem(backends._MAKERS, name, off(backends._MAKERS[name], nodes))
        made = grid.run_cell(cell, problem, (name,), 0.01, None).backends[name]
        assert made.outcome is outcome, made
