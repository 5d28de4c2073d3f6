"""One cell: every backend is checked before it is timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
import pytest

from exporter.bench.backends import contestants as backends
from exporter.bench.measure import grid
from exporter.bench.measure.cells import DTYPES, OURS, Cell
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.outcome import Outcome
from tests.bench.support import CEILINGS


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
