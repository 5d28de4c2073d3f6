"""Check the page: ``python docs/examples/web/check/check.py``. It needs Node.js with npm, and Chromium.

`check.mjs` uses the page in headless Chromium as a person would. Here its numbers are compared with Python's: each of
the two must be within the bound of the exact result. It leaves two screenshots in build/web-check.
"""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import ort_ops
from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.bundle.write import write_bundle
from ort_ops.numerics.compare import Verdict

HERE = Path(__file__).parent
BUILD = runpy.run_path(str(HERE.parent / "build.py"))
PAGE: Path = BUILD["FOLDER"]
RESULTS = PAGE.parent / "web-check"
PLAYWRIGHT = "playwright-core@1.65.1"
MODELS = {name: f"digits_mlp.{name}.onnx" for name in ("float64", "float16")} | {"float32": "digits_mlp.onnx"}
LOOK_AT_STEPS = range(0, 600, 50)
LR = 0.5

Array = NDArray[Any]


def main() -> int:
    """Assemble the page, use it, compare, and return the exit status."""
    chromium = find_chromium()
    BUILD["main"]()
    packages = BUILD["npm_package"](PLAYWRIGHT).parent.parent
    RESULTS.mkdir(exist_ok=True)
    command = ["node", HERE / "check.mjs", PAGE, RESULTS, chromium, packages, make_bundle(packages)]
    if subprocess.run(command, check=False).returncode:
        return 1
    shown = json.loads((RESULTS / "shown.json").read_text())
    print(f"Chromium {shown['browser']}: {len(shown['predictions'])} predictions of drawn digits, as they should be")
    is_right = [compare_logits(dtype, shown["predictions"]) for dtype in ("float64", "float32", "float16")]
    is_right.append(compare_training(shown["training"]))
    print(f"screenshots: {RESULTS}/page.png, {RESULTS}/phone.png")
    return 0 if all(is_right) else 1


def find_chromium() -> str:
    """Return the path of Chromium, or end with what to install."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is missing; install it: apt-get install chromium")
    return chromium


def make_bundle(packages: Path) -> Path:
    """Make a bundle with its own page, which needs onnxruntime-web beside it."""
    folder = PAGE.parent / "bundles" / "web"
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    write_bundle(PAGE / MODELS["float16"], folder, for_hosts=["web"])
    (folder / "hosts" / "web" / "node_modules").symlink_to(packages / "node_modules")
    return folder


def compare_logits(dtype: str, predictions: list[dict[str, Any]]) -> bool:
    """Compare the page's logits and Python's, body and kernel, with the exact ones; print and return the result."""
    path = PAGE / MODELS[dtype]
    mine = [found for found in predictions if found["dtype"] == dtype]
    feed = {"x": np.array([found["pixels"] for found in mine], dtype)}
    exact = Float64Run(onnx.load(path))(feed).outputs["y"]
    logits = {"page": np.array([found["logits"] for found in mine], dtype)}
    for kernels in ("body", "auto"):
        logits[kernels] = ort_ops.InferenceSession(path, kernels=kernels).run(None, feed)[0]
    return report(f"{dtype} logits", logits, exact)


def compare_training(training: dict[str, Any]) -> bool:
    """Compare steps and the trained file with Python's; print and return the result."""
    path = PAGE / "linear_step.onnx"
    trainer = ort_ops.Trainer(path)
    exact_step = Float64Run(onnx.load(path))
    largest_bound = 0.0
    in_bounds = []
    for number, step in enumerate(training["steps"]):
        given = {"x": np.reshape(step["given"]["x"], (-1, 2)), "target": np.reshape(step["given"]["target"], (-1, 1))}
        loss = trainer.step(given["x"], given["target"], lr=LR)
        rows = np.hstack([given["x"], np.ones((len(given["x"]), 1))])
        assert LR * np.linalg.norm(rows, 2) ** 2 / len(rows) <= 1, (
            "a step must not enlarge errors, or the bound is wrong"
        )
        if number not in LOOK_AT_STEPS:
            continue
        before = {name: np.reshape(values, trainer.state()[name].shape) for name, values in step["before"].items()}
        exact = exact_step({**given, **before, "step": np.int64(number), "lr": np.float64(LR)}).outputs
        after = training["steps"][number + 1]["before"] if number + 1 < len(training["steps"]) else training["last"]
        for name in ("weight", "bias"):
            value = exact[f"{name}/next"]
            found = value.compare(np.reshape(after[name], value.exact.shape))
            if found.verdict is not Verdict.OK:
                print(f"{name} after step {number + 1}: {found.text}")
                return False
            in_bounds.append(found.max_in_bounds)
            largest_bound = max(largest_bound, float(np.max(value.error)))
    print(
        f"training: {len(in_bounds)} states after a step, each from the one before, at most {max(in_bounds):.2g} bounds"
    )
    saved = ort_ops.Trainer(RESULTS / "trained_step.onnx").state()
    learned = trainer.state()
    # Each side makes at most the bound's error in each step, and no step enlarges those before it.
    allowed = 2 * np.sqrt(3) * largest_bound * len(training["steps"])
    is_right = saved["step"] == len(training["steps"])
    for name in ("weight", "bias"):
        again = np.reshape(training["last"][name], saved[name].shape)
        difference = float(np.max(np.abs(saved[name] - learned[name])))
        is_same = bool((saved[name] == again).all())
        print(f"trained {name}: {difference:.2g} from Python's, allowed {allowed:.2g}; saved as shown: {is_same}")
        is_right &= difference <= allowed and is_same
    print(f"loss of the last step: {training['steps'][-1]['loss']:.2g}, Python's {loss:.2g}")
    return bool(is_right)


def report(what: str, results: dict[str, Array], exact: Value) -> bool:
    """Print how far results are from the exact one, in bounds, and return whether all are within it."""
    is_right = True
    texts = []
    for name, result in results.items():
        found = exact.compare(result)
        is_right &= found.verdict is Verdict.OK
        texts.append(f"{name} {found.max_error:.2g} ({found.max_in_bounds:.2g} bounds, {found.text})")
    print(f"{what}: {', '.join(texts)}")
    return is_right


if __name__ == "__main__":
    sys.exit(main())
