"""Verification of an operator that this project does not have: right kernels pass, and wrong ones are caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from exporter.verification.nodes.gradients import EXACT, FINITE_DIFFERENCES
from exporter.verification.reasons import NoBackend, NothingProved
from exporter.verification.report import to_junit, write_html
from exporter.verification.result import ParityError, Verification
from exporter.verification.verify import verify
from ort_ops.cli import main as cli
from ort_ops.numerics.bound import Bound
from ort_ops.numerics.compare import Verdict
from ort_ops.numerics.faults import WrongType, WrongValues
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from tests.verification import small_operator
from tests.verification.small_operator import KIT, compute, make_chain, python_kernel

Array = NDArray[Any]
Compute = Callable[[Array, Array | None, float], tuple[Array, Array]]


@pytest.fixture
def use() -> Iterator[Callable[[OperatorKit], None]]:
    """Register a kit for one test."""
    used: list[OperatorKit] = []

    def add(kit: OperatorKit) -> None:
        registry.add(kit)
        used.append(kit)

    yield add
    for kit in used:
        registry.remove(kit)


def run(tmp_path: Path, model: onnx.ModelProto, **options: Any) -> Verification:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return verify(path, **{"compile_backend": None, "batch_sizes": [1, 7], **options})


def violated(result: Verification, backend: str) -> set[str]:
    assert {row.backend for row in result.rows if row.is_violated} <= {backend}, result.table()
    return {row.inputs for row in result.rows if row.is_violated}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", ["X", ""], ids=["rows", "whole calls"])
def test_every_backend_of_a_right_operator_is_proved(rows: str, dtype: type, use: Any, tmp_path: Path) -> None:
    use(replace(KIT, rows=rows))
    result = run(tmp_path, make_chain(2.0, -0.5, 3.0, dtype=dtype))
    assert result.conclusion() == "parity holds", (result.table(), result.untested)
    assert result.num_nodes == 3
    inputs = {name: {r.inputs for r in result.rows if r.backend == name and r.is_ok} for name in ("python", "body")}
    for found in inputs.values():
        assert found == {"batch 1", "batch 7", "edge values", "each node alone", "each node alone, edge values"}
    assert {FINITE_DIFFERENCES, EXACT} <= {r.inputs for r in result.rows if r.backend == "torch eager" and r.is_ok}
    (lacking,) = [row for row in result.rows if row.backend.startswith("cpp")][:1]
    assert "cpp kernel" in str(lacking.reason) or lacking.comparison is not None


def wrong_alone(result: Verification) -> tuple[str, ...]:
    (row,) = (row for row in result.rows if row.inputs == "each node alone" and row.is_violated)
    assert row.where is not None
    return row.where.nodes


def in_one_element(x: Array, offset: Array | None, scale: float) -> tuple[Array, Array]:
    y, counts = compute(x, offset, scale)
    if len(y) == 7:
        y[5, 2] = np.nextafter(y[5, 2], np.inf) * y.dtype.type(1.00001)
    return y, counts


def in_one_count(x: Array, offset: Array | None, scale: float) -> tuple[Array, Array]:
    y, counts = compute(x, offset, scale)
    if len(counts) == 7:
        counts[6] += 1
    return y, counts


def at_depth(x: Array, offset: Array | None, scale: float) -> tuple[Array, Array]:
    y, counts = compute(x, offset, scale)
    return (y * y.dtype.type(1.0001) if scale == -0.5 else y), counts


def without_offset(x: Array, offset: Array | None, scale: float) -> tuple[Array, Array]:
    y, counts = compute(x, offset, scale)
    return (y + y.dtype.type(1e-3) if offset is None else y), counts


def nan_for_infinity(x: Array, offset: Array | None, scale: float) -> tuple[Array, Array]:
    y, counts = compute(x, offset, scale)
    return np.where(np.isinf(y), np.nan, y).astype(y.dtype), counts


def ignoring_the_attribute(x: Array, offset: Array | None, scale: float) -> tuple[Array, Array]:
    return compute(x, offset, 2.0)


WRONG = [in_one_element, in_one_count, at_depth, without_offset, nan_for_infinity, ignoring_the_attribute]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda function: function.__name__)
def test_a_wrong_kernel_is_caught(wrong: Compute, use: Any, tmp_path: Path) -> None:
    use(replace(KIT, python_kernel=lambda: python_kernel(wrong)))
    result = run(tmp_path, make_chain(2.0, -0.5, 3.0))
    found = violated(result, "python")
    assert found, result.table()
    assert result.conclusion() == "parity is VIOLATED"
    with pytest.raises(ParityError, match="python"):
        result.check()
    if wrong is at_depth:
        (row,) = (row for row in result.rows if row.backend == "python" and row.inputs == "batch 7")
        assert row.diverges_at == "first at node 'node1' (SCALE_AND_COUNT)"
        assert next(row.where for row in result.rows if row.inputs == "each node alone" and row.where).nodes == (
            "node1",
        )  # type: ignore[union-attr]
    if wrong is in_one_element:
        assert found == {"batch 7", "each node alone"}
    if wrong is in_one_count:
        (fault,) = {row.comparison.fault for row in result.rows if row.comparison and row.inputs == "batch 7"} - {None}
        assert isinstance(fault, WrongValues)
        assert fault.index == (6,)
        assert fault.allowed is None
    if wrong is nan_for_infinity:
        assert found == {"edge values", "each node alone, edge values"}
    if wrong is without_offset:
        assert next(row.where for row in result.rows if row.inputs == "each node alone" and row.where).nodes == (
            "node1",
        )  # type: ignore[union-attr]


def test_a_result_of_another_type_is_caught(use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(KIT)
    right = small_operator.torch_function
    kit = replace(small_operator.TORCH, function=lambda *a, **k: (right(*a, **k)[0], right(*a, **k)[1].int()))
    monkeypatch.setattr("exporter.torch_ops.kit._loaded", {KIT.torch: kit})
    result = run(tmp_path, make_chain(2.0))
    (row,) = (r for r in result.rows if r.backend == "torch eager" and r.inputs == "each node alone")
    assert row.comparison is not None
    assert row.comparison.fault == WrongType("int32", "int64")


def test_a_wrong_backward_is_caught(use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(KIT)
    monkeypatch.setattr(small_operator.Scale, "factor", 1.01)
    assert violated(run(tmp_path, make_chain(2.0)), "torch eager") == {FINITE_DIFFERENCES, EXACT}
    monkeypatch.setattr(small_operator.Scale, "factor", 1 + 1e-6)  # which finite differences do not see
    assert violated(run(tmp_path, make_chain(2.0)), "torch eager") == {EXACT}


def test_an_operator_that_only_its_definition_runs_is_untested(
    use: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(KIT.operator, make_body=None)
    use(OperatorKit(bare, KIT.reference, KIT.bound, KIT.samples, rows="X"))
    result = run(tmp_path, make_chain(2.0, -0.5))
    assert set(result.reasons_untested) == {"node0", "node1"}
    assert all(isinstance(reason, NoBackend) for reason in result.reasons_untested.values())
    assert not result.is_ok
    path, report = str(tmp_path / "model.onnx"), tmp_path / "report.html"
    assert cli.main(["verify", path, "--compile", "none", "--batch-size", "1"]) == 1
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "parity is NOT PROVED: 2 of 2 nodes went untested (all of them)"
    assert "untested: node 'node0', node 'node1': no backend here runs it but its own definition" in told
    assert cli.main(["verify", path, "--compile", "none", "--batch-size", "1", "--allow-untested"]) == 0
    assert "parity is NOT PROVED" in capsys.readouterr().out
    allowed = verify(path, compile_backend=None, batch_sizes=[1], allow_untested=True)
    allowed.check()
    assert allowed.as_dict()["allow_untested"] is True
    assert len(allowed.as_dict()["untested"]) == 2
    suite = ElementTree.fromstring(to_junit(allowed))
    assert not list(suite.iter("failure"))
    assert sum("untested" in (case.get("message") or "") for case in suite.iter("skipped")) == 2
    write_html(allowed, report)
    assert "NOT PROVED" in report.read_text()


def test_an_output_without_a_bound_is_unbounded_and_never_ok(use: Any, tmp_path: Path) -> None:
    def boundless(call: Any, arithmetic: Any) -> list[Bound | None]:
        of_y, of_counts = KIT.bound(call, arithmetic)
        assert of_y is not None
        return [Bound(np.full_like(of_y.error, np.inf)), of_counts]

    use(replace(KIT, bound=boundless))
    result = run(tmp_path, make_chain(2.0))
    alone = [row for row in result.rows if row.inputs == "each node alone" and row.backend == "python"]
    assert {row.comparison.verdict for row in alone if row.comparison} == {Verdict.UNBOUNDED}
    assert result.reasons_untested == {"node0": NothingProved(("y",))}
    assert result.conclusion().startswith("parity is NOT PROVED")


def test_a_graph_of_them_is_bounded_as_a_whole(use: Any, tmp_path: Path) -> None:
    """The bound of an operator without error sizes of its own comes from its bound, and is sharp enough."""
    use(KIT)
    result = run(tmp_path, make_chain(*[1.5, -0.75] * 6))
    whole = [row for row in result.rows if row.inputs == "batch 7" and row.comparison is not None]
    assert all(row.is_ok for row in whole)
    assert max(row.comparison.max_in_bounds for row in whole if row.comparison) > 0.02
