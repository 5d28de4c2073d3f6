"""Two trainings in one folder: the second is told who has it; the end of a process, however it ends, gives it back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import train
from exporter.training.options import TrainingOptions
from ort_ops.files import folder_lock
from ort_ops.files.folder_lock import LOCK_NAME, FolderInUseError, lock_folder

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
_HOLD = """
import sys, time
from pathlib import Path
from ort_ops.files.folder_lock import lock_folder
with lock_folder(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_training_is_told_who_has_the_folder_and_changes_nothing(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    pattern = rf"'.*' is in use by another training: process {holder.pid} on .+ since \d{{4}}-\d\d-\d\dT.*; wait for"
    options = TrainingOptions(epochs=1, hidden=(), device="cpu", standardize=False)
    with pytest.raises(FolderInUseError, match=pattern):
        train(LinearExample(), options, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_a_process_that_was_killed_has_nothing_locked(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_NAME).exists()
    with lock_folder(tmp_path, "training"):
        assert str(os.getpid()) in (tmp_path / LOCK_NAME).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_thread_may_take_its_folder_again_and_another_may_not(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def take() -> None:
        try:
            with lock_folder(tmp_path, "training"):
                pass
        except FolderInUseError as error:
            errors.append(error)

    with lock_folder(tmp_path, "training"):
        with lock_folder(tmp_path, "training"):
            pass
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        assert (tmp_path / LOCK_NAME).exists()
    assert len(errors) == 1
    take()
    assert len(errors) == 1


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = folder_lock.fcntl.flock, []

    def remove_first(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / LOCK_NAME).unlink()  # as the holder does at its end
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(folder_lock.fcntl, "flock", remove_first)
    with lock_folder(tmp_path, "training"), pytest.raises(FolderInUseError):
        folder_lock._acquire(tmp_path / LOCK_NAME, "training")
    assert len(calls) == 3


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": "x", "host": 1, "since": 2}'])
def test_a_holder_that_has_not_said_who_it_is_is_another_process(tmp_path: Path, content: str) -> None:
    with lock_folder(tmp_path, "training"):
        (tmp_path / LOCK_NAME).write_text(content)
        with pytest.raises(FolderInUseError, match="another training: another process"):
            folder_lock._acquire(tmp_path / LOCK_NAME, "training")


@pytest.mark.slow
def test_of_many_processes_one_has_the_folder_at_a_time(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from ort_ops.files.folder_lock import FolderInUseError, lock_folder
folder, end, taken = Path(sys.argv[1]), time.monotonic() + 3, 0
while time.monotonic() < end:
    try:
        with lock_folder(folder, "training"):
            descriptor = os.open(folder.parent / "alone", os.O_CREAT | os.O_EXCL)
            taken += 1
            os.close(descriptor)
            os.unlink(folder.parent / "alone")
    except FolderInUseError:
        pass
print(taken)
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(folder)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(map(int, outputs)) > 10
