"""Run the tests on other versions than the pinned ones: of onnxruntime, of every declared floor, and of Python.

    python tests/on_runtimes.py                          # all of ENVIRONMENTS
    python tests/on_runtimes.py 1.17.3 newest            # versions of onnxruntime
    python tests/on_runtimes.py lowest lowest-export     # the lowest versions that pyproject.toml declares
    python tests/on_runtimes.py python3.12 python3.13    # other Pythons, with the newest packages
    python tests/on_runtimes.py --wheel dist/*.whl ...   # install the wheel, with what it requires

Each gets a virtual environment of its own under build/runtimes, kept and reused, with pytest and hypothesis. Only
lowest-export has torch. The C++ library is the one that `ort_ops.native` finds here. With a wheel, the installed
command is tried too, outside the source. Ends with a line for each, and with status 1 if any failed or ran fewer tests
than it should.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from ort_ops.native import library as native

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = (
    *("1.17.3", "1.20.1", "1.23.2", "1.24.4", "1.28.0", "newest"),
    *("lowest", "lowest-export", "python3.12", "python3.13"),
)
SUITES = (
    "test_function_body.py",
    "test_linear_gradient.py",
    "test_native_parity.py",
    "test_native_models.py",
    "test_native_sessions.py",
    "test_native_errors.py",
    "test_native_property.py",
    "test_python_kernels.py",
    "test_python_kernel_definitions.py",
    "test_python_kernel_domains.py",
    "test_python_kernel_errors.py",
    "test_python_kernel_memory.py",
    "test_python_kernel_processes.py",
    "test_schemas.py",
    "test_versions.py",
    "test_linear_version_2.py",
    "test_file_format.py",
    "test_trainer.py",
    "test_in_place.py",
    "test_loop.py",
    "test_inference.py",
    "test_accumulation.py",
    "test_failures.py",
)
MIN_PASSED = 2000
"""A suite that is not collected, or skipped, must not look like success."""
EXPORT_SUITES = (
    "test_checkpoint.py",
    "test_data.py",
    "test_export.py",
    "test_export_any.py",
    "test_module.py",
    "test_network.py",
    "test_rewrite.py",
    "test_same_bits.py",
    "test_stopped_training.py",
    "test_training.py",
    "test_training_options.py",
    "test_verify.py",
)
MIN_EXPORT_PASSED = 350
BEYOND_THE_LOWEST = {
    "bfloat16": "onnxruntime takes bfloat16 arrays from Python from 1.20 on",
    "test_every_opset": "newer opsets than onnxruntime 1.17 loads",
    "test_a_target_picks": "newer opsets than onnxruntime 1.17 loads",
    "test_the_target_s_own_python": "wants another onnxruntime than this one as the target",
    "GRU": "onnxruntime 1.17 computes this GRU wrongly, and export refuses it",
    "test_a_model_that_onnxruntime_has_no_kernels_for": "in bfloat16",
    "test_what_onnxruntime_cannot_run": "in bfloat16",
    "test_other_dtypes_run_node_by_node": "in bfloat16",
    "test_inputs_that_no_node_reads": "in bfloat16",
    "test_the_target_s_result": "newer opsets than onnxruntime 1.17 loads",
    "test_nodes_of_bodies_and_functions": "newer IR versions than onnxruntime 1.17 loads",
    "test_a_node_that_no_input_reaches": "newer IR versions than onnxruntime 1.17 loads",
    "test_the_body_of_scan": "onnx 1.19's evaluator gives the body of a Scan no values from outside it",
}
"""Parts of test names that the lowest versions cannot pass, and why."""


def floors(*extras: str) -> list[str]:
    """Pin every requirement of the base install, and of the extras, to its lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(t for extra in extras for t in project["optional-dependencies"][extra])]
    found = [Requirement(text) for text in texts]
    return [f"{r.name}=={next(s.version for s in r.specifier if s.operator == '>=')}" for r in found]


