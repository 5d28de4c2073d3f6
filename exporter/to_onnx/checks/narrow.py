"""Check a model whose weights were rounded to a narrower type against the model as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.checks.trials import trials
from exporter.to_onnx.job import Job
from exporter.torch_ops.tensors import to_numpy
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.analysis.rounded_weights import RoundedWeights
from ort_ops.models.narrow_weights import Narrowed, rounded
from ort_ops.numerics.compare import Comparison
from ort_ops.session import InferenceSession


def compare_narrowed(
    original: onnx.ModelProto, model: onnx.ModelProto, narrowed: Narrowed, job: Job
) -> dict[str, Comparison]:
    """Run the rounded model in onnxruntime on the example and on other sizes, and compare it in three ways.

    Its weights must be those of the original, each rounded to nearest. Its outputs must be those of its own graph in
    float64, within the bound of its rounding errors. And they must be those of the original, within that bound and what
    rounding the weights may do.

    Returns: the last comparison, by output.
    Raises: ExportError naming the first weight or output that is not.
    """
    check_rounded(original, model, narrowed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = InferenceSession(model.SerializeToString(), options, kernels="body")
    except Exception as error:
        raise ExportError(f"onnxruntime cannot run the model with rounded weights: {root_cause(error)}") from error
    itself, before = Float64Run(model), RoundedWeights(original, dict.fromkeys(narrowed.names, narrowed.dtype), Path())
    worst: dict[str, Comparison] = {}
    for trial in trials(job.example.tensors, job.inputs, job.axes):
        if trial.is_edge:
            continue
        feed = {name: to_numpy(tensor) for name, tensor in zip(job.inputs, trial.tensors, strict=True)}
        try:
            outputs = dict(zip(job.outputs, session.run(job.outputs, feed), strict=True))
        except Exception as error:
            if trial.must_run:
                raise ExportError(f"onnxruntime does not run the rounded model: {root_cause(error)}") from error
            continue  # that the model takes no other sizes was said where it was compared as it was
        pairs = (
            (itself(feed).outputs, "this graph gives"),
            (before(feed), "the graph with the model's own weights gives"),
        )
        for name, got in outputs.items():
            for values, what in pairs:
                found = values[name].compare(got)
                if not found.is_within_bound:
                    raise ExportError(
                        f"onnxruntime's output '{name}' of the model with {narrowed.dtype} weights is not what {what} "
                        f"in float64: {found.complaint}"
                    )
            if name not in worst or found.max_in_bounds >= worst[name].max_in_bounds:
                worst[name] = found
    return worst


def check_rounded(original: onnx.ModelProto, model: onnx.ModelProto, narrowed: Narrowed) -> None:
    """Check every stored tensor: rounded to nearest, or what it was.

    Raises: ExportError naming the first that is not.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in original.graph.initializer:
        before, after = numpy_helper.to_array(tensor), numpy_helper.to_array(stored[tensor.name])
        wanted = rounded(before, narrowed.dtype) if tensor.name in narrowed.names else before
        if not np.array_equal(after.astype(wanted.dtype), wanted, equal_nan=wanted.dtype.kind == "f"):
            raise ExportError(f"the weight '{tensor.name}' of the exported graph is not that of the model, rounded")
