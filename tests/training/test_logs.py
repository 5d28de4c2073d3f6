"""`--log tensorboard|mlflow`: what is logged is the history, once each, also after a resume and a killed training."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, load_checkpoint
from exporter.training.data.linear_example import LinearExample
from exporter.training.history import EpochRecord
from exporter.training.logs.log import LogError, LogWarning
from exporter.training.logs.mlflow_log import RUN_NAME
from exporter.training.logs.tensorboard_log import TensorBoardLog
from exporter.training.loop import train
from exporter.training.options import OptionError, TrainingOptions
from ort_ops.cli import main as cli
from tests.training.support import interrupt_at, regression

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of SQLAlchemy
Points = Mapping[str, list[tuple[int, float]]]
OPTIONS = TrainingOptions(epochs=3, batch_size=8, hidden=(4,), optimizer="sgd", device="cpu")
STEPS_PER_EPOCH = 4  # 32 of 40 rows to train on


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def tensorboard_points(folder: Path) -> Points:
    """Return all points by name; those of epochs by their epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    points = {name: [(e.step, e.value) for e in read.Scalars(name)] for name in read.Tags()["scalars"]}
    epochs = {step: round(epoch) for step, epoch in points.pop("epoch", [])}
    return {n: p if n == "loss/step" else [(epochs[step], value) for step, value in p] for n, p in points.items()}


def mlflow_runs(folder: Path) -> tuple[Points, Mapping[str, str], Mapping[str, str], str]:
    """Return points, parameters, tags and status of the newest run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mylinear")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0]
    points = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    return points, run.data.params, run.data.tags, run.info.status


def mlflow_points(folder: Path) -> Points:
    return mlflow_runs(folder)[0]


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


needs_tensorboard = pytest.mark.skipif(not has("tensorboard"), reason="needs tensorboard")
needs_mlflow = pytest.mark.skipif(
    not has("mlflow", "sqlalchemy"), reason="needs mlflow; mlflow-skinny lacks the SQL store"
)
both = pytest.mark.parametrize(
    ("tool", "points"),
    [
        pytest.param("tensorboard", tensorboard_points, marks=needs_tensorboard, id="tensorboard"),
        pytest.param("mlflow", mlflow_points, marks=needs_mlflow, id="mlflow"),
    ],
)
Read = Callable[[Path], Points]


def check(found: Points, history: tuple[EpochRecord, ...]) -> None:
    """Check that each number of the history is there once; TensorBoard holds float32."""
    for name, wanted in {
        "loss/train": [record.train_loss for record in history],
        "loss/validation": [record.validation_loss for record in history],
        "r2/validation": [record.validation_score for record in history],
        "learning_rate": [OPTIONS.lr] * len(history),
    }.items():
        assert [epoch for epoch, _ in found[name]] == [record.epoch for record in history], name
        for (_, got), value in zip(found[name], wanted, strict=True):
            assert value is not None
            assert abs(got - value) <= abs(value) * 2.0**-24, name


@both
def test_the_log_is_the_history(tool: str, points: Read, tmp_path: Path) -> None:
    result = train(regression(), OPTIONS, folder=tmp_path, log=tool)
    found = points(tmp_path)
    check(found, result.history)
    for part, values in result.metrics.items():
        for name, value in values.items():
            ((epoch, got),) = found[f"final/{part}/{name}"]
            assert (epoch, math.isclose(got, value, rel_tol=2.0**-24)) == (3, True)


@both
def test_a_resume_goes_on_in_the_same_log(tool: str, points: Read, tmp_path: Path) -> None:
    options = replace(OPTIONS, checkpoint_interval=2, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        train(regression(), options, folder=tmp_path, log=tool, on_step=interrupt_at(3 * STEPS_PER_EPOCH + 2))
    assert len(points(tmp_path)["loss/train"]) == 3, "an epoch more than the checkpoint has"
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert checkpoint.epoch == 2
    result = train(regression(), options, folder=tmp_path, resume=checkpoint, log=tool)
    found = points(tmp_path)
    check(found, result.history)
    steps = [step for step, _ in found.get("loss/step", [])]
    assert steps == sorted(set(steps))


@both
def test_a_log_may_begin_at_a_resume(tool: str, points: Read, tmp_path: Path) -> None:
    train(regression(), OPTIONS, folder=tmp_path)
    options = replace(OPTIONS, epochs=4)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    result = train(regression(), options, folder=tmp_path, resume=checkpoint, log=tool)
    check(points(tmp_path), result.history)


@both
def test_a_new_training_in_the_folder_is_not_mixed_with_the_old(tool: str, points: Read, tmp_path: Path) -> None:
    train(regression(), OPTIONS, folder=tmp_path, log=tool)
    result = train(regression(), replace(OPTIONS, seed=1), folder=tmp_path, log=tool)
    check(points(tmp_path), result.history)


@pytest.mark.long
@both
def test_a_killed_training_leaves_a_readable_log(tool: str, points: Read, tmp_path: Path) -> None:
    code = f"""
