"""Run a file of one training step in plain onnxruntime, as its metadata says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from torch import Tensor

from ort_ops.training.file_format import TrainingMetadata, find_metadata


class Steps:
    """A training file in a session; its state begins as the file has it."""

    def __init__(self, path: Path) -> None:
        self.proto = onnx.load(path)
        found = find_metadata(self.proto)
        assert found is not None
        self.metadata: TrainingMetadata = found
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.proto.graph.initializer}
        self.state = {name: stored[name] for name in found.stored}
        self.constants = {name: value for name, value in stored.items() if name not in found.stored}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, *tensors: Tensor, **others: Any) -> dict[str, Any]:
        """Run once, and take over the next state; return all outputs."""
        given = {name: t.numpy() for name, t in zip(self.metadata.given, tensors, strict=True)}
        outputs = [output.name for output in self.session.get_outputs()]
        known = {value.name for value in self.session.get_inputs()}
        known |= {value.name for value in self.session.get_overridable_initializers()}
        feed = {name: np.asarray(v) for name, v in {**self.state, **others, **given}.items() if name in known}
        results = dict(zip(outputs, self.session.run(outputs, feed), strict=True))
        self.state |= {name: results[output] for output, name in self.metadata.feeds.items()}
        return results

    def step(self, *tensors: Tensor, **others: Any) -> Any:
        """Do one step, and return the loss."""
        return self.run(*tensors, **others)[self.metadata.loss]
