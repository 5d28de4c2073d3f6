"""Compare a host of another platform with Python here: the models of models/, by the kernel and by the body.

    python tests/platforms/compare.py FOLDER LIBRARY COMMAND...

``COMMAND`` runs ``host.cc`` in FOLDER, which has LIBRARY and the models. The bits must be the same. Then a weight is
changed in one of the models, and the comparison must see it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

import ort_ops

ROWS = 257


def expected(model: Path, x: NDArray[np.generic], *, with_kernel: bool) -> NDArray[np.generic]:
    """Return what onnxruntime in Python computes, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if with_kernel:
        options.register_custom_ops_library(ort_ops.library_path())
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    y: NDArray[np.generic] = session.run(None, {session.get_inputs()[0].name: x})[0]
    return y


def computed(folder: Path, command: list[str], model: str, library: str, x: NDArray[np.generic]) -> bytes:
    """Return the bytes that the host computes."""
    x.tofile(folder / "x.bin")
    sizes = [str(size) for size in x.shape]
    done = subprocess.run(
        [*command, model, library, "x.bin", "y.bin", *sizes], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{model} with {library}: status {done.returncode}: {done.stdout}{done.stderr}")
    return (folder / "y.bin").read_bytes()


def main() -> None:
    """Compare, break, print."""
    folder, library, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.environ.setdefault("WINEDEBUG", "-all")
    for name in ("linear.onnx", "digits_mlp.onnx"):
        model = folder / name
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        dtype = {"tensor(double)": np.float64, "tensor(float)": np.float32}[session.get_inputs()[0].type]
        x = np.random.default_rng(0).standard_normal((ROWS, session.get_inputs()[0].shape[1])).astype(dtype)
        for used, with_kernel in (("-", False), (library, True)):
            wanted = expected(model, x, with_kernel=with_kernel)
            if computed(folder, command, name, used, x) != wanted.tobytes():
                sys.exit(f"{name} with {used}: other bits than in Python")
            road = "kernel" if with_kernel else "body"
            print(f"{name}: {road} of {wanted.dtype}, the same bits in {wanted.size} numbers")
        changed = onnx.load(model)
        tensor = changed.graph.initializer[0]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += 1
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(changed, folder / "changed.onnx")
        if computed(folder, command, "changed.onnx", library, x) == expected(model, x, with_kernel=True).tobytes():
            sys.exit(f"{name}: a changed weight was not seen")


if __name__ == "__main__":
    main()
