"""mylinear inspect: what it reads out of a model, what it says of this machine, and the gate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops.cli import main as cli
from ort_ops.inspection import model as inspection
from ort_ops.inspection.model import GateError, inspect_model, require_kernel
from ort_ops.native import library as native
from ort_ops.rewrite.rewrite import adopt
from tests.linear_model import make_linear_model
from tests.rewrite.test_rewrite_damage import DAMAGES, damaged
from tests.rewrite.test_rewrite_places import INNER

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(make_linear_model(["batch", "n", 3], WEIGHT, WEIGHT[:, 0]), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_shapes_types_sizes_and_versions_are_told(path: Path) -> None:
    found = inspect_model(path)
    assert found.inputs == {"x": "float32 [batch, n, 3]"}
    assert found.outputs == {"y": "float32 [batch, n, 4]"}
    assert found.opsets == {"ai.onnx": 20, "mylinear": 1}
    assert (found.ir_version, found.oldest_runtime, found.body) == (9, "1.17", "right")
    (linear,) = found.listed["linear"]
    assert (linear.x, linear.weight, linear.y) == ("[batch, n, 3]", "[4, 3]", "[batch, n, 4]")
    assert (linear.dtype, linear.nbytes, linear.weight_from) == ("float32", 64, "initializer 'weight'")
    assert found.faults == []
    assert found.running.error == ""
    assert found.running.assignment == {"CPUExecutionProvider": {"mylinear::MYLINEAR": 1}}
    assert (found.running.copies, found.running.casts) == (0, 0)


@pytest.mark.parametrize("name", INNER)
def test_nodes_of_inner_graphs_are_found(name: str, tmp_path: Path) -> None:
    make, count = INNER[name]
    onnx.save(make(), tmp_path / "in.onnx")
    adopt(tmp_path / "in.onnx", tmp_path / "out.onnx")
    found = inspect_model(tmp_path / "out.onnx")
    assert len(found.listed["linear"]) == count
    assert all(info.dtype == "float32" for info in found.listed["linear"])
    assert all(info.where != "main graph" for info in found.listed["linear"])
    assert found.running.error == ""


def test_a_model_too_new_for_any_runtime_is_told(path: Path) -> None:
    model = onnx.load(path)
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    found = inspect_model(path)
    assert found.oldest_runtime is None
    assert found.running.error
    with pytest.raises(GateError, match="does not load here"):
        require_kernel(found, "cpp")


@pytest.mark.parametrize("kind", ["newer version", "attribute", "body", "shape"])
def test_what_breaks_the_contract_is_a_fault_and_status_1(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = damaged(kind, tmp_path)
    assert cli.main(["inspect", str(bad)]) == 1
    assert DAMAGES[kind] in capsys.readouterr().out
    with pytest.raises(GateError):
        require_kernel(inspect_model(bad), "cpp")


@pytest.mark.parametrize("kind", ["no bytes", "truncated", "missing", "outside", "link", "duplicate name"])
def test_what_is_no_whole_model_is_an_error_and_status_2(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(damaged(kind, tmp_path))]) == 2
    assert DAMAGES[kind] in capsys.readouterr().err


def test_the_gate_passes_and_fails_with_its_exit_status(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usable = native.status().is_usable
    assert cli.main(["inspect", str(path), "--require-kernel", "cpp"]) == (0 if usable else 1)
    assert cli.main(["inspect", str(path), "--require-kernel", "cpp", "--json"]) == (0 if usable else 1)
    printed = capsys.readouterr().out
    gate = json.loads(printed[printed.index("{\n") :])["gate"]
    assert (gate == "passed") is usable
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/no/such/library.so")
    assert cli.main(["inspect", str(path), "--require-kernel", "cpp"]) == 1
    assert "would run by the python kernel here, not by cpp" in capsys.readouterr().out


def test_runtimes_that_cannot_tell_their_assignment_leave_it_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection.onnxruntime, "InferenceSession", object)
    found = inspect_model(path)
    assert found.running.assignment == {}
    assert found.running.kernel


def test_a_model_without_the_operator_fails_the_gate_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_linear_model(["batch", 3], WEIGHT, None)
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Identity", ["x"], ["y"]))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, tmp_path / "m.onnx")
    assert cli.main(["inspect", str(tmp_path / "m.onnx")]) == 0
    assert (
        "here       by onnxruntime's own kernels (no node of a registered operator), on CPU" in capsys.readouterr().out
    )
    assert cli.main(["inspect", str(tmp_path / "m.onnx"), "--require-kernel", "cpp"]) == 1


def test_element_types_are_named(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in ((7, "int64"), (9, "bool")):
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.elem_type = number
        weight = model.graph.initializer[0]
        weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros([4, 3], name), weight.name))
        onnx.save(model, tmp_path / "m.onnx")
        assert cli.main(["inspect", str(tmp_path / "m.onnx")]) == 1
        assert f"must be float64, float32, float16 or bfloat16, got {name}" in capsys.readouterr().out
