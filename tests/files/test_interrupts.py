"""SIGINT, SIGTERM and SIGHUP end a command with status 128 + signal, at any moment, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import exporter
from ort_ops.cli import main as cli
from tests.linear_model import make_linear_model

MYLINEAR = Path(sys.executable).with_name("mylinear")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

WORK = """
import os, signal, sys
from pathlib import Path
import exporter
from ort_ops.cli import main as cli
from ort_ops.files.atomic import open_atomically, temporary_folder

def interrupt():
    os.kill(os.getpid(), {number})

def work(arguments):
    with open_atomically("out") as temporary, temporary_folder(beside="out") as folder:
        temporary.write_text("half")
        (folder / "part").write_text("half")
{body}
    return 0

cli._work = work
sys.exit(cli.main())
"""


def run_work(body: str, number: int, folder: Path, *, ignored: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command whose work is ``body``; what else the folder has afterwards is left over."""
    script = folder / "work.py"
    script.write_text(WORK.format(number=number, body=textwrap.indent(textwrap.dedent(body), " " * 8)))
    previous = None if ignored is None else signal.signal(ignored, signal.SIG_IGN)
    try:
        return subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, check=False)
    finally:
        if ignored is not None:
            signal.signal(ignored, previous)


BODIES = {
    "at work": "interrupt()",
    "while a module is imported that catches everything": """
        Path("victim.py").write_text("import __main__\\ntry:\\n __main__.interrupt()\\nexcept BaseException:\\n pass")
        import victim
    """,
    "in a destructor, where Python drops it": """
        class Victim:
            def __del__(self):
                interrupt()
        victim = Victim()
        del victim
    """,
    "where another error is made of it": """
        try:
            interrupt()
        except BaseException as error:
            raise ValueError("something else") from error
    """,
    "where it is caught and the work goes on": """
        try:
            interrupt()
        except BaseException:
            pass
    """,
    "twice, while the first one cleans up": """
        try:
            interrupt()
        finally:
            interrupt()
    """,
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("body", BODIES)
def test_a_signal_ends_the_command(body: str, number: int, tmp_path: Path) -> None:
    done = run_work(BODIES[body], number, tmp_path)
    assert done.returncode == 128 + number
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert done.stderr == f"mylinear: interrupted{name}\n"
    left = {path.name for path in tmp_path.iterdir()} - {"work.py", "victim.py", "__pycache__"}
    assert left <= ({"out"} if "goes on" in body else set())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_when_the_work_is_done_changes_nothing(number: int, tmp_path: Path) -> None:
    done = run_work("import atexit; atexit.register(interrupt)", number, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_text() == "half"


@pytest.mark.parametrize("number", SIGNALS)
def test_what_the_shell_ignores_for_its_jobs_stays_ignored(number: int, tmp_path: Path) -> None:
    done = run_work("interrupt()", number, tmp_path, ignored=number)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_in_a_process_of_others_gives_the_handlers_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in SIGNALS], sys.unraisablehook
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert ([signal.getsignal(number) for number in SIGNALS], sys.unraisablehook) == before


def test_handlers_are_in_force_before_what_takes_time_to_import() -> None:
    folder = str(Path(exporter.__file__).parents[1])
    code = (
        f"import __future__, atexit, os, signal, sys; sys.path.insert(0, {folder!r}); "
        "before = {*sys.modules}; import ort_ops.cli.main; print(*{*sys.modules} - before)"
    )
    # Without `site`, which imports more or less, depending on how the package is installed.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if not name.startswith(("ort_ops", "exporter"))]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    onnx.save(make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0])), folder / "m.onnx")
    (folder / "rows.csv").write_text("1,2\n" * 200_000)
    return folder


COMMANDS = {
    "adopt": ["adopt", "m.onnx", "out.onnx"],
    "run": ["run", "m.onnx", "--input", "rows.csv", "--output", "y.csv"],
    "export": ["export", "mylinear-train/checkpoint.pt", "out.onnx"],
    "train": ["train", "linear", "--epochs", "60", "--output", "trained"],
}


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Wait until the process handles SIGTERM: before the first line of ours, Python itself ends as it likes."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return


def interrupt_after(delay_s: float, command: list[str], number: int, folder: Path) -> None:
    """Start the command, send it the signal, and check how it ends."""
    before = {path.name for path in folder.iterdir()}
    with subprocess.Popen(
        [MYLINEAR, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_handlers(process)
        time.sleep(delay_s)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 128 + number), err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert process.returncode == 0 or "mylinear: interrupted" in err
    left = {path.name for path in folder.iterdir()} - before
    assert not [name for name in left if name.startswith(".")]
    for name in left - {"trained"}:
        assert process.returncode == 0 or (folder / name).stat().st_size > 0
        (folder / name).unlink()
    shutil.rmtree(folder / "trained", ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2])
def test_a_signal_while_adopt_starts(delay_s: float, number: int, inputs: Path) -> None:
    interrupt_after(delay_s, COMMANDS["adopt"], number, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_any_moment(name: str, inputs: Path) -> None:
    subprocess.run([MYLINEAR, "train", "linear", "--epochs", "5"], cwd=inputs, check=True, capture_output=True)
    started = time.monotonic()
    subprocess.run([MYLINEAR, *COMMANDS[name]], cwd=inputs, check=True, capture_output=True)
    total_s = time.monotonic() - started
    for step in range(40):
        for number in (signal.SIGINT, signal.SIGTERM):
            interrupt_after(1.05 * total_s * step / 39, COMMANDS[name], number, inputs)
    for leftover in ("out.onnx", "y.csv"):
        (inputs / leftover).unlink(missing_ok=True)
    assert os.listdir(inputs)
