"""Assemble the page: ``python docs/examples/web/build.py``, then any static server on the folder that it prints.

It takes onnxruntime-web from npm, without running install scripts, and makes the models: the digits in three dtypes,
and the training file of the linear example. The folder needs nothing but itself.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODULES = ROOT / "ort_ops" / "bundle" / "hosts" / "web"
FOLDER = ROOT / "build" / "web"
ONNXRUNTIME = "onnxruntime-web@1.30.0"
PARTS = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
DTYPES = {"float64": np.float64, "float16": np.float16}


def main(folder: Path = FOLDER) -> None:
    """Write the whole page into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in HERE.iterdir():
        if path.suffix in (".html", ".css", ".js"):
            shutil.copy(path, folder)
    for name in ("arrays.js", "runtime.js", "training_file.js"):
        shutil.copy(MODULES / name, folder)
    for name in PARTS:
        shutil.copy(npm_package(ONNXRUNTIME) / "dist" / name, folder)
    digits = ROOT / "models" / "digits_mlp.onnx"
    shutil.copy(digits, folder)
    for dtype in DTYPES:
        onnx.save(in_dtype(onnx.load(digits), dtype), folder / f"digits_mlp.{dtype}.onnx")
    write_linear_step(folder / "linear_step.onnx")


def npm_package(package: str) -> Path:
    """Install a package of npm in the folder build/npm, and return its folder."""
    name, version = package.rsplit("@", 1)
    installed = ROOT / "build" / "npm" / "node_modules" / name
    manifest = installed / "package.json"
    if not (manifest.exists() and f'"version": "{version}"' in manifest.read_text()):
        if shutil.which("npm") is None:
            sys.exit(f"npm is missing; install Node.js with npm to fetch {package}")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", ROOT / "build" / "npm"]
        if subprocess.run([*command, package], stdout=sys.stderr, check=False).returncode:
            sys.exit(f"npm could not install {package}; its message is above")
    return installed


def in_dtype(model: onnx.ModelProto, dtype: str) -> onnx.ModelProto:
    """Return a float32 model in another dtype: each weight rounded once, the operators' definitions for that dtype."""
    from ort_ops.models.nodes import attach_functions

    wanted = helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype]))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(DTYPES[dtype]), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.elem_type = wanted
    del model.functions[:]
    attach_functions(model)
    return model


def write_linear_step(path: Path) -> None:
    """Write the training file of the linear example: one step of SGD for two weights and a bias, float64."""
    import torch  # noqa: TID251

    import exporter

    torch.manual_seed(0)
    model = exporter.MyLinear(2, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.rand(64, 2, dtype=torch.float64)
    target = x @ torch.tensor([[2.0], [3.0]], dtype=torch.float64) + 4
    exporter.export_training(model, torch.nn.MSELoss(), optimizer, (x, target), path)


if __name__ == "__main__":
    main()
    print(f"assembled {FOLDER}; serve it: python3 -m http.server --bind 127.0.0.1 --directory {FOLDER} 8000")
