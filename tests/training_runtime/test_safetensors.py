"""Parameters go to and from safetensors files; without the package the error says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops import Trainer, TrainingError
from ort_ops.files.atomic import OutputError
from ort_ops.files.inputs import InputError
from tests.training_runtime.hand_made import draw_batches, save_step, step_model
from tests.training_runtime.test_trainer import assert_same_state


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_parameters_come_back(tmp_path: Path, dtype: str) -> None:
    library = pytest.importorskip("safetensors.numpy", reason="the extra 'safetensors' is not installed")
    onnx.save(step_model(dtype=dtype), tmp_path / "step.onnx")
    trainer, other = Trainer(tmp_path / "step.onnx"), Trainer(tmp_path / "step.onnx")
    batches = draw_batches(5, dtype=dtype)
    trainer.run(batches)
    trainer.save_parameters(tmp_path / "model.safetensors")
    assert_same_state(library.load_file(tmp_path / "model.safetensors"), trainer.parameters())
    before = other.state()
    other.load_parameters(tmp_path / "model.safetensors")
    assert_same_state(other.parameters(), trainer.parameters())
    after = other.state()
    kept = {name for name in before if name not in trainer.parameters()}
    assert_same_state({name: after[name] for name in kept}, {name: before[name] for name in kept})


def test_files_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy", reason="the extra 'safetensors' is not installed")
    trainer = Trainer(save_step(tmp_path))
    before, path = trainer.state(), tmp_path / "other.safetensors"
    parameters = trainer.parameters()
    for arrays, message in (
        ({}, "must have the names of .*; 'first.weight' is missing"),
        (parameters | {"more": np.zeros(1)}, "'more' is unknown"),
        (parameters | {"first.bias": np.zeros(3)}, r"'first.bias' of the .* must be float64 \[4\], got float64 \[3\]"),
        (parameters | {"first.bias": np.zeros(4, np.float32)}, r"must be float64 \[4\], got float32 \[4\]"),
    ):
        library.save_file(arrays, path)
        with pytest.raises(TrainingError, match=message):
            trainer.load_parameters(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="is no safetensors file, or is damaged"):
        trainer.load_parameters(path)
    with pytest.raises(InputError, match="there is no safetensors file"):
        trainer.load_parameters(tmp_path / "missing.safetensors")
    with pytest.raises(OutputError, match="there is no folder"):
        trainer.save_parameters(tmp_path / "missing" / "a.safetensors")
    assert_same_state(trainer.state(), before)


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["safetensors"] = None
import ort_ops
trainer = ort_ops.Trainer({str(save_step(tmp_path))!r})
for call in (trainer.save_parameters, trainer.load_parameters):
    try:
        call("model.safetensors")
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("RequirementError a safetensors file needs safetensors")
        assert "pip install '.[safetensors]'" in line
