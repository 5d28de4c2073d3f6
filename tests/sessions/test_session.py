"""Kernels and sessions: who serves what, registering twice, bad calls, and nothing that aborts the process.

Long because each test is one wrong call of the same two functions.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from ort_ops.errors import ModelError
from ort_ops.kernels import extensions as pyop
from ort_ops.kernels import fallbacks
from ort_ops.native import library as native
from tests.cases import numpy_dtype
from tests.linear_model import make_linear_model


def model_bytes(dtype: str = "float32", *, bias: bool = True, with_function: bool = True) -> bytes:
    weight = np.arange(6).reshape(2, 3).astype(numpy_dtype(dtype))
    model = make_linear_model(["batch", 3], weight, weight[:, 0] if bias else None, with_function=with_function)
    data: bytes = model.SerializeToString()
    return data


EXPECTED = np.array([[8.0, 29.0]])  # of x = [1, 2, 3]


def x_of(dtype: str) -> np.ndarray:
    return np.array([[1, 2, 3]]).astype(numpy_dtype(dtype))


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the C++ library had not been built."""
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")


@pytest.fixture
def no_warnings_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallbacks, "_warned", set())


def test_all_kernels_are_known() -> None:
    kernels = {kernel.name: kernel for kernel in ort_ops.available_kernels()}
    every = ("float64", "float32", "float16", "bfloat16", "int64")  # ADAMSTEP counts steps in int64
    assert list(kernels) == ["cuda", "cpp", "python", "body"]
    assert kernels["cpp"].element_types == every
    assert kernels["python"].is_available, kernels["python"].reason
    assert set(kernels["python"].element_types) >= {"float64", "float32"}
    assert kernels["body"].element_types == every


def test_the_kernels_expected_here_are_available() -> None:
    expected = set(os.environ.get("MYLINEAR_EXPECTED_KERNELS", "body").split())
    missing = {k.name: k.reason for k in ort_ops.available_kernels() if k.name in expected and not k.is_available}
    assert not missing
    assert expected <= {kernel.name for kernel in ort_ops.available_kernels()}


