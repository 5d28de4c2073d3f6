"""`mylinear new` writes a package that is right, and refuses in one line what it cannot write."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import exporter
from exporter.promises.kernels import kernel_promises
from exporter.promises.result import Outcome, PromiseError
from exporter.promises.subject import Subject
from ort_ops import KernelError
from ort_ops.cli import main as cli
from ort_ops.native import library
from ort_ops.opdef import registry
from ort_ops.scaffold import write
from ort_ops.scaffold.request import PackageError, read_request
from ort_ops.scaffold.write import render, write_package
from tests.scaffold.packages import VARIANTS, imported, request_of


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_file_is_whole_python(name: str, tmp_path: Path) -> None:
    request = request_of(name)
    texts = render(request)
    for path, text in texts.items():
        assert text.endswith("\n")
        assert not re.search(r"\{[%#]|\{\{ ", text)
        if path.endswith((".py", ".cc", ".cu")):
            assert max(map(len, text.splitlines())) <= 120, path
        if path.endswith(".py"):
            ast.parse(text, path)
    write_package(request, "made")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120"]
    done = subprocess.run(command, cwd="made", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=120", "--diff"]
    done = subprocess.run(command, cwd="made", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "made" / "setup.py").exists() == request.with_cpp


def test_it_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "RowScale", "--no-cpp"]) == 0
    said = capsys.readouterr().out
    for expected in ("row-scale: row_scale::RowScale", "pip install -e", "check RowScale", "row_scale/operator.py: 6"):
        assert expected in said
    assert cli.main(["new", "RowScale", "--no-cpp", "--folder", "again", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operator"] == "row_scale::RowScale"
    counts = {name: Path("again", name).read_text().count("TODO:") for name in found["files"]}
    assert {name: count for name, count in counts.items() if count} == found["todo"]
    assert sum(counts.values()) > 5


REFUSED = {
    "9lives": "NAME must be letters, digits and underscores",
    "Größe": "NAME must be letters, digits and underscores",
    "Statistics": "Python itself has 'statistics'",
    "Class": "Python itself has 'class'",
    "Numpy": "the package name 'numpy' is taken by an installed package; choose another NAME",
    "MYLINEAR --domain mylinear": "--domain must be one of your own, got 'mylinear'",
    "Mine --domain com.microsoft.x": "--domain must be one of your own",
    "Mine --domain a b": "--domain must be words of letters",
    "Mine --inputs x,,z": "each of --inputs must be a lower-case identifier, such as 'x' or 'weight', got ''",
    "Mine --inputs x,x": "must have different names, got 'x' twice",
    "Mine --outputs lambda": "names must not be Python's",
    "Mine --outputs mine": "names must not be Python's, or those of the written files, got 'mine'",
    "Mine --attributes a": "each of --attributes must be like 'a:float=1.0', 'n:int=2', 'mode:string=plain', ",
    "Mine --attributes a:str=b": "add attributes of other kinds to the written files",
    "Mine --attributes a:floats=1": "a list is empty by default, so 'a:floats=1' must have no '='; write 'a:floats'",
    "Mine --attributes a:string=b c": "the default in 'a:string=b c' must be of letters, digits, '_', '.' and '-'",
    "Mine --inputs x:optional": "--inputs must begin with one that is not optional, and end with those that are",
    "Mine --inputs x,y:optional,z": "and end with those that are, got 'x,y:optional,z'",
    "Mine --attributes a:int=1.5": "the default in 'a:int=1.5' must be a number",
    "Mine --attributes a:float=nan": "the default in 'a:float=nan' must be a number",
    "Mine --dtypes float32": "--dtypes must be float64 and any of float32, float16, bfloat16, got 'float32'; gradients",
    "Mine --dtypes float64,int8": "add types of other kinds to the written files",
    "Mine --attributes x:float=1": "got 'x' twice",
    "Mine --cuda --no-cpp": "--cuda must go without --no-cpp: the library with the CUDA kernel has the CPU's too",
    "Mine --update": "'.' must be the package of Mine, and has no readable pyproject.toml; give its folder by --folder",
    "Mine --update --folder taken": "'taken' must be the package of Mine, and has no readable pyproject.toml",
    "9lives --update": "NAME must be letters, digits and underscores",
    "--update --folder taken": "'taken' must be a package with headers in 'third_party/mylinear'; name it by --folder",
    "--no-cpp": "NAME must be given: that of the operator, such as ScaledSum",
    "Mine --folder taken": "'taken' exists; name another folder by --folder, or remove it",
    "Mine --folder no/such": "there is no folder",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_it_refuses_is_one_line(arguments: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("taken").mkdir()
    words = arguments.split() if "--update" in arguments or "--cuda" in arguments else arguments.split(" ", 2)
    assert cli.main(["new", *words]) == 2
    said = capsys.readouterr().err
    assert REFUSED[arguments] in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_registered_operator_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from ort_ops.scaffold import request

    monkeypatch.setattr(request.registry, "find", lambda domain, name: object())
    with pytest.raises(PackageError, match="mine::Mine is taken by an installed operator; choose another NAME"):
        read_request("Mine")


def test_a_package_is_written_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> str:
        raise library.NativeLibraryError("there are no headers")

    monkeypatch.setattr(write, "include_path", fail)
    with pytest.raises(PackageError, match=r"there are no headers; or write the package without .* by --no-cpp"):
        write_package(read_request("Mine"))
    assert not [*tmp_path.iterdir()]


def test_update_brings_the_headers_up_to_date_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    made = write_package(read_request("Mine"), "made")
    third_party = made.folder / "third_party" / "mylinear"
    right = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    (third_party / "ort" / "abi.h").write_text("// old\n")
    (third_party / "ort" / "gone.h").write_text("// removed since\n")
    (third_party / "kernels" / "half.h").unlink()
    kernel = made.folder / "mine" / "kernel.cc"
    kernel.write_text("// mine\n")
    assert cli.main(["new", "--update", "--folder", "made"]) == 0
    said = capsys.readouterr().out
    assert "3 files of third_party/mylinear changed: kernels/half.h, ort/abi.h, ort/gone.h" in said
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == {
        **right,
        kernel: b"// mine\n",
    }
    (third_party / "ort" / "abi.h").write_text("// old\n")
    assert cli.main(["new", "Mine", "--update", "--folder", "made"]) == 0
    assert "made: 1 file of third_party/mylinear changed: ort/abi.h\n" in capsys.readouterr().out
    assert cli.main(["new", "--update", "--folder", "made", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": "made", "changed": []}


def test_update_takes_the_package_of_that_name_and_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RowScale", "Mine"):
        write_package(read_request(name))
    changed = Path("row-scale", "third_party", "mylinear", "ort", "abi.h")
    right = changed.read_text()
    changed.write_text("// old\n")
    assert cli.main(["new", "RowScale", "--update", "--folder", "mine"]) == 2
    said = (
        "'mine' must be the package of RowScale, which is 'row-scale', got 'mine'; leave NAME out, or give its folder"
    )
    assert said in capsys.readouterr().err
    assert cli.main(["new", "Mine", "--update"]) == 0
    assert capsys.readouterr().out == "mine: 0 files of third_party/mylinear changed\n"
    assert changed.read_text() == "// old\n"
    assert cli.main(["new", "RowScale", "--update"]) == 0
    assert changed.read_text() == right
    monkeypatch.chdir("mine")
    assert cli.main(["new", "RowScale", "--update"]) == 2
    assert "'.' must be the package of RowScale, which is 'row-scale', got 'mine'" in capsys.readouterr().err
    assert cli.main(["new", "Mine", "--update"]) == 0


def test_a_cuda_kernel_is_one_more_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "Plain", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["files"]
    assert cli.main(["new", "Plain", "--cuda", "--folder", "cuda", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {*found["files"]} - {*plain} == {"plain/kernel.cu", "tests/conftest.py"}
    assert found["todo"]["plain/kernel.cu"] == 1
    for name in ("kernel.h", "on_cpu.h"):
        assert Path("cuda", "third_party", "mylinear", "ort", "cuda", name).is_file()
    for name in plain:
        text = Path("plain", name).read_text()
        assert "cuda" not in text.lower() or name.startswith("third_party"), name


def test_without_nvcc_the_build_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    fake = types.SimpleNamespace(Extension=lambda *a, **k: None, setup=lambda **k: None, build_ext=object)
    for name in ("setuptools", "setuptools.command", "setuptools.command.build_ext"):
        monkeypatch.setitem(sys.modules, name, fake)  # type: ignore[arg-type]
    setup = runpy.run_path(str(write_package(read_request("Mine", with_cuda=True)).folder / "setup.py"))
    if setup["find_nvcc"]() is None:  # which /usr/local/cuda may have
        assert "is NOT built: there is no nvcc in CUDA_HOME, on the PATH" in setup["NO_NVCC"]
    nvcc = Path("home", "bin", "nvcc")
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", "home")
    assert setup["find_nvcc"]() == str(nvcc)
    monkeypatch.setenv("WITHOUT_CUDA", "1")
    assert setup["find_nvcc"]() is None


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_cuda_kernel_is_right_on_the_cpu_and_a_wrong_one_is_named() -> None:
    request = request_of("ExampleOfTwo")
    with imported(request, Path.cwd()) as kit:
        kernel = Path(request.distribution, request.module, "kernel.cu")
        right = kernel.read_text()
        built = _built_for_cpu(kernel, "right.so")
        exporter.check_library(kit, built, "cuda on the CPU").check()
        assert registry.find(*kit.operator.key) is kit
        wrong = {
            "auto total = ": "auto total = (i >= step ? 2 : 1) * ",  # in the second round of the grid
            "[i % p.width]": "[i / p.width]",
        }
        for number, (part, instead) in enumerate(wrong.items()):
            assert right.count(part) == 1
            kernel.write_text(right.replace(part, instead))
            found = exporter.check_library(kit, _built_for_cpu(kernel, f"wrong{number}.so"), "cuda on the CPU")
            assert {p.subject for p in found.of(Outcome.BROKEN)} >= {"cuda on the CPU, float64"}, part
            with pytest.raises(PromiseError, match=r"ExampleOfTwo: kernel, cuda on the CPU, float64: BROKEN: \["):
                found.check()
        with pytest.raises(KernelError, match="ExampleOfTwo: the cuda kernel is not available: the CUDA kernel of Exa"):
            exporter.check_operator(kit, device="cuda")
        not_run = next(p for p in kernel_promises(Subject(kit), None, "cpu") if p.outcome is Outcome.NOT_RUN)
        assert (not_run.promise, not_run.subject) == ("kernel", "cuda")
        assert not_run.detail.startswith(
            "no GPU: the device is the CPU; the CUDA kernel of ExampleOfTwo is not built: "
        )


def _built_for_cpu(kernel: Path, name: str) -> Path:
    """Compile a .cu file as the package's own test does."""
    command = "g++ -x c++ -std=c++17 -O0 -ffp-contract=off -Wall -Wextra -Werror -shared -fPIC -Ithird_party/mylinear"
    source, target = kernel.relative_to(kernel.parts[0]), Path(name).absolute()
    done = subprocess.run(
        [*command.split(), source, "-o", target], cwd=kernel.parts[0], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_kernel_compiles_against_the_copied_headers_alone() -> None:
    made = write_package(request_of("ExampleOfTwo"), "made")
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Ithird_party/mylinear"]
    source = "example_of_two/kernel.cc"
    done = subprocess.run([*command, source], cwd=made.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
