"""Outputs: regular files are replaced whole, and nothing else is ever replaced.

Long because each test is one kind of target, from a link to a full disk, with the same checks behind.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import exporter
from ort_ops.cli import main as cli
from ort_ops.files import temporaries
from ort_ops.files.atomic import (
    OutputError,
    check_output,
    make_folder,
    open_atomically,
    summary_stream,
    temporary_folder,
    write_atomically,
)
from ort_ops.rewrite.files import read_model, write_model
from ort_ops.rewrite.rewrite import adopt, lower
from tests.linear_model import make_linear_model

OLD, NEW = b"old", b"new content"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "linear.onnx"
    onnx.save(make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0])), path)
    return path


@contextmanager
def read_from(fifo: Path) -> Iterator[list[bytes]]:
    """Read a FIFO in a thread for as long as the block takes; what came is in the list afterwards."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    yield found
    reader.join(timeout=30)
    assert not reader.is_alive()


def _export(path: str | Path) -> None:
    exporter.export(exporter.MyLinear(2, 1), torch.rand(2, 2), path, engine="torchscript")


def _write_and_fail(path: Path) -> None:
    with open_atomically(path) as temporary, temporary_folder(beside=temporary) as folder:
        temporary.write_bytes(NEW)
        (folder / "part").write_bytes(NEW)
        raise KeyboardInterrupt


PYTHON_WRITERS: dict[str, Callable[[Path, str | Path], object]] = {
    "write_atomically": lambda model, path: write_atomically(path, NEW),
    "adopt": adopt,
    "lower": lower,
    "export": lambda model, path: _export(path),
}


@pytest.mark.parametrize("writer", PYTHON_WRITERS)
def test_a_device_is_written_to_and_stays(writer: str, model: Path, tmp_path: Path) -> None:
    node = tmp_path / "null"
    try:
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    PYTHON_WRITERS[writer](model, node)
    assert stat.S_ISCHR(node.stat().st_mode)
    assert node.stat().st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize("writer", PYTHON_WRITERS)
def test_a_fifo_is_written_to_and_stays(writer: str, model: Path, tmp_path: Path) -> None:
    fifo, file = tmp_path / "fifo", tmp_path / "file"
    os.mkfifo(fifo)
    with read_from(fifo) as found:
        PYTHON_WRITERS[writer](model, fifo)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    PYTHON_WRITERS[writer](model, file)
    assert len(found[0]) == file.stat().st_size


@pytest.mark.parametrize("option", ["--json", "--junit", "--html"])
def test_reports_of_verify_replace_no_fifo(option: str, model: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with read_from(fifo) as found:
        assert cli.main(["verify", str(model), "--compile", "none", "--batch-size", "1", option, str(fifo)]) == 0
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert b"eager" in found[0]


@pytest.mark.parametrize("name", ["y.csv", "y.npy"])
def test_predictions_replace_no_fifo(name: str, model: Path, tmp_path: Path) -> None:
    fifo = tmp_path / name
    os.mkfifo(fifo)
    with read_from(fifo) as found:
        assert cli.main(["run", str(model), "--input", "3,2", "--output", str(fifo)]) == 0
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert b"16.0" in found[0] if name == "y.csv" else found[0].startswith(b"\x93NUMPY")


def test_a_fifo_without_a_reader_says_that_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()  # capfd would empty its file while the other thread writes to it
    monkeypatch.setattr(sys, "stderr", said)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=write_atomically, args=(fifo, NEW))
    writer.start()
    while not said.getvalue().endswith("\n"):
        time.sleep(0.001)
    assert said.getvalue() == f"mylinear: waiting for a reader of '{fifo}'\n"
    assert fifo.read_bytes() == NEW
    writer.join()


def test_failed_work_writes_nothing_into_a_stream(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with read_from(fifo) as found, pytest.raises(KeyboardInterrupt):
        _write_and_fail(fifo)
    assert found == [b""]


def test_sockets_and_block_devices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(OutputError, match="it is a socket; name a file"):
            write_atomically(path, NEW)
        with pytest.raises(OutputError, match="it is a socket"):
            check_output(path)
    node = tmp_path / "loop"
    try:
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(7, 99))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    with pytest.raises(OutputError, match="it is a block device"):
        write_atomically(node, NEW)
    assert stat.S_ISBLK(node.stat().st_mode)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link, second = tmp_path / "folder" / "file", tmp_path / "link", tmp_path / "second"
    link.symlink_to("folder/file")
    second.symlink_to(link)
    write_atomically(second, NEW)  # the file is made where the link points
    assert target.read_bytes() == NEW
    target.write_bytes(OLD)
    write_atomically(second, NEW)
    assert (link.is_symlink(), second.is_symlink(), target.read_bytes()) == (True, True, NEW)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "link", "second"]


