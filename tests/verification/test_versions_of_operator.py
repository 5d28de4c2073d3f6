"""`verify` of nodes with an attribute of few values and two element types: it says which they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import exporter
from ort_ops.models.make import make_model
from ort_ops.native import library
from ort_ops.opdef import registry
from ort_ops.operators.mylinear.version_2 import kit as module
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((5, 4)).astype(ml_dtypes.bfloat16)
    arrays: list[Any] = [["n", 4], weight, None]
    onnx.save(make_model(MYLINEAR_2, arrays, {"activation": "silu"}, types={"T": "float32"}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_row_of_nodes_names_the_weights_type(path: Path) -> None:
    found = exporter.verify(path, compile_backend=None)
    assert found.is_ok
    rows = [row for row in found.rows if row.part.name == "NODES" and row.backend == "body"]
    assert {row.dtype for row in rows} == {"float32, weight bfloat16"}


def test_a_wrong_node_is_named_with_its_activation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.KIT

    def gelu_instead(call: Any) -> Any:
        return right.reference(replace(call, attributes={"activation": "gelu"}))

    wrong = replace(right, reference=gelu_instead)
    registry.remove(right)
    registry.add(wrong)
    try:
        found = exporter.verify(path, compile_backend=None)
    finally:
        registry.remove(wrong)
        registry.add(right)
    assert not found.is_ok
    assert any("(activation silu)" in str(row.where) for row in found.rows if row.part.name == "NODES")


@pytest.mark.native
def test_an_older_library_is_a_row_that_did_not_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = replace(library.status(), versions={MYLINEAR_2.name: 1})
    monkeypatch.setattr(library, "status", lambda **_: old)
    found = exporter.verify(path, compile_backend=None)
    (row,) = [row for row in found.rows if row.backend == "cpp"]
    assert row.comparison is None
    assert f"{old.path} has no MYLINEAR of version 2: it was built from older sources" in row.verdict
    assert any(row.backend == "body" and row.is_ok for row in found.rows)


def test_without_the_library_kernels_that_need_it_are_rows_that_did_not_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.LIBRARY_VARIABLE, "/nowhere.so")
    found = exporter.verify(path, compile_backend=None)
    verdicts = {row.backend: row.verdict for row in found.rows if row.comparison is None}
    assert "names no file: /nowhere.so" in verdicts["cpp"]
    assert verdicts["python"].startswith("not run: onnxruntime-extensions ")
    assert any(row.backend == "body" and row.is_ok for row in found.rows)
