"""Round the weights of an exported model to a narrower type, and check it against the model as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.checks.trials import trials
from exporter.to_onnx.finish import finish
from exporter.to_onnx.job import Job
from exporter.torch_ops.tensors import to_numpy
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.analysis.rounded_weights import RoundedWeights
from ort_ops.analysis.stored import Stored
from ort_ops.models.narrow_weights import Narrowed, narrow_weights, rounded
from ort_ops.numerics.compare import Comparison
from ort_ops.session import InferenceSession


def narrow_and_compare(
    job: Job,
    original: onnx.ModelProto,
    proto: onnx.ModelProto,
    metadata: Mapping[str, str],
    dtype: str,
    file: Path | None = None,
) -> tuple[Narrowed, dict[str, Comparison]]:
    """Round the weights in the exporter's own model, finish it, and compare it with the original; in place.

    Args:
        file: to write it to, where the original's weights lie in files of that folder; the rounded ones go beside it.

    Raises: ExportError, also where there is no weight to round.
    """
    narrowed = narrow_weights(proto, dtype, None if file is None else file.with_name(f"{file.name}.data"))
    if not narrowed.names:
        reasons = [f"'{name}': {reason}" for name, reason in narrowed.left.items()]
        why = "; ".join(reasons) or "it must be float32, and of a node whose operator takes such ones"
        raise ExportError(f"the model has no weight to be stored in {dtype}: {why}")
    finish(proto, job.opset, metadata, file)
    return narrowed, compare_narrowed(original, proto, narrowed, job, file) if job.is_comparable() else {}


def compare_narrowed(
    original: onnx.ModelProto, model: onnx.ModelProto, narrowed: Narrowed, job: Job, file: Path | None = None
) -> dict[str, Comparison]:
    """Run the rounded model in onnxruntime on the example and on other sizes, and compare it in three ways.

    Its weights must be those of the original, each rounded to nearest. Its outputs must be those of its own graph in
    float64, within the bound of its rounding errors. And they must be those of the original, within that bound and what
    rounding the weights may do.

    Args:
        file: the rounded model, where the weights of both lie beside it.

    Returns: the last comparison, by output.
    Raises: ExportError naming the first weight or output that is not.
    """
    folder = None if file is None else file.parent
    check_rounded(original, model, narrowed, folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = InferenceSession(file or model.SerializeToString(), options, kernels="body")
    except Exception as error:
        raise ExportError(f"onnxruntime cannot run the model with rounded weights: {root_cause(error)}") from error
    itself = Float64Run(model, folder)
    before = RoundedWeights(original, dict.fromkeys(narrowed.names, narrowed.dtype), folder or Path())
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
        of_rounded = itself(feed).outputs
        pairs = (
            (of_rounded, "this graph gives"),
            (before(feed, of_rounded), "the graph with the model's own weights gives"),
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


def check_rounded(
    original: onnx.ModelProto, model: onnx.ModelProto, narrowed: Narrowed, folder: Path | None = None
) -> None:
    """Check every stored tensor: rounded to nearest, or what it was.

    Args:
        folder: of the external data of both.

    Raises: ExportError naming the first that is not.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in original.graph.initializer:
        before, after = Stored(tensor, folder).load(), Stored(stored[tensor.name], folder).load()
        wanted = rounded(before, narrowed.dtype) if tensor.name in narrowed.names else before
        if not np.array_equal(after.astype(wanted.dtype), wanted, equal_nan=wanted.dtype.kind == "f"):
            raise ExportError(f"the weight '{tensor.name}' of the exported graph is not that of the model, rounded")
