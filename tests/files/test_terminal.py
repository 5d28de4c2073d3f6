"""What is printed: it steers no terminal, and where it cannot be written that is one line and a status."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops.cli import main as cli
from ort_ops.console.terminal import GuardedStream, guarded_streams, one_line, printable
from ort_ops.files.atomic import OutputError
from tests.linear_model import make_linear_model

MYLINEAR = Path(sys.executable).with_name("mylinear")
ATTACK = "n\x1b]0;owned\x07\x9b31m\r\u202e\ufffe"
SHOWN = "n\\x1b]0;owned\\x07\\x9b31m\\r\\u202e\\ufffe"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0])), path)
    return path


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A device that is always full, of our own."""
    node = tmp_path / "full"
    try:
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    return node


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``mylinear`` is the command."""
    line = f"set -o pipefail; mylinear() {{ '{MYLINEAR}' \"$@\"; }}; {line}"
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False)


def test_names_are_shown_on_one_line_and_steer_nothing() -> None:
    assert printable(ATTACK) == SHOWN
    assert printable("a\tb\nc") == "a\\tb\\nc"
    assert printable("größe, 重み, \U0001f600") == "größe, 重み, \U0001f600"
    assert printable(os.fsdecode(b"\xff.onnx")) == "\\udcff.onnx"
    assert one_line(f"{ATTACK} is damaged:\n   it\n\n ends") == f"{SHOWN} is damaged: it ends"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_stream_takes_any_text_in_any_encoding(encoding: str) -> None:
    raw = io.BytesIO()
    stream = GuardedStream(io.TextIOWrapper(raw, encoding=encoding, write_through=True), lambda error: None)
    stream.writelines(["größe 重み\t1\n", ATTACK, "\udcff"])
    shown = raw.getvalue().decode(encoding)
    assert shown.isprintable() or set(shown) & {"\t", "\n"}
    assert shown.endswith(f"\t1\n{SHOWN}\\udcff")
    assert ("größe" in shown) == (encoding != "ascii")


@pytest.mark.parametrize("command", [["inspect", "m.onnx"], ["lower", "m.onnx", "out.onnx"]], ids=" ".join)
def test_no_command_prints_a_models_names_raw(
    command: list[str], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    proto = onnx.load(model)
    name = ATTACK.removesuffix("\ufffe")
    proto.graph.node[0].name = proto.graph.output[0].name = proto.graph.node[0].output[0] = name
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name + "dim"
    proto.opset_import.add(domain=name + "domain", version=1)
    onnx.save(proto, model)
    cli.main(command)
    shown = "".join(capsys.readouterr())
    assert (SHOWN.removesuffix("\\ufffe") in shown) == (command[0] == "inspect")
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\r", "\u202e"}


def test_an_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", f"x\n{ATTACK}.onnx"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mylinear: ")
    assert error.count("\n") == 1
    assert "\x1b" not in error


def test_a_full_stdout_is_one_line_and_status_2(full: Path, model: Path) -> None:
    message = "mylinear: standard output cannot be written: No space left on device; send it elsewhere"
    for command in ("--help", "inspect m.onnx", "inspect m.onnx --json", "lower m.onnx out.onnx", "run --help"):
        done = shell(f"mylinear {command} > full", model.parent)
        assert (done.returncode, done.stderr) == (2, f"{message}\n"), command


def test_a_closed_stdout_is_one_line_and_status_2(model: Path) -> None:
    for command in ("run m.onnx --input 3,2", "train linear", "--help"):
        done = shell(f"mylinear {command} >&-", model.parent)
        said = "mylinear: standard output is closed; write `> /dev/null` to do without it\n"
        assert (done.returncode, done.stderr) == (2, said), command
    assert not model.with_name("mylinear-train").exists()


def test_a_reader_that_goes_away_ends_the_command_quietly(model: Path) -> None:
    np.save(model.with_name("rows.npy"), np.zeros((200_000, 2)))
    done = shell("mylinear run m.onnx --input rows.npy | head -n 2", model.parent)
    assert (done.returncode, done.stdout) == (141, "y\n4.0\n")
    assert not any(word in done.stderr for word in ("Traceback", "Exception", "Errno"))
    done = shell("mylinear inspect m.onnx | true; echo ${PIPESTATUS[0]}", model.parent)
    assert done.stdout in ("0\n", "141\n")
    assert done.stderr == ""


@pytest.mark.parametrize("where", ["2>&-", "2> full", "2> >(true)"])
def test_a_stderr_that_takes_nothing_changes_no_result(where: str, full: Path, model: Path) -> None:
    np.save(model.with_name("rows.npy"), np.zeros((3000, 2)))
    done = shell(f"mylinear run m.onnx --input rows.npy --output y.npy {where}", model.parent)
    assert done.returncode == 0
    assert np.load(model.with_name("y.npy")).shape == (3000, 1)
    done = shell(f"mylinear run missing.onnx --input 1,2 {where}", model.parent)
    assert done.returncode == 2


def test_closed_descriptors_are_kept_from_files(model: Path) -> None:
    done = shell("mylinear run m.onnx --input 3,2 --output y.csv <&- 2>&-", model.parent)
    assert done.returncode == 0
    assert model.with_name("y.csv").read_text() == "y\n16.0\n"


def test_streams_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout, sys.stderr
    with guarded_streams():
        assert isinstance(sys.stdout, GuardedStream)
    assert (sys.stdout, sys.stderr) == before
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"), guarded_streams():
        raise AssertionError
    assert sys.stdout is None


@pytest.mark.parametrize("setting", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_names_of_any_bytes_in_any_locale(setting: dict[str, str], model: Path) -> None:
    name = os.fsdecode("größe-\udcff.onnx".encode("utf-8", "surrogateescape"))
    (model.parent / name).write_bytes(model.read_bytes())
    environment = {"PATH": os.environ["PATH"], **{key: value for key, value in setting.items() if value}}
    for command in (["lower", name, f"out-{name}"], ["run", f"no-{name}", "--input", "1,2"]):
        done = subprocess.run([MYLINEAR, *command], cwd=model.parent, env=environment, capture_output=True, check=False)
        assert done.returncode == (2 if "run" in command else 0), done.stderr
        assert b"Traceback" not in done.stderr
    assert (model.parent / f"out-{name}").exists()
