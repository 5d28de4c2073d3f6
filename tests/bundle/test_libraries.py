"""The libraries of a bundle: which are needed, of which platform they are, and where they come from."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import ort_ops
from ort_ops.bundle import abi, libraries
from ort_ops.bundle.manifest import BundleError
from ort_ops.bundle.platforms import needed_nbytes, platforms_of, this_platform
from ort_ops.bundle.write import write_bundle
from ort_ops.native import library as native
from ort_ops.opdef import registry
from tests.bundle.support import LIBRARY, MODEL, save, smoke

HERE = this_platform()
OTHER = "linux-aarch64" if HERE != "linux-aarch64" else "linux-x86_64"
_MACHINES = {"linux-aarch64": 183, "linux-x86_64": 62}


def library_for(platform: str) -> bytes:
    """Return the installed library, said to be for another machine."""
    data = bytearray(Path(native.library_path()).read_bytes())
    data[18:20] = _MACHINES[platform].to_bytes(2, "little")
    return bytes(data)


@LIBRARY
@pytest.mark.skipif(not HERE.startswith("linux"), reason="the library here is no ELF file")
def test_libraries_of_other_platforms_come_from_files_and_wheels(tmp_path: Path) -> None:
    name = Path(native.library_path()).name
    wheel = tmp_path / f"ort_mylinear-{native.status().version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"ort_ops/{name}", library_for(OTHER))
    for given in (tmp_path / name, wheel):
        if given.suffix != ".whl":
            given.write_bytes(library_for(OTHER))
        made = write_bundle(MODEL, tmp_path / f"b{given.suffix}", libraries=[f"{OTHER}={given}"])
        assert made.manifest.platforms == (HERE, OTHER)
        assert [library.is_run for library in made.manifest.libraries] == [True, False]
        assert "did not run here; smoke_test.py proves it there" in repr(made)
        ort_ops.load_bundle(tmp_path / f"b{given.suffix}")
    with pytest.raises(BundleError, match=f"platform {OTHER} needs 'mylinear_ort', .* got none; give it by --library"):
        write_bundle(MODEL, tmp_path / "c", platforms=OTHER)
    with pytest.raises(BundleError, match=f"must be for {HERE}, got one for {OTHER}"):
        write_bundle(MODEL, tmp_path / "c", libraries=[f"{HERE}={wheel}"])
    (tmp_path / "libother.so").write_bytes(library_for(OTHER))
    with pytest.raises(BundleError, match=r"needs 'mylinear_ort', .*, got libother\.so"):
        write_bundle(MODEL, tmp_path / "c", libraries=[f"{OTHER}={tmp_path / 'libother.so'}"])
    old = wheel.rename(tmp_path / "ort_mylinear-0.0.1-py3-none-any.whl")
    with pytest.raises(BundleError, match=r"must be of version .*, got 0\.0\.1"):
        write_bundle(MODEL, tmp_path / "c", libraries=[f"{OTHER}={old}"])


@LIBRARY
@pytest.mark.skipif(not HERE.startswith("linux"), reason="the library here is no ELF file")
@pytest.mark.parametrize("nbytes", [5000, -1])
def test_a_library_that_is_cut_off_is_one_line(tmp_path: Path, nbytes: int) -> None:
    whole = Path(native.library_path()).read_bytes()
    given = tmp_path / Path(native.library_path()).name
    given.write_bytes(whole[:nbytes])
    with pytest.raises(BundleError, match=rf"is cut off: it has {len(whole[:nbytes])} bytes, and its headers tell of"):
        write_bundle(MODEL, tmp_path / "b", libraries=[f"{HERE}={given}"])
    assert not (tmp_path / "b").exists()


def pe_section(offset: int, nbytes: int) -> bytes:
    """Return the head of a library for Windows with one section."""
    head = b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0\x64\x86\x01\0" + bytes(12) + b"\x08\0" + bytes(2) + bytes(8)
    return head + bytes(16) + struct.pack("<II", nbytes, offset) + bytes(16)


def mach_segment(offset: int, nbytes: int) -> bytes:
    """Return the head of a library for macOS with one segment."""
    head = b"\xcf\xfa\xed\xfe" + struct.pack("<7I", 0x0100000C, 0, 6, 1, 72, 0, 0)
    return head + struct.pack("<II16sQQQQ", 0x19, 72, b"", 0, 0, offset, nbytes) + bytes(16)


def test_headers_tell_how_long_a_library_is() -> None:
    assert needed_nbytes(pe_section(1000, 24)) == 1024
    assert needed_nbytes(mach_segment(1000, 24)) == 1024
    assert needed_nbytes(b"text") == 0
    assert needed_nbytes(pe_section(1000, 24)[:100]) == 0
    whole = Path(np._core._multiarray_umath.__file__).read_bytes()
    assert 0 < needed_nbytes(whole[:4096]) <= len(whole)


@LIBRARY
def test_without_a_library_the_body_runs(tmp_path: Path) -> None:
    made = write_bundle(MODEL, tmp_path / "b", platforms="none")
    assert [row.kernel for row in made.manifest.parity] == ["body"]
    assert ort_ops.load_bundle(tmp_path / "b").session.kernel == "body"
    with pytest.raises(BundleError, match="has libraries for no platform"):
        ort_ops.load_bundle(tmp_path / "b", kernels="cpp")


@LIBRARY
def test_an_operator_without_a_definition_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(MODEL)
    del model.functions[:]
    monkeypatch.setattr("ort_ops.bundle.model.has_function", lambda *_: False)
    monkeypatch.setattr("ort_ops.bundle.model.attach_functions", lambda *_: None)
    path = save(model, tmp_path)
    write_bundle(path, tmp_path / "b")
    with pytest.raises(BundleError, match=r"has no definition of .* to run in place of a library"):
        ort_ops.load_bundle(tmp_path / "b", kernels="body")
    assert "without library: not run" in smoke(tmp_path / "b")[1]
    with pytest.raises(BundleError, match="runs by a library alone, and there is none for"):
        write_bundle(path, tmp_path / "c", platforms="none")


@LIBRARY
def test_the_library_says_which_onnxruntime_it_needs() -> None:
    assert abi.oldest_runtime_of(native.library_path()) == "1.17"
    assert abi.oldest_runtime_of(__file__) is None


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xcf\xfa\xed\xfe\x0c\0\0\1", ("macos-arm64",)),
        (b"\xca\xfe\xba\xbe\0\0\0\2\1\0\0\7" + bytes(16) + b"\1\0\0\x0c" + bytes(16), ("macos-x86_64", "macos-arm64")),
        (b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0\x64\x86", ("windows-x86_64",)),
        (b"MZ", ()),
        (b"\x7fELF\2\1" + bytes(12) + b"\xf3\0", ()),
        (b"", ()),
    ],
)
def test_the_platform_of_a_library_is_read(head: bytes, expected: tuple[str, ...]) -> None:
    assert platforms_of(head) == expected


def test_libraries_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    kits = [kit for kit in registry.kits() if kit.library is not None][:2]
    from dataclasses import replace

    paths = iter(["/a/one/_kernel.abi3.so", "/b/two/_kernel.abi3.so"])
    found = libraries.needed_libraries([replace(kit, library=lambda: next(paths)) for kit in kits])
    assert [library.name for library in found] == ["one._kernel", "two._kernel"]
