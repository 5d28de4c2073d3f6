"""The proof itself: it passes right models, and finds what is wrong in wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporter import functional
from exporter.error_statistics import histogram, max_ulp
from exporter.module import MyLinear
from exporter.onnx_export import export
from exporter.verification import FINITE_DIFFERENCES, NN_LINEAR, ParityError, Verification, verify
from exporter.verification_report import to_junit, write_html
from ort_ops import native, pyop, session
from ort_ops.contract import MYLINEAR
from ort_ops.model import ModelError, make_linear_model
from ort_ops.operator import ContractError
from tests.cases import numpy_dtype


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(MyLinear(3, 16), nn.Tanh(), MyLinear(16, 16, bias=False), nn.ReLU(), MyLinear(16, 2))
    export(model, torch.rand(2, 3), tmp_path / "model.onnx", engine="torchscript")
    return tmp_path / "model.onnx"


def roads(result: Verification) -> dict[str, str]:
    return {row.road: row.verdict for row in result.worst_rows()}


def test_every_road_of_a_deep_model_stays_within_its_bound(mlp: Path) -> None:
    result = verify(mlp)
    assert result.is_ok, result.table()
    assert {"torch eager", "reference", "python", "body"} <= set(roads(result))
    assert {row.inputs for row in result.rows} >= {
        "batch 1",
        "batch 2",
        "batch 7",
        "batch 64",
        "edge values",
        "each node alone",
    }
    assert set(roads(result).values()) == {"ok"}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_dtype(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 9)).astype(numpy_dtype(dtype))
    onnx.save(make_linear_model(["batch", 9], weight, weight[:, 0]), tmp_path / "model.onnx")
    result = verify(tmp_path / "model.onnx")
    assert result.is_ok, result.table()
    assert roads(result)["python"] == "ok"
    assert roads(result)["body"] == "ok"


def test_a_wrong_python_kernel_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = np.matmul

    def wrong_in_the_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result = matmul(a, b)
        return result * np.float32(1.00001) if a.dtype == np.float32 and a.shape[-1] == 16 else result

    monkeypatch.setattr(np, "matmul", wrong_in_the_kernel)
    verdicts = roads(verify(mlp))
    assert "values are off" in verdicts["python"]
    assert verdicts["body"] == "ok"


def test_a_wrong_torch_operator_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = functional._fast_apply
    monkeypatch.setattr(functional, "_fast_apply", lambda *a: apply(*a) + 1e-4)
    verdicts = roads(verify(mlp))
    assert "values are off" in verdicts["torch eager"]
    assert verdicts["python"] == "ok"


def test_a_wrong_function_body_is_found(mlp: Path) -> None:
    model = onnx.load(mlp)
    (function,) = model.functions
    function.node[-1].op_type = "Sub"
    onnx.save(model, mlp)
    verdicts = roads(verify(mlp))
    assert "values are off" in verdicts["body"]
    assert verdicts["python"] == "ok"


def test_a_kernel_that_swallows_nan_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda a, b: matmul(np.nan_to_num(a), b) if a.dtype == np.float32 else matmul(a, b)
    )
    assert "values are off" in roads(verify(mlp))["python"]


def test_a_kernel_that_is_missing_is_reported_with_its_reason(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")
    monkeypatch.setattr(pyop, "_PACKAGE", "no_such_package")
    result = verify(mlp)
    assert result.is_ok
    assert roads(result)["python"].startswith("not run: onnxruntime-extensions is not installed")


def test_progress_is_reported(mlp: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    verify(mlp, batch_sizes=[1], on_progress=lambda *state: seen.append(state))
    assert [done for done, _, _ in seen] == list(range(len(seen)))
    assert {total for _, total, _ in seen} == {len(seen)}


def test_bad_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="there is no such file"):
        verify(path)
    model = make_linear_model(["batch", 3], np.ones((2, 3), np.float32), None)
    unknown = onnx.ModelProto()
    unknown.CopyFrom(model)
    unknown.opset_import[1].version = 7
    onnx.save(unknown, path)
    with pytest.raises(ContractError, match="must be 1, got 7"):
        verify(path)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Identity", ""
    del model.graph.node[0].input[1:]
    onnx.save(model, path)
    with pytest.raises(ModelError, match="has no MYLINEAR node of domain 'mylinear'"):
        verify(path)


def test_a_graph_with_operators_without_a_rule_is_held_against_float64(tmp_path: Path) -> None:
    model = nn.Sequential(MyLinear(3, 4), nn.Softmax(-1), MyLinear(4, 4), nn.LayerNorm(4))
    export(model, torch.rand(2, 3), tmp_path / "model.onnx", engine="torchscript")
    result = verify(tmp_path / "model.onnx", batch_sizes=[1, 7])
    assert result.is_ok, result.table()
    assert "no error bound for operator 'ai.onnx::Softmax'" in result.bound
    body = [row.inputs for row in result.rows if row.road == "body"]
    assert body == ["batch 1", "batch 7", "each node alone"]
    spoiled = onnx.load(tmp_path / "model.onnx")
    spoiled.functions[0].node[-1].op_type = "Sub"
    onnx.save(spoiled, tmp_path / "model.onnx")
    wrong = verify(tmp_path / "model.onnx", batch_sizes=[2])
    assert "first at node '/0/MYLINEAR' (MYLINEAR)" in roads(wrong)["body"] or "at node" in roads(wrong)["body"]
    assert roads(wrong)["reference"] == "ok"


def test_every_instruction_set_is_a_road_of_its_own(mlp: Path) -> None:
    names = set(roads(verify(mlp, batch_sizes=[3])))
    usable = native.status().usable_isas
    assert {f"cpp[{isa}]" for isa in usable} <= names
    assert ("cpp" in names) is not bool(usable)


def test_other_dtypes_run_node_by_node_where_the_road_serves_them(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = verify(mlp, batch_sizes=[2], dtypes=["float64", "bfloat16"], compile_backend=None)
    assert result.is_ok, result.table()
    labels = {(row.road, row.inputs) for row in result.rows}
    assert ("body", "each node alone, in bfloat16") in labels
    assert ("python", "each node alone, in float64") in labels
    assert ("python", "each node alone, in bfloat16") in labels
    assert not any(road.startswith("torch.compile") for road, _ in labels)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/library.so")  # then Python kernels have two dtypes
    result = verify(mlp, batch_sizes=[2], dtypes=["float64", "bfloat16"], compile_backend=None)
    labels = {(row.road, row.inputs) for row in result.rows}
    assert ("python", "each node alone, in float64") in labels
    assert ("python", "each node alone, in bfloat16") not in labels


def test_the_first_node_that_diverges_is_named(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three layers is the only one that takes 16 features and no bias."""
    matmul = np.matmul

    def wrong_in_the_second(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result = matmul(a, b)
        return result * np.float32(1.0001) if a.dtype == np.float32 and b.shape == (16, 16) else result

    monkeypatch.setattr(np, "matmul", wrong_in_the_second)
    result = verify(mlp, batch_sizes=[7])
    (row,) = [row for row in result.rows if row.road == "python" and row.inputs == "batch 7"]
    assert row.diverges_at == "first at node '/2/MYLINEAR' (MYLINEAR)"
    assert row.diverges_at in row.verdict
    with pytest.raises(ParityError, match=r"python, batch 7: .* first at node '/2/MYLINEAR'"):
        result.check()


def test_a_wrong_backward_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {FINITE_DIFFERENCES, NN_LINEAR} <= {row.inputs for row in verify(mlp, batch_sizes=[2]).rows}
    right = functional._gradients

    def wrong(*arguments: Any) -> Any:
        grad_x, grad_weight, grad_bias = right(*arguments)
        return grad_x, None if grad_weight is None else grad_weight * (1 + 1e-5), grad_bias

    monkeypatch.setattr(functional._PlainLinearF, "backward", staticmethod(wrong))
    violated = {row.inputs for row in verify(mlp, batch_sizes=[2]).rows if row.comparison and row.verdict != "ok"}
    assert violated == {FINITE_DIFFERENCES, NN_LINEAR}


def test_the_result_as_json_junit_and_html(mlp: Path, tmp_path: Path) -> None:
    model = onnx.load(mlp)
    model.functions[0].node[-1].op_type = "Sub"
    onnx.save(model, mlp)
    result = verify(mlp, batch_sizes=[2])
    data = json.loads(result.to_json())
    assert data["is_ok"] is False
    assert {"road", "inputs", "comparison", "ulp", "histogram", "verdict"} <= set(data["rows"][0])
    suite = ElementTree.fromstring(to_junit(result))
    assert int(suite.attrib["tests"]) == len(result.rows)
    failures = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failures
    assert all(case.attrib["classname"].endswith("body") for case in failures)
    write_html(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 2, "histograms and the graph"
    assert "http" not in page.replace("http://www.w3.org/2000/svg", ""), "it opens offline"
    assert "/2/MYLINEAR" in page
    assert "values are off" in page


def test_ulp_and_histogram() -> None:
    float32 = MYLINEAR.element_type("float32")
    one = np.array([1.0, 3.0])
    assert max_ulp((one + np.array([2**-23, 0])).astype(np.float32), one, float32) == 1
    assert max_ulp((one + np.array([0, 2**-22])).astype(np.float32), one, float32) == 1
    assert max_ulp(np.array([np.nan, np.inf], np.float32), one, float32) == 0
    counts = histogram(np.array([1.0, 3.5, 5.0]), np.array([1.0, 3.0, 3.0]), np.ones(3))
    assert sum(counts) == 3
    assert (counts[0], counts[7], counts[-1]) == (1, 1, 1)


def test_the_kernels_named_here_are_those_that_sessions_have() -> None:
    assert [kernel.name for kernel in session.available_kernels()][-1] == "body"
