"""What the other commands do with training files: the same as before, or one clear refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ort_ops
from ort_ops.cli import main as cli
from ort_ops.rewrite import adopt, lower
from ort_ops.rewrite import rewrite as rewriting
from ort_ops.rewrite.reasons import RewriteError
from ort_ops.rewrite.report import Rewrite
from ort_ops.training.check import read_training
from ort_ops.training.file_format import find_metadata
from tests.training_runtime.hand_made import PARAMETERS, draw_batches, plain_steps, step_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(step_model(), tmp_path / "step.onnx")
    return tmp_path / "step.onnx"


def test_run_refuses_a_training_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(path), "--input", "1,2,3"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the model is a training file, which computes a training step and no predictions" in error
    assert "export_inference" in error


def test_a_session_runs_one_step_from_the_stored_state(path: Path) -> None:
    (batch,) = draw_batches(1)
    session = ort_ops.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, dict(zip(("x", "target"), batch, strict=True))), strict=True))
    losses, state = plain_steps(onnx.load(path), [batch])
    assert found["loss"] == losses[0]
    for name in PARAMETERS:
        assert np.array_equal(found[f"{name}/next"], state[name])


def test_adopt_and_lower_keep_what_a_training_file_says(path: Path, tmp_path: Path) -> None:
    adopted, lowered = tmp_path / "adopted.onnx", tmp_path / "lowered.onnx"
    found = adopt(path, adopted)
    assert len(found.rewritten) == 2  # and every tensor of the step was compared
    assert "tensors of the whole model in float64" in str(found.checks[-1])
    assert len(lower(adopted, lowered).rewritten) == 2
    metadata = find_metadata(onnx.load(path))
    for file in (adopted, lowered):
        assert read_training(onnx.load(file), str(file)) == metadata
        assert any(f.name == "Inference" for f in onnx.load(file).functions)


def test_a_rewrite_that_breaks_a_training_file_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_it(model: Any, operators: Any) -> Rewrite:
        model.graph.outputs[1].name = "other"
        return Rewrite(num_nodes_before=1)

    monkeypatch.setattr(rewriting, "lower_model", break_it)
    with pytest.raises(RewriteError, match="the rewritten training file is damaged: its metadata names the output"):
        lower(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
