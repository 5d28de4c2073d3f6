"""`mylinear train`, as a user types it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.cli import train as command
from exporter.training import run as training_run
from exporter.training.checkpoints.checkpoint import CheckpointError, load_checkpoint
from exporter.training.data.dataset import DataError
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import TrainingError
from exporter.training.options import OptionError, default_options
from ort_ops.cli import main as cli
from ort_ops.errors import MylinearError
from ort_ops.files.atomic import OutputError

ROOT = Path(__file__).parents[2]


def run(line: str) -> int:
    parser = argparse.ArgumentParser("mylinear train")
    command.add_arguments(parser)
    return command.run(parser.parse_args(shlex.split(line)))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a data file."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    rows = [f"{a!r},{b!r},{3 * a - b!r}" for a, b in x.tolist()]
    Path("rows.csv").write_text("\n".join(["a,b,y", *rows]))
    np.savez("rows.npz", x=x, y=np.where(x[:, 0] > 0, "warm", "cold"))
    return tmp_path


def test_the_linear_example_prints_the_learned_weights_beside_the_true_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("linear") == 0
    out = capsys.readouterr().out
    assert "y = 2 x0 + 3 x1 + 4" in out
    assert "network   2 -> 1, float64" in out
    assert re.search(r"learned +1\.995487 +2\.984055 +4\.009539\ntrue +2 +3 +4\nlargest error 0\.0159\n", out)
    assert "mylinear export mylinear-train/checkpoint.pt model.onnx" in out
    assert sorted(path.name for path in Path("mylinear-train").iterdir()) == ["checkpoint.pt", "loss.csv", "loss.png"]


def test_the_linear_example_keeps_its_old_name_and_its_old_checkpoints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as old:
        init = LinearExample.__init__
        old.setattr(init, "__defaults__", ("article", *(init.__defaults__ or ())[1:]))
        assert run("linear --epochs 20 --output old") == 0
    assert load_checkpoint("old/checkpoint.pt").data.name == "article"
    assert run("article --epochs 40 --output new") == 0
    assert load_checkpoint("new/checkpoint.pt").data.name == "linear"
    assert run("article --epochs 40 --resume --output old") == 0
    out = capsys.readouterr().out
    assert "resuming  after epoch 20 of 40" in out
    assert default_options("article") == default_options("linear")
    old_bits, new_bits = (load_checkpoint(f"{name}/checkpoint.pt").network_state for name in ("old", "new"))
    assert all(torch.equal(old_bits[name], new_bits[name]) for name in new_bits)
    assert cli.main(["export", "old/checkpoint.pt", "old.onnx", "--engine", "torchscript"]) == 0


def test_a_csv_is_learned_with_the_options_given(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--hidden 8,4 --epochs 30 --batch-size 8 --lr 0.02 --weight-decay 0 --dtype float64 --seed 4"
    assert run(f"--data rows.csv --target y {options} --device cpu --validation 0.25 --output out/deep") == 0
    checkpoint = load_checkpoint("out/deep/checkpoint.pt")
    assert checkpoint.architecture.sizes == (2, 8, 4, 1)
    given = checkpoint.options
    assert (given.epochs, given.batch_size, given.lr, given.weight_decay) == (30, 8, 0.02, 0.0)
    assert (given.dtype, given.seed, given.device, given.validation) == ("float64", 4, "cpu", 0.25)
    assert (checkpoint.data.name, checkpoint.data.feature_names) == ("rows.csv", ("a", "b"))
    assert checkpoint.metrics["validation"]["r2"] > 0.9
    out = capsys.readouterr().out
    assert "rows.csv: 60 rows, 2 features, regression" in out
    assert f"R2 {checkpoint.metrics['train']['r2']:33.4f}{checkpoint.metrics['validation']['r2']:12.4f}" in out


def test_an_npz_is_learned_as_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data rows.npz --hidden none --epochs 3 --optimizer sgd --momentum 0.5") == 0
    checkpoint = load_checkpoint("mylinear-train/checkpoint.pt")
    assert checkpoint.data.class_names == ("cold", "warm")
    assert checkpoint.architecture.hidden == ()
    assert (checkpoint.options.optimizer, checkpoint.options.momentum, checkpoint.options.lr) == ("sgd", 0.5, 0.01)
    assert "accuracy" in capsys.readouterr().out


def test_the_task_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    Path("votes.csv").write_text("a,y\n" + "".join(f"{i},{i % 3}\n" for i in range(30)))
    assert run("--data votes.csv --target y --task regression --epochs 1 --hidden none") == 0
    assert load_checkpoint("mylinear-train/checkpoint.pt").data.task == "regression"


def test_progress_goes_to_stderr_with_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    run("--data rows.csv --target y --epochs 2 --hidden none --batch-size 48")
    assert re.search(r"^training 2/2 [\d.]+ s  loss [\d.]+$", capsys.readouterr().err, re.M)


# Resuming


def test_a_resume_takes_its_options_from_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    run("--data rows.csv --target y --epochs 4 --hidden 3 --lr 0.05 --output whole")
    run("--data rows.csv --target y --epochs 2 --hidden 3 --lr 0.05 --output parts")
    assert run("--data rows.csv --target y --epochs 4 --resume --output parts") == 0
    assert "resuming  after epoch 2 of 4" in capsys.readouterr().out
    assert Path("parts/loss.csv").read_bytes() == Path("whole/loss.csv").read_bytes()


def test_a_resume_is_refused_where_there_is_nothing_or_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint 'mylinear-train/checkpoint\.pt'"):
        run("--data rows.csv --target y --resume")
    run("--data rows.csv --target y --epochs 1 --hidden 3")
    with pytest.raises(CheckpointError, match="nothing to resume: 1 epochs are done"):
        run("--data rows.csv --target y --resume")
    with pytest.raises(CheckpointError, match="hidden was 3 and is 4,4"):
        run("--data rows.csv --target y --resume --epochs 2 --hidden 4,4")
    with pytest.raises(CheckpointError, match="cannot resume: the task of the data"):
        run("digits --resume --epochs 2")


# Ctrl-C


def interrupt_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    validate = training_run.Run._validate

    def interrupted(self: training_run.Run) -> tuple[float | None, float | None]:
        if self.epoch == epochs:
            raise KeyboardInterrupt
        return validate(self)

    monkeypatch.setattr(training_run.Run, "_validate", interrupted)


def test_an_interrupt_says_where_the_checkpoint_is_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my rows.csv").write_bytes(Path("rows.csv").read_bytes())
    run("--data rows.csv --target y --epochs 5 --hidden 3 --output whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert run("--data 'my rows.csv' --target y --epochs 5 --hidden 3 --output 'my folder'") == 130
    err = capsys.readouterr().err
    assert "mylinear: interrupted in epoch 4; the checkpoint of epoch 3 is in 'my folder/checkpoint.pt'" in err
    line = err.strip().splitlines()[-1].removeprefix("go on with: mylinear train ")
    assert line == "--data 'my rows.csv' --target y --epochs 5 --output 'my folder' --resume"
    assert run(line) == 0
    assert Path("my folder/loss.csv").read_bytes() == Path("whole/loss.csv").read_bytes()


def test_an_interrupt_before_the_first_checkpoint_promises_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 0)
    assert run("--data rows.csv --target y") == 130
    assert "there is no checkpoint of this training yet" in capsys.readouterr().err


_SCRIPT = """
import argparse, sys
from exporter.cli import train
parser = argparse.ArgumentParser()
train.add_arguments(parser)
sys.exit(train.run(parser.parse_args()))
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_real_signal_ends_the_process_with_status_130_and_no_traceback(folder: Path) -> None:
    arguments = ["--data", "rows.csv", "--target", "y", "--epochs", "1000000", "--hidden", "none"]
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell that runs its jobs in the background hands down SIGINT as ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_for(folder / "mylinear-train" / "checkpoint.pt", process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "go on with: mylinear train --data rows.csv --target y --epochs 1000000 --resume" in err
    assert load_checkpoint("mylinear-train/checkpoint.pt").epoch >= 1


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Mistakes


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("", OptionError, "say what to train on: linear, digits, diabetes, or --data FILE --target COLUMN"),
        ("digits --data rows.csv", OptionError, "two things to train on"),
        ("digits --target y", OptionError, "--target is about a file; it needs --data FILE"),
        ("linear --task regression", OptionError, "--task is about a file"),
        ("linear --hidden 4", OptionError, "--hidden does not go with linear"),
        ("linear --validation 0.1", OptionError, "--validation does not go with linear"),
        ("digits --momentum 0.5", OptionError, "--momentum is for --optimizer sgd, and this is adamw"),
        ("digits --epochs 0", OptionError, "epochs must be 1 or more, got 0"),
        ("digits --lr nan", OptionError, "lr must be a number above 0, got nan"),
        ("--data rows.csv", DataError, "the columns are a, b, y"),
        ("--data rows.csv --target z", DataError, "has no column 'z'; the columns are a, b, y"),
        ("--data none.csv --target y", DataError, "there is no data file 'none.csv'"),
        ("--data rows.npz --target y", DataError, "leave the target column out"),
        ("--data rows.csv --target y --validation 0.99", DataError, "60 rows are too few"),
        ("--data rows.csv --target y --output rows.npz", OutputError, "'rows.npz' is a file; name a folder"),
        ("--data rows.csv --target y --lr 1e9 --optimizer sgd", TrainingError, "lower the learning rate"),
    ],
)
def test_a_mistake_is_a_message_of_ours(line: str, error: type[MylinearError], message: str) -> None:
    with pytest.raises(error, match=message):
        run(line)
    assert not Path("mylinear-train/checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mnist", "argument problem: invalid choice"),
        ("digits --hidden 64,x", "argument --hidden: must be sizes such as 64,32, or none, got '64,x'"),
        ("digits --hidden 64,-1", "argument --hidden: must be sizes"),
        ("digits --epochs many", "argument --epochs: invalid int value"),
        ("digits --dtype int8", "argument --dtype: invalid choice"),
        ("digits --device tpu", "argument --device: invalid choice"),
        ("digits --optimizer adam", "argument --optimizer: invalid choice"),
    ],
)
def test_a_mistake_in_an_option_exits_with_status_2(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(line)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_help_comes_without_loading_what_only_training_needs() -> None:
    script = "import argparse, sys\nfrom exporter.cli import train\n"
    script += "parser = argparse.ArgumentParser()\ntrain.add_arguments(parser)\nparser.format_help()\n"
    script += "sys.exit(int(bool({'torch', 'onnx', 'matplotlib', 'sklearn'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
