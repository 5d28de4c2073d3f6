"""Run a model in onnxruntime and show every value of its main graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]


def run_all(model: onnx.ModelProto, feed: Mapping[str, Array], session: Any, **options: Any) -> dict[str, Array]:
    """Run a model in onnxruntime with every value of its main graph as an output, and return them by name."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {output.name for output in shown.graph.output}
    for node in shown.graph.node:
        for name in node.output:
            if name and name not in outputs:
                shown.graph.output.append(helper.make_empty_tensor_value_info(name))
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    opened = session(shown.SerializeToString(), quiet, **options)
    names = [output.name for output in shown.graph.output]
    return dict(zip(names, opened.run(names, dict(feed)), strict=True))