def test_links_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    circle, dangling = tmp_path / "circle", tmp_path / "dangling"
    circle.symlink_to(circle)
    dangling.symlink_to("missing/file")
    with pytest.raises(OutputError, match="its symbolic links go round in a circle"):
        write_atomically(circle, NEW)
    with pytest.raises(OutputError, match=r"there is no folder '.*/missing'; make it first"):
        write_atomically(dangling, NEW)
    assert circle.is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_mode_and_owner_are_kept_from_the_first_byte(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
    before = path.stat()
    with open_atomically(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == mode
        temporary.write_bytes(NEW)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert path.read_bytes() == NEW


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", NEW)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_one_may_not_write_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write to everything
    with pytest.raises(OutputError, match="the file is read-only; name a file and a folder that you may write to"):
        write_atomically(path, NEW)
    assert path.read_bytes() == OLD


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the output path is empty; name a file"),
        (".", "Is a directory; name a file, not a folder"),
        ("folder", "Is a directory; name a file, not a folder"),
        ("folder/new/", "Is a directory; name a file, not a folder"),
        ("missing/file", "there is no folder 'missing'; make it first"),
        ("file/file", "a part of the path is a file, not a folder"),
        ("n\0ul", "has a character that no file's name can have"),
        ("\ud800", "has a character that no file's name can have"),
        ("x" * 300, "File name too long; name a shorter one"),
    ],
)
def test_paths_that_cannot_be_written(
    path: str, message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    for refused in (*PYTHON_WRITERS.values(), lambda model, path: check_output(path)):
        with pytest.raises(OutputError, match=message):
            refused(model, path)
    assert sorted(os.listdir()) == ["file", "folder", "linear.onnx"]


def test_names_of_any_length_and_bytes(tmp_path: Path) -> None:
    for name in ("x" * 255, os.fsdecode(b"\xff\xfe.onnx"), "ü" * 127, "a b\n\x1b[31m"):
        write_atomically(tmp_path / name, NEW)
        assert (tmp_path / name).read_bytes() == NEW
        (tmp_path / name).unlink()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    action = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="File too large; write elsewhere"):
            write_atomically(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)
    assert path.read_bytes() == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_device_is_an_error_in_one_line(tmp_path: Path) -> None:
    node = tmp_path / "full"
    try:
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    with pytest.raises(OutputError, match="No space left on device; free some space") as caught:
        write_atomically(node, bytes(100_000))
    assert caught.value.__cause__.errno == errno.ENOSPC  # type: ignore[union-attr]
    assert stat.S_ISCHR(node.stat().st_mode)


@pytest.mark.parametrize("target", ["-", "link", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("is_file", [False, True])
def test_a_model_goes_to_standard_output_alone(target: str, is_file: bool, model: Path, tmp_path: Path) -> None:
    if target == "link":  # as /dev/stdout is one, which no test should touch
        (tmp_path / "link").symlink_to("/proc/self/fd/1")
        target = str(tmp_path / "link")
    command = [sys.executable, "-m", "ort_ops.cli", "lower", str(model), target]
    root = Path(exporter.__file__).parents[1]
    if is_file:
        with (tmp_path / "out").open("wb") as out:
            out.write(b"before")
            out.flush()
            done = subprocess.run(command, cwd=root, stdout=out, stderr=subprocess.PIPE, check=True)
        content = (tmp_path / "out").read_bytes()
        assert content.startswith(b"before"), "the descriptor is written to as it stands"
        content = content.removeprefix(b"before")
    else:
        done = subprocess.run(command, cwd=root, capture_output=True, check=True)
        content = done.stdout
    onnx.checker.check_model(onnx.load_model_from_string(content))
    assert b"1 rewritten" in done.stderr


def test_the_summary_makes_way_for_the_output() -> None:
    assert summary_stream("model.onnx") is sys.stdout
    assert summary_stream("model.onnx", "-") is sys.stderr
    assert summary_stream("/dev/stdout") is sys.stderr
    assert summary_stream(Path("-")) is sys.stdout, "a Path is a file's, whatever its name"


def test_weights_beside_a_model_need_a_regular_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("else.onnx")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(OutputError, match="must be a regular file, and no symbolic link"):
            write_model(read_model(model).load(), tmp_path / name, external=True)
    write_model(read_model(model).load(), tmp_path / "out.onnx", external=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != "") == ["linear.onnx", "out.onnx", "out.onnx.data"]


def test_an_empty_folder_path_is_refused() -> None:
    with pytest.raises(OutputError, match="the path of the output folder is empty"):
        make_folder("")


def test_temporaries_are_removed_however_the_block_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _write_and_fail(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_what_the_block_cannot_remove_is_removed_by_remove_all(tmp_path: Path) -> None:
    blocks = [open_atomically(tmp_path / "file"), temporary_folder(beside=tmp_path / "file")]
    paths = [block.__enter__() for block in blocks]
    (paths[1] / "part").write_bytes(NEW)
    child = os.fork()
    if child == 0:
        temporaries.remove_all()
        os._exit(0)
    os.waitpid(child, 0)
    assert all(path.exists() for path in paths), "a forked child has no say"
    temporaries.remove_all()
    assert not list(tmp_path.iterdir())
    for block in reversed(blocks):
        assert not block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
