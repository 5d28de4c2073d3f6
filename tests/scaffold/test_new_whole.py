"""New packages as a user gets them: installed by pip in an environment of their own, tested, checked, and broken.

Slow, for they are built: ``pytest -m slow tests/scaffold``. It needs a C++ compiler and the package registry, from
which pip takes the build backend.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ort_ops.native import library
from ort_ops.scaffold.write import write_package
from tests.scaffold.packages import VARIANTS, request_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Environment:
    """A virtual environment that sees this project and what it needs, with new packages installed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self.python = folder / "venv" / "bin" / "python"
        known = [str(ROOT), *site.getsitepackages(), *(p for p in sys.path if p.endswith("site-packages"))]
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (packages / "this_project.pth").write_text("\n".join(dict.fromkeys(known)) + "\n")

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        # An editable install has it beside the packages, where this source does not look.
        variables[library.LIBRARY_VARIABLE] = library.library_path()
        variables["WITHOUT_CUDA"] = "1"  # cpp_ops/cuda/check.sh builds one by nvcc
        command = [self.python, *arguments]
        return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)

    def install(self, folder: Path) -> None:
        done = self.run("-m", "pip", "install", "-q", "-e", ".", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def check(self, name: str) -> tuple[int, dict[str, Any]]:
        done = self.run("-m", "ort_ops.cli", "check", name, "--compile", "none", "--json", "-", cwd=self.folder)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment"))
    for name in VARIANTS:
        request = request_of(name)
        write_package(request, made.folder / request.distribution)
        made.install(made.folder / request.distribution)
    return made


@pytest.mark.parametrize("name", VARIANTS)
def test_a_new_package_is_green_at_once(environment: Environment, name: str) -> None:
    done = environment.run("-m", "pytest", "-q", cwd=environment.folder / request_of(name).distribution)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_new_packages_share_a_session(environment: Environment) -> None:
    status, found = environment.check("ExampleOfTwo")
    assert status == 0, found["conclusion"]
    together = {p["subject"]: p["detail"] for p in found["promises"] if p["promise"] == "one session"}
    assert together["with example_in_cpp::ExampleInCpp"] == "ExampleOfTwo by cpp, ExampleInCpp by cpp"
    assert together["with example_in_python::ExampleInPython"] == "ExampleOfTwo by cpp, ExampleInPython by python"


def test_a_wrong_cuda_kernel_fails_the_package_s_own_test(environment: Environment) -> None:
    request = request_of("ExampleOfTwo")
    folder = environment.folder / request.distribution
    path = folder / request.module / "kernel.cu"
    text = path.read_text()
    right = "total *= static_cast<ort::Wide<T>>(p.factor_a)"
    assert text.count(right) == 1
    try:
        path.write_text(text.replace(right, right.replace("*=", "+=")))
        done = environment.run("-m", "pytest", "-k", "cuda", cwd=folder)
    finally:
        path.write_text(text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ExampleOfTwo: kernel, cuda on the CPU, float64: BROKEN: [3, 4], defaults" in done.stdout
    assert "CUDA kernel: the CUDA kernel of ExampleOfTwo is not built: its build found no nvcc" in done.stdout


BROKEN = {
    "kernel": ("kernel.cc", "= ort::widen(in_x[i]) + ort", "= ort::widen(in_x[i]) - ort"),
    "description in C++": ("kernel.cc", 'int_attribute("times", 3)', 'int_attribute("times", 4)'),
    "runtime": (
        "kernel.cc",
        "shapes.set_output(kOutTwice, first);",
        "++first.dims[0];\n    shapes.set_output(kOutTwice, first);",
    ),
    "gradients": ("in_torch.py", "gradient = grad_y + 2 * grad_twice", "gradient = grad_y + grad_twice"),
    "body": ("operator.py", '"Add", ["_wide_x"', '"Sub", ["_wide_x"'),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_on_purpose_is_found_and_named(environment: Environment, what: str) -> None:
    name, right, wrong = BROKEN[what]
    folder = environment.folder / request_of("ExampleOfTwo").distribution
    path = folder / "example_of_two" / name
    text = path.read_text()
    assert text.count(right) == 1
    (library_path,) = path.parent.glob("_kernel*.so")
    built = library_path.read_bytes()
    try:
        path.write_text(text.replace(right, wrong))
        if name.endswith(".cc"):
            environment.install(folder)
        status, found = environment.check("example_of_two::ExampleOfTwo")
    finally:
        path.write_text(text)
        library_path.write_bytes(built)
    assert status == 1
    broken = {promise["promise"] for promise in found["promises"] if promise["outcome"] == "BROKEN"}
    follows = {  # what a fault shows in as well
        "kernel": {"runtime", "one session", "export"},
        "description in C++": {"kernel", "runtime"},
        "body": {"runtime", "export"},
    }
    assert what in broken
    assert broken <= {what, *follows.get(what, set())}
    assert what in found["conclusion"]
