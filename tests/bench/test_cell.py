"""One cell: every backend is checked before it is timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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
