"""Run the tests of the one built library, and of the function body, on several versions of onnxruntime.

    python tests/on_runtimes.py                     # all of VERSIONS
    python tests/on_runtimes.py 1.17.3 newest       # these

Each version gets a virtual environment of its own under build/runtimes, kept and reused, with onnxruntime, onnx, NumPy,
ml_dtypes, pytest and hypothesis, and nothing else: no torch, no compiler. The library is the one that `ort_ops.native`
finds here. Ends with a line for each version, and with status 1 if any failed or ran fewer tests than it should.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

from ort_ops import native

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("1.17.3", "1.20.1", "1.23.2", "1.24.4", "1.28.0", "newest")
SUITES = (
    "test_function_body.py",
    "test_native_parity.py",
    "test_native_models.py",
    "test_native_sessions.py",
    "test_native_errors.py",
    "test_native_property.py",
    "test_python_kernels.py",
    "test_python_kernel_processes.py",
)
MIN_PASSED = 2000
"""A suite that is not collected, or skipped, must not look like success."""


def packages(version: str) -> list[str]:
    """What to install for a version of onnxruntime."""
    beside = ["onnx", "ml_dtypes", "pytest", "hypothesis"]
    if version == "newest":
        return ["onnxruntime", "numpy", *beside]
    # Wheels before 1.21 were built for NumPy 1 and do not load with NumPy 2.
    is_old = tuple(map(int, version.split(".")[:2])) < (1, 21)
    return [f"onnxruntime=={version}", "numpy<2" if is_old else "numpy", *beside]


def environment(version: str, folder: Path) -> Path:
    """Make the virtual environment of a version, or update it, and return its Python."""
    python = folder / version / "bin" / "python"
    if not python.exists():
        venv.create(folder / version, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *packages(version)], check=True)
    return python


def run(python: Path, library: str) -> tuple[bool, str, str]:
    """Run the suites; return whether they passed, the version that ran, and pytest's last line."""
    ran = subprocess.run(
        [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"], capture_output=True, text=True, check=True
    )
    command = [python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "--rootdir", ROOT]
    command += [ROOT / "tests" / suite for suite in SUITES]
    variables = os.environ | {native.LIBRARY_VARIABLE: library}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    passed = re.search(r"(\d+) passed", lines[-1])
    is_ok = done.returncode == 0 and passed is not None and int(passed[1]) >= MIN_PASSED
    if not is_ok:
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    return is_ok, ran.stdout.strip(), lines[-1].strip("= ")


def main() -> int:
    """Run every version named on the command line."""
    parser = argparse.ArgumentParser(description="Run the tests that need no torch on versions of onnxruntime.")
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="such as 1.17.3, or newest")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "runtimes", help="of the environments")
    arguments = parser.parse_args()
    library = native.library_path()
    print(f"library: {library}")
    is_ok = True
    for version in arguments.versions:
        passed, ran, line = run(environment(version, arguments.folder.resolve()), library)
        is_ok &= passed
        print(f"onnxruntime {ran:8} {'ok    ' if passed else 'FAILED'} {line}", flush=True)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
