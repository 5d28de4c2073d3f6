"""The proof itself: it passes right models, and finds what is wrong in wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporter import functional
from exporter.module import MyLinear
from exporter.onnx_export import export
from exporter.verification import Verification, verify
from ort_ops import python_kernel, session
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
    assert {row.inputs for row in result.rows} == {
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
    expected = (
        "ok"
        if dtype in python_kernel.ELEMENT_TYPE_NAMES
        else f"not run: serves float64 and float32, the model has {dtype}"
    )
    assert roads(result)["python"] == expected
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
    monkeypatch.setattr(python_kernel, "_PACKAGE", "no_such_package")
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


def test_operators_without_a_rule_are_named(tmp_path: Path) -> None:
    model = nn.Sequential(MyLinear(3, 4), nn.Softmax(-1))
    export(model, torch.rand(2, 3), tmp_path / "model.onnx", engine="torchscript")
    with pytest.raises(ModelError, match=r"no error bound for operator 'ai\.onnx::Softmax'"):
        verify(tmp_path / "model.onnx")


def test_the_kernels_named_here_are_those_that_sessions_have() -> None:
    assert [kernel.name for kernel in session.available_kernels()][-1] == "body"
