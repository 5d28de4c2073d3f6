"""`mylinear doctor`: a healthy machine has no faults; each fault comes with a remedy."""

from __future__ import annotations

import json

import pytest

from exporter import cli
from ort_ops import doctor, native, pyop


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


@pytest.mark.parametrize(
    ("versions", "what", "remedy"),
    [
        ({"onnx": None}, "onnx is not installed", "pip install onnx"),
        ({"onnxruntime": "1.16.3"}, "onnxruntime 1.16.3 is older than 1.17", "pip install -U onnxruntime"),
        ({"onnxruntime-gpu": "1.31.1"}, "onnxruntime and onnxruntime-gpu overwrite each other", "pip uninstall"),
        ({"onnxscript": None}, "only torch of torch and onnxscript is here", "pip install 'ort-mylinear[export]'"),
    ],
    ids=str,
)
def test_packages(versions: dict[str, str | None], what: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else real(name))
    (fault,) = doctor.diagnose().faults
    assert fault.what == what
    assert fault.remedy.startswith(remedy)


def test_gpu_runtime_alone_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    versions = {"onnxruntime": None, "onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else real(name))
    assert doctor.diagnose().faults == []


def test_extensions_missing_is_a_fault_of_the_python_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")
    monkeypatch.setattr(pyop, "_PACKAGE", "no_such_package")
    _, fault = doctor.diagnose().faults  # the first is the missing library
    assert fault.what == "the python kernel is not available"
    assert "pip install onnxruntime-extensions" in fault.remedy