import os, signal
from tests.training.test_logs import OPTIONS, regression, train
kill = lambda done, loss: os.kill(os.getpid(), signal.SIGKILL) if done > {2 * STEPS_PER_EPOCH + 1} else None
train(regression(), OPTIONS, folder={str(tmp_path)!r}, log={tool!r}, on_step=kill)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).returncode == -9
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    check(points(tmp_path), checkpoint.history)
    result = train(regression(), OPTIONS, folder=tmp_path, resume=checkpoint, log=tool)
    check(points(tmp_path), result.history)


@needs_mlflow
def test_mlflow_has_options_files_and_status(tmp_path: Path) -> None:
    train(
        LinearExample(),
        TrainingOptions(epochs=2, hidden=(), device="cpu", standardize=False),
        folder=tmp_path,
        log="mlflow",
    )
    points, params, tags, status = mlflow_runs(tmp_path)
    assert (params["epochs"], params["hidden"], params["engine"], params["data"]) == ("2", "none", "torch", "linear")
    assert tags["file.checkpoint"] == str((tmp_path / CHECKPOINT_NAME).resolve())
    assert (status, len(points["loss/train"])) == ("FINISHED", 2)


@needs_mlflow
def test_kernels_are_in_the_log(tmp_path: Path) -> None:
    train(regression(), replace(OPTIONS, engine="onnxruntime"), folder=tmp_path, log="mlflow")
    params = mlflow_runs(tmp_path)[1]
    assert params["engine"] == "onnxruntime"
    assert "mylinear::MYLINEAR " in params["kernels"]


@needs_tensorboard
def test_a_log_that_fails_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(TensorBoardLog, "epoch", fail)
    with pytest.warns(LogWarning, match="the log tensorboard has failed: No space left on device"):
        result = train(regression(), OPTIONS, folder=tmp_path, log="tensorboard")
    assert len(result.history) == OPTIONS.epochs


def test_what_cannot_be_logged_is_told_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="log must be tensorboard or mlflow, got wandb"):
        train(regression(), OPTIONS, folder=tmp_path, log="wandb")
    with pytest.raises(OptionError, match="log tensorboard needs a folder"):
        train(regression(), OPTIONS, log="tensorboard")
    with pytest.raises(SystemExit):
        cli.main(["train", "linear", "--log", "wandb"])
    assert "invalid choice: 'wandb'" in capsys.readouterr().err
    assert cli.main(["train", "linear", "--log-dir", "x"]) == 2
    assert "--log-dir is for logs; it needs --log" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    output = ["--output", str(tmp_path / "o")]
    assert cli.main(["train", "linear", "--epochs", "1", "--log", "tensorboard", *output]) == 2
    needs = "--log tensorboard needs tensorboard: pip install '.[tensorboard]' in ort-mylinear's source"
    assert capsys.readouterr().err.splitlines()[-1] == f"mylinear: {needs}"


@both
def test_a_folder_that_cannot_be_written_to_is_told(
    tool: str, points: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del points
    (tmp_path / "file").touch()
    command = ["train", "linear", "--epochs", "1", "--output", str(tmp_path / "o"), "--log", tool]
    assert cli.main([*command, "--log-dir", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "o" / CHECKPOINT_NAME).exists()


@needs_mlflow
def test_a_run_that_is_gone_is_told(tmp_path: Path) -> None:
    train(regression(), OPTIONS, folder=tmp_path, log="mlflow")
    (tmp_path / RUN_NAME).write_text('{"run_id": "0123"}')
    options = replace(OPTIONS, epochs=4)
    with pytest.raises(LogError, match=r"the run of '.*mlflow_run.json' is not in MLflow at .*; remove that file"):
        train(regression(), options, folder=tmp_path, resume=load_checkpoint(tmp_path / CHECKPOINT_NAME), log="mlflow")
