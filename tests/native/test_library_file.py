"""A damaged C++ library is a fault that is told; it does not end the process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ort_ops.native import library as native
from ort_ops.native.library_file import check_whole

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)
pytestmark = pytest.mark.native
if not Path(native.library_path()).read_bytes().startswith(b"\x7fELF\x02\x01"):
    pytest.skip("the library is no 64-bit ELF file", allow_module_level=True)


def doctor(library: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, native.LIBRARY_VARIABLE: str(library)}
    command = [sys.executable, "-m", "ort_ops.cli", "doctor"]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_library_that_was_cut_short_is_not_loaded(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Path(native.library_path()).read_bytes()
    path = tmp_path / "cut.so"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OSError, match=f"it was cut short: it has {path.stat().st_size} of [0-9]+ bytes"):
        check_whole(path)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(path))
    with pytest.raises(native.NativeLibraryError, match=r"does not load .*cut short.* install a C\+\+17 compiler"):
        native.library_path()


def test_a_whole_library_and_other_files_are_left_to_the_loader(tmp_path: Path) -> None:
    check_whole(native.library_path())
    for content in (b"", b"no library", b"\x7fELF" + bytes(10)):
        (tmp_path / "other.so").write_bytes(content)
        check_whole(tmp_path / "other.so")


def test_doctor_tells_of_a_library_that_was_cut_short(tmp_path: Path) -> None:
    content = Path(native.library_path()).read_bytes()
    (tmp_path / "cut.so").write_bytes(content[: len(content) // 2])
    done = doctor(tmp_path / "cut.so")
    assert done.returncode == 1, done.stderr
    assert "it was cut short" in done.stdout


def test_doctor_tells_of_a_library_whose_code_is_damaged(tmp_path: Path) -> None:
    content = bytearray(Path(native.library_path()).read_bytes())
    segments, size, count = struct.unpack_from("<32xQ14xHH", content)
    for start in range(segments, segments + size * count, size):
        kind, flags, offset = struct.unpack_from("<IIQ", content, start)
        length = struct.unpack_from("<Q", content, start + 32)[0]
        if kind == 1 and flags & 1:  # to be loaded, and executed
            content[offset : offset + length] = bytes(length)
    (tmp_path / "damaged.so").write_bytes(content)
    done = doctor(tmp_path / "damaged.so")
    assert done.returncode == 1, done.stderr
    assert "loading it ends the process by SIG" in done.stdout
