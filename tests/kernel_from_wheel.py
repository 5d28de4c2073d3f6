"""Build kernels in C++ against an installed wheel, outside the source, and run them: by CMake, and by a new package.

    python tests/kernel_from_wheel.py build/runtimes/1.23.2/bin/python   # a Python that has the wheel; without torch

Needs a C++ compiler and cmake. pip takes jinja2 and setuptools from the package registry. Ends with status 1 where a
step fails, or the wheel is not what serves.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "cpp_kernels.md").read_text()

RUN_BY_CMAKE = """
import numpy as np, onnxruntime, sys
from onnx import helper
values = [helper.make_tensor_value_info(name, 1, ["n", 2]) for name in "XZY"]
node = helper.make_node("AXPY", ["X", "Z"], ["Y"], domain="my.ops", a=0.5)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
graph = helper.make_graph([node], "axpy", values[:2], values[2:])
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(sys.argv[1])
model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), options)
x = np.array([[1, -2]], np.float32)
np.testing.assert_array_equal(session.run(None, {"X": x, "Z": 4 * x})[0], 4.5 * x)
"""
RUN_BY_PIP = """
import ml_dtypes, numpy as np, ort_ops
from ort_ops.models.make import make_model
from wheel_scale.operator import OPERATOR
for dtype in ("float64", "float32", "float16"):
    model = make_model(OPERATOR, [["n"]], {"scale": 0.5}, types={"T": dtype}, with_function=False)
    session = ort_ops.InferenceSession(model.SerializeToString(), kernels="cpp")
    np.testing.assert_array_equal(session.run(None, {"x": np.array([3, -2], dtype)})[0], np.array([1.5, -1], dtype))
"""
ON_CPU = """
from ort_ops.native import library
print(library.describe("./on_cpu.so", "mylinear_cuda_missing"))
"""


def main() -> int:
    """Try the Python named on the command line."""
    python = Path(sys.argv[1]).absolute()  # not resolved: a virtual environment's is a link
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYLINEAR_LIBRARY")}
    variables["WITHOUT_CUDA"] = "1"  # cpp_ops/cuda/check.sh builds a package by nvcc

    def run(folder: Path, *command: str | Path) -> str:
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = " ".join(map(str, command))[:200]
            raise SystemExit(f"{said}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        where = run(folder, python, "-c", "import ort_ops; print(ort_ops.include_dir()); print(ort_ops.cmake_dir())")
        include, cmake = where.splitlines()
        if "site-packages" not in include or ROOT / "ort_ops" in Path(include).parents:
            raise SystemExit(f"{python} must have the wheel of this package, got headers in {include}")

        (source,) = re.findall(r"```cpp\n(// axpy.cc\n.*?)```", PAGE, re.S)
        (folder / "axpy.cc").write_text(source)
        (folder / "CMakeLists.txt").write_text(re.findall(r"```cmake\n(.*?)```", PAGE, re.S)[0])
        run(folder, "cmake", "-S", ".", "-B", "build", "-DCMAKE_BUILD_TYPE=Release", f"-Dmylinear_DIR={cmake}")
        run(folder, "cmake", "--build", "build")
        run(folder, python, "-c", RUN_BY_CMAKE, folder / "build" / "libaxpy.so")
        print("find_package(mylinear) of the wheel: built, loaded, right")

        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        remove = [python, "-m", "pip", "uninstall", "-q", "-y", "wheel-scale"]
        run(folder, *remove)  # what a run that failed has left
        run(folder, *pip, "jinja2")
        run(folder, python.parent / "mylinear", "new", "WheelScale", "--cuda")
        run(folder, *pip, "--no-deps", folder / "wheel-scale")
        run(folder, python, "-c", RUN_BY_PIP)
        flags = "-x c++ -std=c++17 -Wall -Wextra -Werror -shared -fPIC -Ithird_party/mylinear wheel_scale/kernel.cu"
        run(folder / "wheel-scale", "c++", *flags.split(), "-o", "on_cpu.so")
        run(folder / "wheel-scale", python, "-c", ON_CPU)
        run(folder, *remove)
        print("a new package of the wheel: built by pip, loaded, right; its CUDA kernel built for the CPU, loaded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
