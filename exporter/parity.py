"""Is an exported model, run by onnxruntime, what it was in torch? The check that every export must pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.example import DynamicShapes, flatten_outputs, grow
from exporter.tensors import to_numpy
from ort_ops.contract import MYLINEAR
from ort_ops.error_bound import Comparison, compare, gamma
from ort_ops.errors import MylinearError
from ort_ops.evaluate import evaluate
from ort_ops.model import element_types, linear_nodes
from ort_ops.operator import ElementType
from ort_ops.session import InferenceSession


class ExportError(MylinearError, RuntimeError):
    """A model that could not be exported, or not as it should be; no file was written."""


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
        references = _references(proto, model, arguments, feed, torch_outputs, has_weights=path is None)
        for name, got, torch_output, (exact, bound, element_type) in zip(
            output_names, ort_outputs, torch_outputs, references, strict=True
        ):
            if element_type is None:
                if not np.array_equal(got, torch_output):
                    raise ExportError(f"onnxruntime's output '{name}' is not what torch's is")
                continue
            for road, array in (("torch", torch_output), ("onnxruntime", got)):
                comparison = compare(array, exact, bound, element_type)
                if not comparison.is_within_bound:
                    raise ExportError(
                        f"{road}'s output '{name}' is not what the exported graph gives in float64: "
                        f"{comparison.complaint}"
                    )
            if name not in worst or comparison.max_in_bounds >= worst[name].max_in_bounds:
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


def _references(
    proto: onnx.ModelProto,
    model: nn.Module,
    arguments: tuple[Any, ...],
    feed: Mapping[str, NDArray[Any]],
    torch_outputs: list[NDArray[Any]],
    *,
    has_weights: bool,
) -> list[tuple[NDArray[Any], NDArray[Any], ElementType | None]]:
    """Return exact value, bound and element type of each output; None for the type of integers, which are exact.

    From a running error analysis where every operator has a rule. Else from the model in float64, with the bound
    that the deepest sum of the graph allows for values of that size, and four times what torch itself is off.
    Else, where the model cannot be taken to float64, from torch's own output with twice that bound.
    """
    if has_weights:
        try:
            outputs = evaluate(proto, feed).outputs.values()
            return [(v.exact, v.error, v.element_type) for v in outputs]
        except MylinearError:
            pass
    factor = 1
    try:
        with torch.no_grad():
            double = copy.deepcopy(model).double()
            exact_outputs = [to_numpy(v) for v in flatten_outputs(double(*(_to_float64(a) for a in arguments)))]
    except Exception:  # such as an exported program, which holds on to its dtypes
        exact_outputs, factor = torch_outputs, 2
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    terms = sum(_num_terms(linear.node, weights) for linear in linear_nodes(proto))
    references: list[tuple[NDArray[Any], NDArray[Any], ElementType | None]] = []
    for exact, got in zip(exact_outputs, torch_outputs, strict=True):
        if got.dtype.name not in {element_type.name for element_type in MYLINEAR.element_types}:
            references.append((exact, np.zeros(exact.shape), None))
            continue
        element_type = MYLINEAR.element_type(got.dtype.name)
        accumulator = MYLINEAR.element_type(element_type.accumulator)
        exact = exact.astype(np.float64)
        size = float(np.max(np.abs(exact), initial=0.0, where=np.isfinite(exact)))
        own = float(np.max(np.abs(exact - got.astype(np.float64)), initial=0.0, where=np.isfinite(exact)))
        allowed = gamma(terms, accumulator.unit_roundoff) * size + 4 * own + 4 * element_type.unit_roundoff * size
        allowed *= factor
        references.append((exact, np.full(exact.shape, allowed), element_type))
    return references


def _num_terms(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> int:
    tensor = weights.get(node.input[1])
    return (tensor.dims[1] if tensor is not None else 0) + 1


def _to_float64(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def root_cause(error: Exception) -> str:
    """The root cause in one line; torch wraps it in pages of advice."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
