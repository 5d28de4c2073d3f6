"""Sessions travel to other processes: opened anew there, or one clear sentence; and models in onnxruntime's format."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from ort_ops.errors import ModelError
from ort_ops.native import library as native
from ort_ops.session_options import PicklingError
from tests.linear_model import make_linear_model

X = np.ones((2, 3), np.float32)
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
needs_native = pytest.mark.skipif(not native.status().is_usable, reason=f"no C++ library: {native.status().reason}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(make_linear_model(["batch", 3], WEIGHT, None), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def predict(session: ort_ops.InferenceSession) -> tuple[str, Any]:
    return session.kernel, session.run(None, {"x": X})[0]


def pickled(session: Any) -> Any:
    return pickle.loads(pickle.dumps(session))


def test_a_session_goes_to_a_spawned_process(path: Path) -> None:
    session = ort_ops.InferenceSession(path, kernels="body")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        kernel, result = pool.apply(predict, [session])
    assert kernel == "body"
    np.testing.assert_array_equal(result, X @ WEIGHT.T)


@pytest.mark.parametrize("kernels", ["auto", "python", "body"])
@pytest.mark.parametrize("form", ["path", "relative", "bytes"])
def test_a_session_is_opened_anew(form: str, kernels: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    model: Any = {"path": path, "relative": path.name, "bytes": path.read_bytes()}[form]
    session = ort_ops.InferenceSession(model, kernels=kernels)
    data = pickle.dumps(session)
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert again.kernel == session.kernel
    np.testing.assert_array_equal(predict(again)[1], X @ WEIGHT.T)
    assert pickled(again).kernel == session.kernel
    assert copy.deepcopy(session).kernel == session.kernel


@pytest.mark.parametrize("registered", [False, True], ids=["session registers", "registered before"])
def test_options_of_ours_travel_with_all_that_was_added(registered: bool, path: Path) -> None:
    options = ort_ops.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_free_dimension_override_by_name("batch", 2)
    if registered:
        ort_ops.register(options, "body")
    session = pickled(ort_ops.InferenceSession(path, options))
    found = session.get_session_options()
    assert found.intra_op_num_threads == 1
    assert found.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert found.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.get_inputs()[0].shape == [2, 3]
    assert not registered or session.kernel == "body"
    assert pickled(session).get_inputs()[0].shape == [2, 3]


def test_options_of_onnxruntime_cannot_be_read_back(path: Path) -> None:
    session = ort_ops.InferenceSession(path, onnxruntime.SessionOptions())
    with pytest.raises(PicklingError, match=r"cannot be read back; give it ort_ops\.SessionOptions"):
        pickle.dumps(session)


def test_what_lies_in_one_process_does_not_travel(path: Path) -> None:
    options = ort_ops.SessionOptions()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(WEIGHT)
    options.add_initializer("weight", value)
    session = ort_ops.InferenceSession(path, options)
    with pytest.raises(PicklingError, match="cannot be pickled after add_initializer"):
        pickle.dumps(session)


def test_a_model_that_is_gone_is_told_where_it_is_opened(path: Path) -> None:
    data = pickle.dumps(ort_ops.InferenceSession(path))
    path.unlink()
    with pytest.raises(ModelError, match="there is no such file"):
        pickle.loads(data)


@needs_native
@pytest.mark.parametrize("form", ["path", "bytes"])
def test_a_model_in_onnxruntimes_format_opens(form: str, path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(path.with_suffix(".ort"))
    ort_ops.InferenceSession(path, options)
    saved = path.with_suffix(".ort")
    session = ort_ops.InferenceSession(saved if form == "path" else saved.read_bytes())
    assert session.kernel == "cpp"
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], X @ WEIGHT.T)


def test_a_session_in_place_of_options_is_told(path: Path) -> None:
    session = ort_ops.InferenceSession(path)
    with pytest.raises(TypeError, match="before a session is made of them, got InferenceSession"):
        ort_ops.register(session)
    with pytest.raises(TypeError, match=r"must be onnxruntime\.SessionOptions, got str"):
        ort_ops.register("m.onnx")
    for call in (lambda: ort_ops.register(onnxruntime.SessionOptions(), ["cpp"]), lambda: open_with_list(path)):
        with pytest.raises(TypeError, match=r"kernels must be one name, such as 'auto' or 'cpp', got \['cpp'\]"):
            call()


def open_with_list(path: Path) -> None:
    ort_ops.InferenceSession(path, kernels=["cpp"])  # type: ignore[arg-type]
