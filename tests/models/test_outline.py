"""Looking at a model reads none of its weights, sees all the rest, and takes time linear in its nodes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from packaging.version import Version

import ort_ops
from ort_ops.errors import ModelError
from ort_ops.inspection.model import inspect_model
from ort_ops.models import outline
from ort_ops.models.complete import complete_inputs
from ort_ops.models.files import load_model, look_at_model
from ort_ops.models.nodes import attach_functions
from ort_ops.operators.mylinear.contract import DOMAIN, NAME
from tests.rewrite.test_rewrite_places import INNER


@pytest.fixture(autouse=True)
def small_models_are_outlined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline, "SMALL_NBYTES", 0)


def chain(length: int, width: int) -> onnx.ModelProto:
    """Make a model of ``length`` MYLINEAR nodes, one after the other, with a branch that holds a weight too."""
    rng = np.random.default_rng(0)
    nodes, stored = [], []
    for i in range(length):
        stored.append(numpy_helper.from_array(rng.standard_normal((width, width), np.float32), f"w{i}"))
        stored.append(numpy_helper.from_array(np.zeros(width, np.float32), f"b{i}"))
        nodes.append(helper.make_node(NAME, [f"h{i}", f"w{i}", f"b{i}"], [f"h{i + 1}"], domain=DOMAIN))
    values = [helper.make_tensor_value_info(name, 1, ["batch", width]) for name in ("h0", f"h{length}")]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)])
    model.ir_version = 9
    attach_functions(model)
    return model


def inflated(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Bring back the data that an outline left in the model's own file."""
    data = path.read_bytes()
    pending = list(onnx.external_data_helper._get_all_tensors(model))
    for tensor in pending:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") == path.name:
            start = int(entries["offset"])
            tensor.raw_data = data[start : start + int(entries["length"])]
            del tensor.external_data[:]
            tensor.ClearField("data_location")
    return model


@pytest.mark.parametrize("name", ["chain", *INNER])
def test_an_outline_and_its_data_are_the_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = chain(3, 40) if name == "chain" else INNER[name][0]()
    onnx.save(model, path)
    found = look_at_model(path)
    assert name != "chain" or found.ByteSize() < model.ByteSize() // 4
    assert inflated(found, path) == model


def test_constants_and_typed_data_are_outlined_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(4000, np.float32)))
    typed = helper.make_tensor("t", onnx.TensorProto.DOUBLE, [2000], np.arange(2000.0))
    add = [helper.make_node("Cast", ["t"], ["f"], to=1), helper.make_node("Concat", ["c", "f"], ["y"], axis=0)]
    graph = helper.make_graph([constant, *add], "g", [], [helper.make_tensor_value_info("y", 1, [6000])], [typed])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "m.onnx")
    found = look_at_model(tmp_path / "m.onnx")
    assert found.ByteSize() < 1000
    (stored,) = found.graph.initializer
    assert [entry.value for entry in stored.external_data][2] == "16000"


def test_little_is_read_of_a_large_file(tmp_path: Path) -> None:
    data = chain(4, 600).SerializeToString()
    num_read = 0

    def read(at: int, nbytes: int) -> bytes:
        nonlocal num_read
        num_read += len(data[at : at + nbytes])
        return data[at : at + nbytes]

    outline.read_outline(read, len(data), "m.onnx")
    assert num_read < len(data) // 10


def test_external_data_is_not_read_when_a_session_opens(tmp_path: Path) -> None:
    model = chain(2, 600)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    found = look_at_model(tmp_path / "m.onnx")
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in found.graph.initializer)
    assert not any(tensor.raw_data for tensor in found.graph.initializer)
    assert ort_ops.InferenceSession(tmp_path / "m.onnx").get_outputs()[0].name == "h2"


def test_a_model_is_completed_without_reading_its_external_data(tmp_path: Path) -> None:
    model = chain(2, 600)
    del model.functions[:]
    del model.graph.node[1].input[2]
    inside = model.SerializeToString()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    options = ort_ops.SessionOptions()
    session = ort_ops.InferenceSession(tmp_path / "m.onnx", options, kernels="body")
    x = np.ones((2, 600), np.float32)
    expected = ort_ops.InferenceSession(inside, kernels="body").run(None, {"h0": x})[0]
    np.testing.assert_array_equal(session.run(None, {"h0": x})[0], expected)
    if Version(onnxruntime.__version__) >= Version("1.21"):
        key = "session.model_external_initializers_file_folder_path"
        assert options.get_session_config_entry(key) == str(tmp_path)
        own = ort_ops.SessionOptions()  # a caller may say the same of a model in memory
        own.add_session_config_entry(key, str(tmp_path))
        complete = chain(2, 600)
        onnx.save(complete, tmp_path / "n.onnx", save_as_external_data=True, location="w.bin")
        ort_ops.InferenceSession((tmp_path / "n.onnx").read_bytes(), own).run(None, {"h0": x})


@pytest.mark.parametrize("cut", [1, 7, 60, 200, 1500, 4000])
def test_a_truncated_file_is_an_error_at_any_place(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    data = chain(2, 40).SerializeToString()
    path.write_bytes(data[:-cut])
    for load in (load_model, look_at_model):
        with pytest.raises(ModelError, match=r"is not an ONNX model|is damaged"):
            load(path)


def num_calls(function: Callable[..., Any], *arguments: Any) -> int:
    """Return how many Python functions and builtins a call calls."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(trace)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("look", [ort_ops.InferenceSession, inspect_model], ids=["session", "inspect"])
def test_the_work_grows_as_the_number_of_nodes(
    look: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_inferences = 0
    infer_shapes = onnx.shape_inference.infer_shapes

    def counted(*arguments: Any, **options: Any) -> onnx.ModelProto:
        nonlocal num_inferences
        num_inferences += 1
        return infer_shapes(*arguments, **options)

    counts = []
    for length in (0, 40, 80):
        onnx.save(chain(length + 1, 2), tmp_path / f"{length}.onnx")
        look(tmp_path / f"{length}.onnx")  # what is made once
        monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted)
        num_inferences = 0
        counts.append(num_calls(look, tmp_path / f"{length}.onnx"))
        assert num_inferences <= (1 if look is inspect_model else 0)
    assert counts[2] - counts[0] < 2.1 * (counts[1] - counts[0])


@pytest.mark.parametrize("is_computed", [False, True], ids=["stored", "computed"])
def test_the_work_of_completing_biases_grows_as_the_number_of_nodes(is_computed: bool) -> None:
    counts = []
    for length in (100, 200):
        model = chain(length, 2)
        for i, node in enumerate(model.graph.node):
            del node.input[2]
            if is_computed:
                model.graph.initializer[2 * i].name = f"stored{i}"
        if is_computed:
            for i in range(length):
                model.graph.node.insert(0, helper.make_node("Identity", [f"stored{i}"], [f"w{i}"]))
        counts.append(num_calls(complete_inputs, model))
        assert ort_ops.InferenceSession(model.SerializeToString(), kernels="body").get_outputs()
    assert counts[1] < 2.1 * counts[0]
