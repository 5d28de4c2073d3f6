"""Run the tests that need no torch on several versions of onnxruntime, side by side.

    python tests/on_runtimes.py                     # all of VERSIONS
    python tests/on_runtimes.py 1.17.3 newest       # these

Each version gets a virtual environment of its own under build/runtimes, kept and reused. Ends with a line for each
version, and with status 1 if a version failed or ran fewer tests than it should.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("1.17.3", "1.20.1", "1.23.2", "newest")
SUITES = ("test_function_body.py",)
MIN_PASSED = 135
"""A suite that is not collected, or skipped, must not look like success."""


def packages(version: str) -> list[str]:
    """What to install for a version of onnxruntime."""
    if version == "newest":
        return ["onnxruntime", "numpy", "onnx", "ml_dtypes", "pytest"]
    # Wheels before 1.21 were built for NumPy 1 and do not load with NumPy 2.
    is_old = tuple(map(int, version.split(".")[:2])) < (1, 21)
    return [f"onnxruntime=={version}", "numpy<2" if is_old else "numpy", "onnx", "ml_dtypes", "pytest"]


def environment(version: str, folder: Path) -> Path:
    """Make the virtual environment of a version and return its Python."""
    python = folder / version / "bin" / "python"
    if not python.exists():
        venv.create(folder / version, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages(version)], check=True)
    return python


def run(python: Path) -> tuple[bool, str]:
    """Run the suites; return whether they passed, and pytest's last line."""
    command = [python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "--rootdir", ROOT]
    command += [ROOT / "tests" / suite for suite in SUITES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    passed = re.search(r"(\d+) passed", lines[-1])
    is_ok = done.returncode == 0 and passed is not None and int(passed[1]) >= MIN_PASSED
    if not is_ok:
        print(done.stdout[-4000:], file=sys.stderr)
    return is_ok, lines[-1]


def main() -> int:
    """Run every version named on the command line."""
    parser = argparse.ArgumentParser(description="Run the tests that need no torch on versions of onnxruntime.")
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="such as 1.17.3, or newest")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "runtimes", help="of the environments")
    arguments = parser.parse_args()
    is_ok = True
    for version in arguments.versions:
        passed, line = run(environment(version, arguments.folder.resolve()))
        is_ok &= passed
        print(f"onnxruntime {version:8} {'ok    ' if passed else 'FAILED'} {line}", flush=True)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
