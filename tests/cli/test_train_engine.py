"""`mylinear train --engine onnxruntime`, as a user types it."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.training import run as training_run
from exporter.training.checkpoints.checkpoint import load_checkpoint
from ort_ops.cli import main as cli
from tests.training.support import exported_once

__all__ = ["exported_once"]

TABLE = "rows.csv --target y --epochs 3 --hidden 3 --batch-size 9"


def run(line: str) -> int:
    return cli.main(["train", *shlex.split(line)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder with a data file."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 2))
    Path("rows.csv").write_text("\n".join(["a,b,y", *(f"{a!r},{b!r},{3 * a - b!r}" for a, b in x.tolist())]))


@pytest.mark.long
def test_a_csv_is_learned_and_after_ctrl_c_the_resume_goes_on_in_the_same_engine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(f"{TABLE} --engine onnxruntime --output whole") == 0
    assert "engine    onnxruntime 1." in capsys.readouterr().out
    validate = training_run.Run._validate

    def interrupted(self: training_run.Run) -> tuple[float | None, float | None]:
        if self.epoch == 2:
            raise KeyboardInterrupt
        return validate(self)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.Run, "_validate", interrupted)
        assert run(f"{TABLE} --engine onnxruntime --output parts") == 130
    line = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("go on with: mylinear train ")
    assert line == "--data rows.csv --target y --epochs 3 --output parts --resume"
    assert run(line) == 0
    out = capsys.readouterr().out
    assert "engine    onnxruntime" in out
    assert "resuming  after epoch 2 of 3\n" in out
    whole, parts = (load_checkpoint(f"{name}/checkpoint.pt") for name in ("whole", "parts"))
    assert parts.options.engine == "onnxruntime"
    assert all(torch.equal(value, parts.network_state[name]) for name, value in whole.network_state.items())
    assert Path("whole/loss.csv").read_bytes() == Path("parts/loss.csv").read_bytes()
    # The other engine is taken if it is asked for, and this is said.
    assert run("rows.csv --target y --epochs 4 --output whole --resume --engine torch") == 0
    out = capsys.readouterr().out
    assert "resuming  after epoch 3 of 4, which onnxruntime trained\n" in out
    assert "engine    onnxruntime" not in out
    assert load_checkpoint("whole/checkpoint.pt").options.engine == "torch"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--device cuda", "engine onnxruntime trains on the CPU, got device cuda; use device cpu, or engine torch"),
        ("--dtype bfloat16", "engine onnxruntime cannot train in bfloat16, for which it has no kernels on the CPU; "),
    ],
)
def test_what_onnxruntime_cannot_do_is_one_line_before_anything_is_written(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{TABLE} --engine onnxruntime {line}") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("mylinear-train").exists()