def packages(name: str) -> list[str]:
    """What to install in the environment of that name."""
    beside = ["pytest", "hypothesis", "packaging"]
    if name == "lowest":
        return [*floors(), "pytest", "hypothesis"]
    if name == "lowest-export":
        return [*floors("export"), "pytest", "hypothesis", "expecttest", "onnxslim"]
    beside += ["onnx", "ml_dtypes"]
    if name == "newest" or name.startswith("python"):
        return ["onnxruntime", "numpy", *beside]
    # Wheels before 1.21 were built for NumPy 1 and do not load with NumPy 2.
    is_old = Version(name) < Version("1.21")
    return [f"onnxruntime=={name}", "numpy<2" if is_old else "numpy", *beside]


def environment(name: str, folder: Path, wheel: Path | None) -> Path:
    """Make the virtual environment of that name, or update it, and return its Python."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        interpreter = name if name.startswith("python") else sys.executable
        if shutil.which(interpreter) is None:
            raise SystemExit(f"{interpreter} is not here; install it, or leave it out")
        subprocess.run([interpreter, "-m", "venv", folder / name], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--upgrade", *packages(name)]
    if wheel is not None:
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "ort-mylinear"], check=True)
        install.append(wheel)
    subprocess.run(install, check=True)
    return python


def run(name: str, folder: Path, library: str, wheel: Path | None) -> tuple[bool, str, str]:
    """Run the suites; return whether they passed, what they ran on, and pytest's last line."""
    python = environment(name, folder, wheel)
    versions = (
        "import platform, numpy, onnx, onnxruntime; "
        "print('Python', platform.python_version(), 'onnxruntime', onnxruntime.__version__, "
        "'onnx', onnx.__version__, 'numpy', numpy.__version__)"
    )
    ran = subprocess.run([python, "-c", versions], capture_output=True, text=True, check=True).stdout.strip()
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT, "-m", "not slow"]
    suites, min_passed = SUITES, MIN_PASSED
    if name == "lowest-export":
        suites, min_passed = EXPORT_SUITES, MIN_EXPORT_PASSED
        # Old packages warn of newer ones: matplotlib of pyparsing.
        command += ["-o", "filterwarnings=ignore", "-k", f"not ({' or '.join(BEYOND_THE_LOWEST)})"]
    else:
        command.append("--noconftest")
    command += [next((ROOT / "tests").rglob(suite)) for suite in suites]
    variables = os.environ | {native.LIBRARY_VARIABLE: library}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    passed = re.search(r"(\d+) passed", lines[-1])
    is_ok = done.returncode == 0 and passed is not None and int(passed[1]) >= min_passed
    if not is_ok:
        print(name, done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    if wheel is not None:
        is_ok &= try_the_command(python, folder)
    return is_ok, ran, lines[-1].strip("= ")


def try_the_command(python: Path, folder: Path) -> bool:
    """Run the installed command outside the source, with the installed library; each must exit with status 0."""
    model = ROOT / "models" / "linear.onnx"
    variables = {key: value for key, value in os.environ.items() if key not in (native.LIBRARY_VARIABLE, "PYTHONPATH")}
    is_ok = True
    for arguments in (["doctor"], ["inspect", model, "--require-kernel", "cpp"], ["run", model, "--input", "3,2"]):
        command = [python.parent / "mylinear", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables, check=False)
        if done.returncode != 0 or done.stderr:
            print(*command, f"exits with {done.returncode}:", done.stdout, done.stderr, file=sys.stderr)
            is_ok = False
    return is_ok


def main() -> int:
    """Run every environment named on the command line."""
    parser = argparse.ArgumentParser(description="Run the tests on versions of onnxruntime, Python and what is needed.")
    parser.add_argument("names", nargs="*", default=ENVIRONMENTS, help="such as 1.17.3, newest, lowest or python3.12")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "runtimes", help="of the environments")
    parser.add_argument("--wheel", type=Path, help="of this package, to install beside")
    parser.add_argument("--jobs", type=int, default=1, help="how many run at the same time")
    arguments = parser.parse_args()
    library = native.library_path()
    print(f"library: {library}")
    folder = arguments.folder.resolve()
    wheel = None if arguments.wheel is None else arguments.wheel.resolve(strict=True)
    all_ok = True
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(lambda name: (name, *run(name, folder, library, wheel)), arguments.names)
        for name, is_ok, ran, line in results:
            all_ok &= is_ok
            print(f"{name:13} {'ok    ' if is_ok else 'FAILED'} {ran}: {line}", flush=True)
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main())
