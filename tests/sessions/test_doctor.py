"""`mylinear doctor`: a healthy machine has no faults; each fault comes with a remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ort_ops.cli import main as cli
from ort_ops.inspection import doctor
from ort_ops.installation import requirements
from ort_ops.kernels import extensions as pyop
from ort_ops.native import library as native


def test_a_healthy_machine_has_no_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert "no faults" in out
    for name in ("torch", "onnx", "onnxruntime", "onnxruntime-extensions", "libmylinear_ort", "ISA in use", "baseline"):
        assert name in out
    for kernel in ("cuda", "cpp", "python", "body"):
        assert f"\n{kernel} " in out


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [kernel["name"] for kernel in found["kernels"]] == ["cuda", "cpp", "python", "body"]
    assert found["library"]["isa"] in found["library"]["usable_isas"]
    assert found["faults"] == []


def test_a_missing_library_is_a_fault_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "_directories", lambda: [])
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fault    the cpp kernel is not available" in out
    assert "install a C++17 compiler" in out


def test_a_library_that_does_not_load_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, __file__)
    assert cli.main(["doctor"]) == 1
    assert "does not load" in capsys.readouterr().out


def test_an_unknown_isa_is_a_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(native.ISA_VARIABLE, "mmx")
    assert cli.main(["doctor", "--json"]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert "MYLINEAR_ISA must be one of" in fault["remedy"]
    assert "got mmx; correct or unset MYLINEAR_ISA" in fault["remedy"]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str | None]], None]:
    """Make distributions be of other versions; None for one that is not installed."""
    real = requirements.metadata.version

    def install(versions: dict[str, str | None]) -> None:
        def version(name: str) -> str:
            found = versions[name] if name in versions else real(name)
            if found is None:
                raise requirements.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(requirements.metadata, "version", version)

    return install


@pytest.mark.parametrize(
    ("versions", "what", "remedy"),
    [
        ({"onnx": None}, "onnx is not installed", "pip install 'onnx>=1.19'"),
        ({"onnx": "1.18.0"}, "onnx 1.18.0 is older than 1.19", "pip install -U 'onnx>=1.19'"),
        ({"ml_dtypes": None}, "ml_dtypes is not installed", "pip install 'ml_dtypes>=0.5'"),
        ({"numpy": "1.24.4"}, "numpy 1.24.4 is older than 1.26", "pip install -U 'numpy>=1.26'"),
        ({"onnxscript": "0.6.2"}, "onnxscript 0.6.2 is older than 0.7", "pip install -U 'onnxscript>=0.7'"),
        ({"onnxruntime": "1.16.3"}, "onnxruntime 1.16.3 is older than 1.17.3", "pip install -U 'onnxruntime>=1.17.3'"),
        (
            {"onnxruntime-gpu": "1.31.1"},
            "onnxruntime and onnxruntime-gpu overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        ),
        ({"onnxscript": None}, "only torch of torch and onnxscript is here", "pip install '.[export]'"),
        ({"ort-mylinear": None}, "ort-mylinear itself is not installed, so that no version can be checked", "pip inst"),
    ],
    ids=str,
)
def test_packages(
    versions: dict[str, str | None], what: str, remedy: str, pretend: Callable[[dict[str, str | None]], None]
) -> None:
    pretend(versions)
    (fault,) = doctor.diagnose().faults
    assert fault.what == what
    assert fault.remedy.startswith(remedy)


@pytest.mark.parametrize(
    "versions",
    [
        {"onnxruntime": None, "onnxruntime-gpu": "1.31.1"},
        {"onnxruntime": "1.24rc1"},
        {"onnx": "a build of my own"},
        {"onnxruntime-extensions": None},  # the C++ library runs the Python kernel
        {"torch": None, "onnxscript": None},
    ],
    ids=str,
)
def test_no_fault(versions: dict[str, str | None], pretend: Callable[[dict[str, str | None]], None]) -> None:
    pretend(versions)
    assert doctor.diagnose().faults == []


BROKEN = {
    "numpy is not installed": "sys.modules['numpy'] = None",
    "onnxruntime is not installed": "sys.modules['onnxruntime'] = None",
    "onnxruntime is not whole": "sys.modules['onnxruntime'] = types.ModuleType('onnxruntime')",
    "onnxruntime 1.16.3 is older": "import onnxruntime; onnxruntime.__version__ = '1.16.3'",
    "numpy 1.24.4 is older than 1.26": "import numpy; numpy.__version__ = '1.24.4'",
    "numpy does not import: DLL load failed": "sys.meta_path.insert(0, Broken())",
    "packaging is not installed": "sys.modules['packaging'] = None",
    "onnx is not installed": "sys.modules['onnx'] = None",
    "ml_dtypes is not installed": "sys.modules['ml_dtypes'] = None",
}
_PROLOGUE = """
import sys, types
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            raise ImportError("DLL load failed\\nand pages of advice")
"""


@pytest.mark.parametrize(("what", "damage"), BROKEN.items(), ids=list(BROKEN))
def test_doctor_speaks_where_nothing_else_can(what: str, damage: str) -> None:
    code = f"{_PROLOGUE}\n{damage}\nfrom ort_ops.cli import main as cli\nsys.exit(cli.main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"fault    {what}" in done.stdout
    assert done.stdout.count("remedy ") == done.stdout.count("fault ") == 1


@pytest.mark.parametrize(
    "use", ["import ort_ops; ort_ops.InferenceSession", "import exporter; exporter.verify"], ids=str
)
@pytest.mark.parametrize(("module", "oldest"), [("onnxruntime", "1.17"), ("onnx", "1.19")])
def test_an_unusable_runtime_is_one_sentence_for_python_callers(module: str, oldest: str, use: str) -> None:
    code = f"import sys; sys.modules['{module}'] = None\n{use}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"{requirements.__name__}.RequirementError: {module} is not installed; pip install '{module}>={oldest}'"
    )


def test_a_command_says_in_one_line_that_the_runtime_is_missing() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from ort_ops.cli.main import main\nsys.exit(main(['inspect', 'm']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mylinear: onnxruntime is not installed; pip install 'onnxruntime>=1.17'\n"


def test_the_lowest_versions_in_the_code_are_those_of_the_metadata() -> None:
    stated = {requirement.name: str(requirement.specifier) for requirement in requirements._requirements()}
    for name, oldest in (requirements.OLDEST | requirements.OLDEST_OF_OTHERS).items():
        assert stated[name].startswith(f">={'.'.join(map(str, oldest))}")


def test_the_newest_of_two_builds_is_used_and_the_other_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Path(native.library_path())
    folders = [tmp_path / "old", tmp_path / "new"]
    for age, folder in zip((100, 0), folders, strict=True):
        folder.mkdir()
        (folder / library.name).write_bytes(library.read_bytes())
        os.utime(folder / library.name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(native, "_directories", lambda: folders)
    assert native.library_path() == str(folders[1] / library.name)
    assert native.unused_builds() == []  # the same bytes
    with open(folders[0] / library.name, "ab") as file:
        file.write(b"another build")
    os.utime(folders[0] / library.name, (1e9 - 100, 1e9 - 100))
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"remedy   remove {folders[0] / library.name}, or set MYLINEAR_LIBRARY" in out


def test_extensions_missing_is_a_fault_of_the_python_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")
    monkeypatch.setattr(pyop, "_PACKAGE", "no_such_package")
    _, fault = doctor.diagnose().faults  # the first is the missing library
    assert fault.what == "the python kernel is not available"
    assert "pip install onnxruntime-extensions" in fault.remedy


def test_extensions_are_not_advised_where_they_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")
    monkeypatch.setattr(pyop, "_PACKAGE", "no_such_package")
    monkeypatch.setattr(requirements, "is_wanted", lambda name: False)
    _, fault = doctor.diagnose().faults
    assert "pip install onnxruntime-extensions" not in fault.remedy
    assert "has no wheel for Python" in fault.remedy
