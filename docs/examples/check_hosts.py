"""Run the examples of docs/examples and compare them with Python: ``python docs/examples/check_hosts.py``.

Arguments name some of: browser, node, cpp, service, mlflow, netron; by default all. Each needs its own tools, and a
missing one is a failure that says what to install; with --install, Chromium comes from Debian (as root), and Python
packages come into this Python. All else comes into build/.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import ort_ops
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.bundle.write import write_bundle
from ort_ops.numerics.compare import Verdict

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
HOSTS = HERE.parents[1] / "ort_ops" / "bundle" / "hosts"
MODELS = HERE.parents[1] / "models"
ROWS = 100

Array = NDArray[Any]


def check_browser() -> bool:
    """Use the page of web/ in Chromium."""
    install_chromium()
    return is_right(HERE / "web" / "check" / "check.py")


def check_node() -> bool:
    """Run models in Node.js: the numbers are those of Python's function body, bit for bit."""
    folder = BUILD / "node"
    shutil.copytree(HOSTS / "node", folder, dirs_exist_ok=True)
    call("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder)
    host = bundle("node")
    (host / "node_modules").symlink_to(folder / "node_modules")
    call("node", host / "check.js")
    all_right = True
    for model, given in samples(folder):
        call("node", folder / "run.js", model, folder / "output", folder / "input.npy")
        all_right &= same(f"Node.js, {model.name}", np.load(folder / "output0.npy"), model, given, "body")
    return all_right


def check_cpp() -> bool:
    """Build the host of cpp/, and run models by their body and by our kernel: Python's numbers, bit for bit."""
    onnxruntime, folder = BUILD / "onnxruntime", BUILD / "cpp"
    call(sys.executable, HERE / "cpp" / "fetch.py", onnxruntime)
    generator = ["-GNinja"] if shutil.which("ninja") else []
    settings = [f"-DCMAKE_PREFIX_PATH={onnxruntime}", "-DCMAKE_BUILD_TYPE=Release"]
    call("cmake", "-S", HOSTS / "cpp", "-B", folder, *generator, *settings)
    call("cmake", "--build", folder)
    host = bundle("cpp")
    (host / "build").symlink_to(folder)
    call(sys.executable, host / "check.py")
    all_right = True
    for model, given in samples(folder):
        for kernels, library in (("body", ""), ("cpp", ort_ops.library_path())):
            call(folder / "host", model, library, folder / "output", folder / "input.npy")
            got = np.fromfile(folder / "output0", given.dtype).reshape(len(given), -1)
            all_right &= same(f"C++ {kernels}, {model.name}", got, model, given, kernels)
    return all_right


def check_service() -> bool:
    """Ask the HTTP service, kill its workers, and stop it under load."""
    install("fastapi", "uvicorn", "prometheus-client")
    return is_right(HERE / "fastapi" / "check.py")


def check_mlflow() -> bool:
    """Load a model by MLflow, and ask the service of it as above, with fewer requests: each takes some milliseconds."""
    install("mlflow-skinny", "pandas", "fastapi", "uvicorn", "prometheus-client")
    return is_right(HERE / "mlflow" / "check_service.py", 1600) and is_right(HERE / "mlflow" / "check.py")


def check_netron() -> bool:
    """Open a model in Netron, in Chromium."""
    install_chromium()
    install("netron")
    return is_right(HERE / "netron" / "check.py")


def install(*packages: str) -> None:
    """With --install, install packages into this Python."""
    if "--install" in sys.argv:
        call(sys.executable, "-m", "pip", "install", "-q", "-c", HERE.parents[1] / "constraints.txt", *packages)


def install_chromium() -> None:
    """With --install, install Chromium where it is missing."""
    if "--install" in sys.argv and shutil.which("chromium") is None:
        call("apt-get", "-qq", "update")
        call("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", DEBIAN_FRONTEND="noninteractive")


def is_right(check: Path, *arguments: Any) -> bool:
    """Run an example's own check."""
    return subprocess.run([sys.executable, check, *map(str, arguments)], check=False).returncode == 0


def bundle(name: str) -> Path:
    """Make a bundle of the digits for a host, and return the host's folder in it."""
    folder = BUILD / "bundles" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    write_bundle(MODELS / "digits_mlp.onnx", folder, for_hosts=[name])
    return folder / "hosts" / name


def samples(folder: Path) -> Iterator[tuple[Path, Array]]:
    """Yield models of three dtypes, each with rows that lie in the file input.npy then."""
    in_dtype = runpy.run_path(str(HERE / "web" / "build.py"))["in_dtype"]
    half = folder / "digits_mlp.float16.onnx"
    onnx.save(in_dtype(onnx.load(MODELS / "digits_mlp.onnx"), "float16"), half)
    rng = np.random.default_rng(0)
    for model, dtype, columns in (
        (MODELS / "linear.onnx", "float64", 2),
        (MODELS / "digits_mlp.onnx", "float32", 64),
        (half, "float16", 64),
    ):
        given = rng.integers(0, 17, (ROWS, columns)).astype(dtype)
        np.save(folder / "input.npy", given)
        yield model, given


def same(what: str, got: Array, model: Path, given: Array, kernels: str) -> bool:
    """Compare a host's output with Python's bit by bit, and with the exact one; print and return the result."""
    expected = ort_ops.InferenceSession(model, kernels=kernels).run(None, {"x": given})[0]
    exact = Float64Run(onnx.load(model))({"x": given}).outputs["y"].compare(got)
    differs = got.shape != expected.shape or got.dtype != expected.dtype or bool((got != expected).any())
    equal = "not Python's bits" if differs else "Python's, bit for bit"
    print(f"{what}: {got.size} numbers, {equal}; {exact.max_in_bounds:.2g} bounds, {exact.text}")
    return not differs and exact.verdict is Verdict.OK


def call(*command: Any, **environment: str) -> None:
    """Run a command, and end with its own message if it fails or is not there."""
    if shutil.which(command[0]) is None:
        sys.exit(f"{command[0]} is missing; install it, or name the examples to check")
    if subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | environment, check=False).returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")


CHECKS = {
    "browser": check_browser,
    "node": check_node,
    "cpp": check_cpp,
    "service": check_service,
    "mlflow": check_mlflow,
    "netron": check_netron,
}


def main(arguments: list[str]) -> int:
    """Check the named examples, and return the exit status."""
    named = [name for name in arguments if name != "--install"]
    if unknown := [name for name in named if name not in CHECKS]:
        sys.exit(f"there is no example {unknown[0]}; there are {', '.join(CHECKS)}")
    results = {name: CHECKS[name]() for name in named or CHECKS}
    for name, was_right in results.items():
        print(f"{name}: {'right' if was_right else 'WRONG'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