def test_a_missing_kernel_says_why_and_how_to_get_it(no_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyop, "_PACKAGE", "no_such_package")
    with pytest.raises(ort_ops.KernelError, match="pip install onnxruntime-extensions"):
        ort_ops.register(onnxruntime.SessionOptions(), "python")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_registered_kernel_runs_instead_of_the_body(
    dtype: str, python_road: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ort_ops.InferenceSession(model_bytes(dtype), kernels="python")
    assert served.kernel == "python"
    calls = []
    monkeypatch.setattr(np, "matmul", lambda *a, _matmul=np.matmul: calls.append(len(a)) or _matmul(*a))
    assert (served.run(None, {"x": x_of(dtype)})[0] == EXPECTED).all()
    assert len(calls) == 1


@pytest.mark.native
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_cpp_kernel_is_preferred_and_serves_every_dtype(dtype: str, bias: bool) -> None:
    served = ort_ops.InferenceSession(model_bytes(dtype, bias=bias, with_function=False))
    assert served.kernel == "cpp"
    expected = EXPECTED - (0 if bias else np.array([0, 3]))
    assert (served.run(None, {"x": x_of(dtype)})[0].astype(np.float64) == expected).all()


def test_a_missing_library_says_why_and_the_next_kernel_serves(no_library: None) -> None:
    kernel = ort_ops.available_kernels()[1]
    assert kernel.name == "cpp"
    assert kernel.reason is not None
    assert "/nowhere/libmylinear_ort.so; correct or unset the variable" in kernel.reason
    assert ort_ops.InferenceSession(model_bytes()).kernel == "python"
    with pytest.raises(ort_ops.KernelError, match="the cpp kernel is not available"):
        ort_ops.InferenceSession(model_bytes(), kernels="cpp")
    with pytest.raises(native.NativeLibraryError, match="names no file"):
        ort_ops.library_path()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_dtypes_run_by_the_body_and_say_so_once(dtype: str, no_library: None, no_warnings_yet: None) -> None:
    with pytest.warns(ort_ops.FunctionBodyWarning, match=f"no kernel at hand serves {dtype}"):
        served = ort_ops.InferenceSession(model_bytes(dtype))
    assert served.kernel == "body"
    ort_ops.InferenceSession(model_bytes(dtype))  # a second warning would be an error here
    result = served.run(None, {"x": x_of(dtype)})[0]
    assert result.dtype.name == dtype
    assert (result.astype(np.float64) == EXPECTED).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_model_without_its_function_body_runs_too(dtype: str, bias: bool) -> None:
    served = ort_ops.InferenceSession(model_bytes(dtype, bias=bias, with_function=False), kernels="body")
    expected = EXPECTED - (0 if bias else np.array([0, 3]))
    assert (served.run(None, {"x": x_of(dtype)})[0].astype(np.float64) == expected).all()


def test_a_node_without_bias_is_served_by_the_python_kernel(python_road: None) -> None:
    served = ort_ops.InferenceSession(model_bytes(bias=False, with_function=False), kernels="python")
    assert (served.run(None, {"x": x_of("float32")})[0] == EXPECTED - [0, 3]).all()


def test_a_computed_weight_without_bias_runs() -> None:
    model = onnx.load_model_from_string(model_bytes(bias=False, with_function=False))
    tensor = model.graph.initializer.pop()
    model.graph.input.append(onnx.helper.make_tensor_value_info("weight", 1, ["out", "in"]))
    served = ort_ops.InferenceSession(model.SerializeToString(), kernels="body")
    feed = {"x": x_of("float32"), "weight": onnx.numpy_helper.to_array(tensor)}
    assert (served.run(None, feed)[0] == EXPECTED - [0, 3]).all()


def test_an_explicit_kernel_that_lacks_the_dtype_is_an_error(no_library: None) -> None:
    with pytest.raises(
        ort_ops.KernelError, match="the python kernel serves float64 and float32, and the model has float16"
    ):
        ort_ops.InferenceSession(model_bytes("float16"), kernels="python")


def test_options_registered_for_another_dtype_are_an_error(no_library: None) -> None:
    options = onnxruntime.SessionOptions()
    ort_ops.register(options, "python")
    with pytest.raises(ort_ops.KernelError, match="the model has bfloat16"):
        ort_ops.InferenceSession(model_bytes("bfloat16"), options)


PAIRS = [("auto", "auto"), *itertools.permutations(["cpp", "python", "body"], 2), ("cpp", "cpp"), ("python", "python")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_registering_twice_is_one_clear_error(first: str, second: str) -> None:
    options = onnxruntime.SessionOptions()
    ort_ops.register(options, first, element_types=["float32"])
    with pytest.raises(ort_ops.KernelError, match="registered already, and onnxruntime takes a domain once"):
        ort_ops.register(options, second, element_types=["float32"])


def test_extensions_registered_beside_us_are_one_clear_error(no_library: None) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    ort_ops.register(options, "python")
    options.register_custom_ops_library(pyop.library_path())
    with pytest.raises(ort_ops.KernelError, match="was registered twice with these session options"):
        ort_ops.InferenceSession(model_bytes(), options)


def test_an_unknown_kernel_name_lists_the_known_ones() -> None:
    with pytest.raises(ort_ops.KernelError, match=r"kernels must be auto, .*python or body, got 'rust'"):
        ort_ops.register(onnxruntime.SessionOptions(), "rust")


def test_plain_onnxruntime_sessions_work_with_register() -> None:
    options = onnxruntime.SessionOptions()
    assert ort_ops.register(options, "python").name == "python"
    plain = onnxruntime.InferenceSession(model_bytes(), options, providers=["CPUExecutionProvider"])
    assert (plain.run(None, {"x": x_of("float32")})[0] == EXPECTED).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_plain_sessions_with_a_kernel_that_lacks_the_dtype_fail_to_load_and_do_not_abort(dtype: str) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")
        ort_ops.register(options, "python")
    with pytest.raises(Exception, match=f"{dtype}|INVALID_GRAPH"):
        onnxruntime.InferenceSession(model_bytes(dtype), options, providers=["CPUExecutionProvider"])


def test_plain_onnxruntime_sessions_work_without_us() -> None:
    for dtype in ("float64", "float32", "float16"):
        plain = onnxruntime.InferenceSession(model_bytes(dtype), providers=["CPUExecutionProvider"])
        assert (plain.run(None, {"x": x_of(dtype)})[0] == EXPECTED).all()


def free_features_model() -> bytes:
    model = onnx.load_model_from_string(model_bytes(with_function=False))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture(params=["cpp library", "onnxruntime-extensions"])
def python_road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways that a Python kernel can be run."""
    if request.param == "onnxruntime-extensions":
        monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")


def test_a_python_kernel_s_error_comes_out_of_run_and_the_session_lives_on(python_road: None) -> None:
    served = ort_ops.InferenceSession(free_features_model(), kernels="python")
    with pytest.raises(ort_ops.ContractError, match=r"weight must be \[out_features, 2\]"):
        served.run(None, {"x": np.zeros((1, 2), np.float32)})
    assert (served.run(None, {"x": x_of("float32")})[0] == EXPECTED).all()


def test_an_interrupt_in_a_python_kernel_comes_out_of_run(python_road: None, monkeypatch: pytest.MonkeyPatch) -> None:
    served = ort_ops.InferenceSession(model_bytes(), kernels="python")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "matmul", interrupt)
        with pytest.raises(KeyboardInterrupt):
            served.run(None, {"x": x_of("float32")})
    assert (served.run(None, {"x": x_of("float32")})[0] == EXPECTED).all()


def test_a_plain_session_s_pyop_gives_nan_and_a_log_entry_not_an_abort(no_library: None, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(free_features_model())
    code = """
import numpy as np, onnxruntime, ort_ops
options = onnxruntime.SessionOptions()
ort_ops.register(options, "python")
session = onnxruntime.InferenceSession("model.onnx", options)
print(np.isnan(session.run(None, {"x": np.zeros((1, 2), np.float32)})[0]).all())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
    assert "MYLINEAR: weight must be [out_features, 2]" in done.stderr


def test_bfloat16_needs_a_newer_onnxruntime_than_1_17(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")
    served = ort_ops.InferenceSession(model_bytes("bfloat16"), kernels="body")
    with pytest.raises(ort_ops.KernelError, match=r"takes no bfloat16 arrays from Python; update it to 1\.20 or newer"):
        served.run(None, {"x": np.zeros((1, 3), ml_dtypes.bfloat16)})


def test_a_zero_size_bfloat16_result() -> None:
    served = ort_ops.InferenceSession(model_bytes("bfloat16"), kernels="body")
    assert served.run(None, {"x": np.zeros((0, 3), ml_dtypes.bfloat16)})[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "is not an ONNX model"),
        (b"not a model at all", "is not an ONNX model"),
        (model_bytes()[:-40], "is not an ONNX model"),
    ],
    ids=["missing", "empty", "text", "truncated"],
)
def test_files_that_are_no_model(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        ort_ops.InferenceSession(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        ort_ops.InferenceSession(tmp_path)


@pytest.mark.parametrize("version", [3, 99])
def test_an_unknown_version_of_the_operator_is_refused(version: int) -> None:
    model = onnx.load_model_from_string(model_bytes())
    next(entry for entry in model.opset_import if entry.domain == "mylinear").version = version
    with pytest.raises(ort_ops.ContractError, match=f"must be 1 to 2, got {version}; update ort-mylinear"):
        ort_ops.InferenceSession(model.SerializeToString())


def test_an_attribute_is_refused() -> None:
    model = onnx.load_model_from_string(model_bytes())
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("alpha", 2.0))
    with pytest.raises(ort_ops.ContractError, match="the attributes must be none, got alpha"):
        ort_ops.InferenceSession(model.SerializeToString())


def test_a_node_with_too_few_inputs_is_refused() -> None:
    model = onnx.load_model_from_string(model_bytes())
    del model.graph.node[0].input[1:]
    with pytest.raises(ort_ops.ContractError, match=r"X, W and optionally B \(node 'linear'\)"):
        ort_ops.InferenceSession(model.SerializeToString())


def test_importing_and_serving_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model_bytes())
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Refuse())
import ort_ops
assert not {"onnx", "onnxruntime_extensions"} & set(sys.modules), "imported before they are needed"
import numpy as np
for kernels in ("auto", "cpp", "python", "body"):
    session = ort_ops.InferenceSession("model.onnx", kernels=kernels)
    print(session.run(None, {"x": np.array([[1, 2, 3]], np.float32)})[0].tolist())
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["[[8.0, 29.0]]"] * 4


def test_the_public_names_are_these() -> None:
    assert set(ort_ops.__all__) >= {"InferenceSession", "register", "available_kernels"}
    assert all(hasattr(ort_ops, name) for name in ort_ops.__all__)


def test_outputs_are_asked_for_once_not_at_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime makes new objects for each question; on a small model that took longer than the model."""
    onnx.save(make_linear_model(["batch", 3], np.ones((2, 3), np.float32), None), tmp_path / "m.onnx")
    opened = ort_ops.InferenceSession(tmp_path / "m.onnx")

    def asked(*arguments: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(ort_ops.InferenceSession, "get_outputs", asked)
    for names in (None, [], ["y"]):
        np.testing.assert_array_equal(opened.run(names, {"x": np.ones((1, 3), np.float32)})[0], [[3, 3]])
