"""The page on kernels in C++ is true: its kernel compiles by its command, and runs as the page on operators says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import ort_ops
from ort_ops.native import library
from ort_ops.numerics.bound import gamma

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cpp_kernels.md").read_text()
SOURCES = {text.split()[1].rstrip(":"): text for text in re.findall(r"```cpp\n(.*?)```", PAGE, re.S)}
PROJECTS = re.findall(r"```cmake\n(.*?)```", PAGE, re.S)
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("axpy")
    source = SOURCES["axpy.cc"]
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


def test_the_cuda_kernel_of_the_page_runs_on_the_cpu(built: Path) -> None:
    (built.parent / "axpy.cu").write_text(SOURCES["axpy.cu"])
    (command,) = re.findall(r"^c\+\+ -x .*$", PAGE, re.M)
    command = command.replace('"$include"', library.include_dir()).replace("c++ -x", "g++ -Wall -Wextra -Werror -x")
    done = subprocess.run(command.split(), cwd=built.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library_path = built.parent / "axpy_cuda_on_cpu.so"
    x, z = np.random.default_rng(0).standard_normal((2, 100, 2)).astype(np.float32)
    (y,) = session(library_path, "float32", a=0.1).run(None, {"X": x, "Z": z})
    np.testing.assert_array_equal(y, np.float32(0.1) * x + z)
    assert library.describe(library_path, "mylinear_cuda_missing") == "the library is a test on the CPU, without CUDA"
    (described,) = library.describe(library_path, "mylinear_operators")
    assert described["provider"] == "CPUExecutionProvider"


def test_the_library_describes_its_operator(built: Path) -> None:
    (described,) = library.describe(built, "mylinear_operators")
    assert (described["domain"], described["name"]) == ("my.ops", "AXPY")
    assert described["attributes"] == [{"name": "a", "kind": 1, "required": False, "default": 1}]
    page = (ROOT / "docs" / "operators.md").read_text()
    assert 'domain="my.ops",\n    name="AXPY"' in page
    assert '("float64", "float32")' in page


def build_with_cmake(folder: Path, lists: str) -> None:
    """Build a project as a user would, against what ``python -m ort_ops --cmake-dir`` names."""
    for name, source in SOURCES.items():
        (folder / name).write_text(source)
    (folder / "CMakeLists.txt").write_text(lists)
    told = subprocess.run([sys.executable, "-m", "ort_ops", "--cmake-dir"], capture_output=True, text=True, check=True)
    configure = ["cmake", "-S", ".", "-B", "build", f"-Dmylinear_DIR={told.stdout.strip()}"]
    for command in ([*configure, "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"], ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_cmake
def test_a_cmake_project_finds_the_headers_and_what_to_compile_with(tmp_path: Path) -> None:
    build_with_cmake(tmp_path, PROJECTS[0])
    x, z = np.random.default_rng(0).standard_normal((2, 3, 2))
    (y,) = session(tmp_path / "build" / "libaxpy.so", "float64", a=0.1).run(None, {"X": x, "Z": z})
    np.testing.assert_array_equal(y, np.float64(np.float32(0.1)) * x + z)
    (flags,) = (tmp_path / "build" / "CMakeFiles" / "axpy.dir").glob("flags.make")
    assert "-ffp-contract=off" in flags.read_text()


@needs_cmake
def test_a_component_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the components of mylinear must be among kernels, got gemm"):
        build_with_cmake(tmp_path, PROJECTS[0].replace("REQUIRED)", "REQUIRED COMPONENTS gemm)"))


@needs_cmake
@pytest.mark.slow  # compiles every instruction set, 1 to 2 minutes: pytest -m slow tests/native/test_cpp_kernel_page.py
def test_a_cmake_project_uses_the_products_of_matrices(tmp_path: Path) -> None:
    head = PROJECTS[0].splitlines()[:2]
    build_with_cmake(tmp_path, "\n".join([*head, PROJECTS[1]]))
    library_path = tmp_path / "build" / "libsimilarity.so"
    values = [helper.make_tensor_value_info(name, 1, [f"{name}_rows", f"{name}_columns"]) for name in "XZ"]
    node = helper.make_node("SIMILARITY", ["X", "Z"], ["Y"], domain="my.products")
    graph = helper.make_graph([node], "product", values, [helper.make_tensor_value_info("Y", 1, None)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.products", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library_path))
    running = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x, z = (np.random.default_rng(0).standard_normal((rows, 33)).astype(np.float32) for rows in (37, 29))
    (y,) = running.run(None, {"X": x, "Z": z})
    wide = x.astype(np.float64), z.astype(np.float64)
    assert (np.abs(y - wide[0] @ wide[1].T) <= gamma(33, 2.0**-24) * (np.abs(wide[0]) @ np.abs(wide[1]).T)).all()
    with pytest.raises(Exception, match=re.escape("SIMILARITY: z must be [n, k], like x [m, k], got [2, 2]")):
        running.run(None, {"X": x, "Z": np.ones((2, 2), np.float32)})


def test_the_folder_of_headers_is_told_in_python_and_by_the_command() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "ort_ops", "--include-dir"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == ort_ops.include_dir() == library.include_path()
    assert (Path(ort_ops.cmake_dir()) / "mylinear-config.cmake").is_file()


def test_headers_that_are_missing_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "_directories", lambda: [tmp_path / "ort_ops"])
    with pytest.raises(library.NativeLibraryError, match="has no C\\+\\+ headers"):
        library.include_path()
