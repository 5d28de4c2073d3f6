"""Is an exported model, run by onnxruntime, what it was in torch? The check that every export must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn

from exporter.errors import ExportError
from exporter.example import DynamicShapes, flatten_outputs, grow
from exporter.float64_run import Float64Run
from exporter.tensors import to_numpy
from ort_ops.comparison import Comparison
from ort_ops.model import element_types
from ort_ops.session import InferenceSession


def compare_with_torch(
    proto: onnx.ModelProto,
    model: nn.Module,
    example: tuple[Any, ...],
    names: list[str],
    axes: DynamicShapes,
    *,
    path: Path | None = None,
) -> dict[str, Comparison]:
    """Run the model in onnxruntime and in torch on the example, and on other sizes of the dynamic dimensions.

    Both are compared with the exported graph in float64, each within the one bound, and so with each other within
    twice that: a graph that is not the model's is left by torch, and a runtime that is wrong by onnxruntime.

    Args:
        path: the file, for a model whose weights lie beside it and not in ``proto``.

    Raises: ExportError naming the first output that differs by more than its bound.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = InferenceSession(path or proto.SerializeToString(), options, kernels="body")
    except Exception as error:
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported model, so that it cannot be compared "
            f"with torch: {root_cause(error)}{_remedy(proto, error)}"
        ) from error
    output_names = [output.name for output in proto.graph.output]
    in_float64 = Float64Run(proto, None if path is None else path.parent)
    worst: dict[str, Comparison] = {}
    sizes = (0, 1) if any(axes.values()) else (0,)
    for more in sizes:
        arguments = tuple(grow(a, axes[name], more) for a, name in zip(example, names, strict=True))
        try:
            with torch.no_grad():
                torch_outputs = [to_numpy(value) for value in flatten_outputs(model(*arguments))]
        except Exception:
            if not more:
                raise
            continue  # a model may fix how its dimensions go together, and then refuses other sizes in torch too
        feed = {name: to_numpy(value) for name, value in zip(names, arguments, strict=True)}
        ort_outputs = session.run(output_names, feed)
        exact = in_float64(feed).outputs
        for name, got, torch_output in zip(output_names, ort_outputs, torch_outputs, strict=True):
            for road, array in (("torch", torch_output), ("onnxruntime", got)):
                comparison = exact[name].compare(array)
                if not comparison.is_within_bound:
                    raise ExportError(
                        f"{road}'s output '{name}' is not what the exported graph gives in float64: "
                        f"{comparison.complaint}"
                    )
            if name not in worst or _rank(comparison) >= _rank(worst[name]):
                worst[name] = comparison
    return worst


def _remedy(proto: onnx.ModelProto, error: Exception) -> str:
    """Say what to do where onnxruntime has no kernel for an operator in the element type of the model."""
    types = sorted(element_types(proto) & {"bfloat16", "float16", "float64"})
    if "NOT_IMPLEMENTED" not in str(error) or not types:
        return ""
    return (
        f"; its CPU provider has no kernel for that operator in {types[0]}: export in float32 or float16 "
        "(`mylinear export --dtype float32`, or model.float() or model.half() and an example of that type), or cast "
        f"around the operator in the model, as in torch.relu(x.float()).to(torch.{types[0]})"
    )


def _rank(comparison: Comparison) -> tuple[int, float]:
    return comparison.num_unbounded + comparison.num_undecided, comparison.max_in_bounds


def root_cause(error: Exception) -> str:
    """The root cause in one line; torch wraps it in pages of advice."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
