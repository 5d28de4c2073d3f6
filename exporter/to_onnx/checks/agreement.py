"""Check that an exported model computes in onnxruntime what it did in torch; every export must pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.errors import ExportError
from exporter.to_onnx.checks.trials import TIE_BREAKERS, trials
from exporter.to_onnx.example_call import PREFIX, DynamicShapes, flatten_outputs
from exporter.torch_ops.tensors import to_numpy
from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64_run import Float64Run, in_steps
from ort_ops.analysis.stored import Stored
from ort_ops.models.graphs import all_nodes
from ort_ops.models.nodes import OperatorNode, element_types, operator_nodes
from ort_ops.numerics.compare import Comparison
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
    """Run the model in onnxruntime and in torch on the example, on other sizes, and on values at the edge.

    Both are compared with the exported graph in float64, each within the same bound, and so with each other within
    twice that. If the graph is not the model's, torch leaves the bound; if the runtime is wrong, onnxruntime does. One
    number of a weight in a deep model changes the outputs by less than rounding does, so the weights that the
    operators' nodes take are compared bit by bit first.

    Args:
        path: the file, for a model whose weights lie beside it and not in ``proto``.

    Raises: ExportError naming the first output that differs by more than its bound.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    nodes = operator_nodes(proto)
    # By the definitions in the file, as any onnxruntime would run it.
    kernels = "body" if all(found.operator.make_body is not None for found in nodes) else "auto"
    try:
        session = InferenceSession(path or proto.SerializeToString(), options, kernels=kernels)
    except Exception as error:
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported model, so that it cannot be compared "
            f"with torch: {root_cause(error)}{_remedy(proto, error)}"
        ) from error
    folder = None if path is None else path.parent
    _check_weights(proto, nodes, model, folder)
    output_names = [output.name for output in proto.graph.output]
    in_float64 = Float64Run(proto, folder)
    of_torch = in_steps(proto, folder, in_float64)
    worst: dict[str, Comparison] = {}
    with_ties = not any(node.op_type in TIE_BREAKERS for node in all_nodes(proto))
    for trial in trials(example, names, axes, with_ties=with_ties):
        try:
            with torch.no_grad():
                torch_outputs = [to_numpy(value) for value in flatten_outputs(model(*trial.tensors))]
        except Exception:
            if trial.must_run:
                raise
            continue  # a model may fix relations of its dimensions, and then refuses other sizes in torch too
        feed = {name: to_numpy(value) for name, value in zip(names, trial.tensors, strict=True)}
        try:
            ort_outputs = session.run(output_names, feed)
        except Exception as error:
            shapes = ", ".join(f"'{name}' of {list(array.shape)}" for name, array in feed.items())
            raise ExportError(
                f"onnxruntime does not run the exported model on {shapes}, which the model itself takes in torch: "
                f"{root_cause(error)}; name the dimensions that may change in dynamic_shapes, {{}} for none"
            ) from error
        exact = in_float64(feed).outputs
        exact_in_torch = exact if of_torch is in_float64 else of_torch(feed).outputs
        for name, got, torch_output in zip(output_names, ort_outputs, torch_outputs, strict=True):
            value, in_torch = exact[name], exact_in_torch[name]
            if trial.is_edge:
                if value.element_type is None:
                    continue  # among equal values, each runtime picks its own first one
                value, in_torch = (_where_they_differ(v, got, torch_output) for v in (value, in_torch))
            for runtime, array, wanted in (("torch", torch_output, in_torch), ("onnxruntime", got, value)):
                comparison = wanted.compare(array)
                if not comparison.is_within_bound:
                    on = f" on {trial.what}" if trial.is_edge else ""
                    raise ExportError(
                        f"{runtime}'s output '{name}' is not what the exported graph gives in float64{on}: "
                        f"{comparison.complaint}"
                    )
            if not trial.is_edge and (name not in worst or _rank(comparison) >= _rank(worst[name])):
                worst[name] = comparison
    return worst


def _where_they_differ(value: Value, got: NDArray[Any], torch_output: NDArray[Any]) -> Value:
    """Leave out values that onnxruntime and torch compute alike, bit by bit: where both overflow, float64 may not."""
    if got.shape != torch_output.shape or got.shape != value.exact.shape:
        return value
    with np.errstate(invalid="ignore"):
        is_same = (got == torch_output) | (np.isnan(got) & np.isnan(torch_output))
    return replace(value, undecided=is_same if value.undecided is None else is_same | value.undecided)


def _check_weights(
    proto: onnx.ModelProto, nodes: Sequence[OperatorNode], model: nn.Module, folder: Path | None
) -> None:
    """Compare tensors with a parameter's name, and those that the operators' nodes take, with the parameters.

    Raises: ExportError naming the first that differs.
    """
    parameters = dict(model.state_dict(keep_vars=True))
    taken = {name for found in nodes for name in found.node.input}
    for tensor in proto.graph.initializer:
        parameter = parameters.get(tensor.name, parameters.get(PREFIX + tensor.name))
        if tensor.name not in taken or not isinstance(parameter, Tensor):
            continue
        stored, own = Stored(tensor, folder).load(), to_numpy(parameter.detach())
        bits = f"u{own.dtype.itemsize}"
        if stored.dtype != own.dtype or not np.array_equal(stored.view(bits), np.asarray(own, order="C").view(bits)):
            raise ExportError(f"the weight '{tensor.name}' of the exported graph is not that of the model")


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


def last_cause(error: Exception) -> Exception:
    """Return the error that all others came from."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def root_cause(error: Exception) -> str:
    """Return the root cause in one line: its first paragraph; torch wraps it in pages of advice."""
    error = last_cause(error)
    text = str(error).strip().partition("\n\n")[0]
    lines = [line.strip() for line in text.splitlines()]
    message = " ".join(itertools.takewhile(lambda line: not line.startswith(_DETAILS), lines))
    if len(message) > _MAX_LENGTH:
        message = f"{message[:_MAX_LENGTH].rstrip()} ..."
    return f"{type(error).__name__}: {message}"


_DETAILS = ("Traceback", "While executing", "Original traceback", "from user code", "File ", "Torch IR graph")
_MAX_LENGTH = 600
