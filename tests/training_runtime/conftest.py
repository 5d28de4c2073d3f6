"""A training file to start from."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.training_runtime.hand_made import step_model


@pytest.fixture
def step_file(tmp_path: Path) -> Path:
    path = tmp_path / "step.onnx"
    onnx.save(step_model(), path)
    return path
