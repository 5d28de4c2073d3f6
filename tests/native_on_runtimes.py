"""Run the tests of the one built library on several versions of onnxruntime, side by side.

    python tests/native_on_runtimes.py                              # all, into build/runtimes/
    python tests/native_on_runtimes.py --versions 1.17.3 newest     # some

Each version gets a virtual environment of its own (kept and reused) with onnxruntime, onnx, NumPy, ml_dtypes, pytest
and hypothesis, and nothing else: no torch, no compiler. The library is the one that `ort_ops.native` finds here.
Ends with a table, and with status 1 if any version failed or ran fewer tests than it should.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ort_ops import native  # noqa: E402

VERSIONS = ("1.17.3", "1.20.1", "1.23.2", "1.24.4", "1.28.0", "newest")
SUITES = (
    "test_native_parity.py",
    "test_native_models.py",
    "test_native_sessions.py",
    "test_native_errors.py",
    "test_native_property.py",
)
MIN_PASSED = 1600
"""A suite that is skipped or not collected must not look like success."""


def packages(version: str) -> list[str]:
    """What to install beside a version of onnxruntime."""
    runtime = "onnxruntime" if version == "newest" else f"onnxruntime=={version}"
    # Wheels before 1.21 were built for NumPy 1 and do not load with NumPy 2.
    is_old = version != "newest" and tuple(map(int, version.split(".")[:2])) < (1, 21)
    return [runtime, "numpy<2" if is_old else "numpy", "onnx", "ml_dtypes", "pytest", "hypothesis"]


def environment(version: str, directory: Path) -> Path:
    """Make the virtual environment of a version, or update it, and return its Python."""
    home = directory / version
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *packages(version)], check=True)
    return python


def run(python: Path, library: str) -> tuple[str, str]:
    """Run the suites and return (the version that ran, pytest's last line); an error begins with ``FAILED``."""
    named = subprocess.run(
        [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"], capture_output=True, text=True, check=True
    )
    command = [python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "--rootdir", ROOT]
    command += [ROOT / "tests" / suite for suite in SUITES]
    variables = os.environ | {native.LIBRARY_VARIABLE: library}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, check=False)
    lines = done.stdout.strip().splitlines()
    result = lines[-1].strip("= ") if lines else ""
    passed = re.search(r"(\d+) passed", result)
    if done.returncode != 0 or passed is None or int(passed[1]) < MIN_PASSED:
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
        result = f"FAILED (status {done.returncode}): {result}"
    return named.stdout.strip(), result


def main() -> int:
    """Parse the command line, run every version, print the table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", nargs="+", default=list(VERSIONS), help="versions of onnxruntime, or newest")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "runtimes", help="of the environments")
    arguments = parser.parse_args()
    library = native.library_path()
    print(f"library: {library}")
    has_failed = False
    for version in arguments.versions:
        ran, result = run(environment(version, arguments.directory.resolve()), library)
        has_failed |= result.startswith("FAILED")
        print(f"onnxruntime {ran:8} {result}", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
