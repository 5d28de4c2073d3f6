"""The page on kernels in C++ is true: its kernel compiles by its command, and runs as the page on operators says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from ort_ops.native import library

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cpp_kernels.md").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("axpy")
    (source,) = re.findall(r"```cpp\n(.*?)```", PAGE, re.S)
    (folder / "axpy.cc").write_text(source)
    (command,) = re.findall(r"^g\+\+ .*$", PAGE, re.M)
    command = command.replace('"$include"', library.include_path()).replace("-shared", "-Wall -Wextra -Werror -shared")
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "libaxpy.so"


def session(built: Path, dtype: str, **attributes: float) -> onnxruntime.InferenceSession:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = [helper.make_tensor_value_info(name, kind, ["n", 2]) for name in "XZ"]
    node = helper.make_node("AXPY", ["X", "Z"], ["Y"], domain="my.ops", **attributes)
    graph = helper.make_graph([node], "axpy", values, [helper.make_tensor_value_info("Y", kind, None)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(built))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("attributes", [{}, {"a": 0.1}], ids=str)
def test_the_kernel_of_the_page_runs(built: Path, dtype: str, attributes: dict[str, float]) -> None:
    x, z = np.random.default_rng(0).standard_normal((2, 3, 2)).astype(dtype)
    running = session(built, dtype, **attributes)
    (y,) = running.run(None, {"X": x, "Z": z})
    np.testing.assert_array_equal(y, np.float32(attributes.get("a", 1)).astype(dtype) * x + z)
    assert y.dtype == dtype
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 24):
        assert running.get_outputs()[0].shape == ["n", 2]


def test_the_kernel_of_the_page_refuses_wrong_shapes(built: Path) -> None:
    with pytest.raises(Exception, match=re.escape("AXPY: z must be [3, 2], got [1, 2]")):
        session(built, "float32").run(None, {"X": np.ones((3, 2), np.float32), "Z": np.ones((1, 2), np.float32)})


def test_the_library_describes_its_operator(built: Path) -> None:
    (described,) = library.describe(built, "mylinear_operators")
    assert (described["domain"], described["name"]) == ("my.ops", "AXPY")
    assert described["attributes"] == [{"name": "a", "kind": 1, "required": False, "default": 1}]
    page = (ROOT / "docs" / "operators.md").read_text()
    assert 'domain="my.ops",\n    name="AXPY"' in page
    assert '("float64", "float32")' in page


def test_headers_that_are_missing_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "_directories", lambda: [tmp_path / "ort_ops"])
    with pytest.raises(library.NativeLibraryError, match="has no C\\+\\+ headers"):
        library.include_path()
