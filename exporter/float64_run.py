"""Run a model whose operators have no error rule, in float64 where that can be, with what its sums allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from exporter.rewrite_check import evaluate_all, widen_to_float64
from ort_ops.contract import MYLINEAR
from ort_ops.error_bound import gamma
from ort_ops.evaluate import Evaluation, LinearCall, Value
from ort_ops.model import linear_nodes
from ort_ops.session import InferenceSession

Array = NDArray[Any]
_ROUNDINGS = 8
"""Of any other operator: what the rules of `ort_ops.evaluate` grant its functions too."""


def evaluate_in_float64(model: onnx.ModelProto, feed: Mapping[str, Array]) -> Evaluation:
    """Return every value that can be had, each with the error that the sums before it allow for its size.

    By onnx's reference evaluator in float64; where that does not run the model, by onnxruntime with the function body
    in the model's own dtypes, which shows whether roads agree, and each node alone is still held against float64.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    factor = 1.0
    try:
        wide = {name: array.astype(np.float64) if _element(array) else array for name, array in feed.items()}
        values = evaluate_all(widen_to_float64(model), wide)
        values = {name: np.asarray(value) for name, value in values.items()}
    except Exception:  # the evaluator does not know every operator, nor every use of one
        values, factor = run_all(model, feed, InferenceSession, kernels="body"), 2.0
    types = _types(model)
    found: dict[str, Value] = {}
    terms = 1
    for node in model.graph.node:
        is_linear = (node.domain, node.op_type) == (MYLINEAR.domain, MYLINEAR.name)
        weight = stored.get(node.input[1]) if is_linear else None
        terms += _ROUNDINGS if weight is None else weight.shape[1] + 1
        for name in node.output:
            if name in values:
                found[name] = _value(values[name], types.get(name), terms, factor)
    calls = []
    for linear in linear_nodes(model):
        names = linear.node.input
        known = {**{name: np.asarray(array) for name, array in feed.items()}, **values, **stored}
        if linear.container is not model.graph or not all(name in known for name in names if name):
            continue
        x, weight, bias = (*(known[name] if name else None for name in names), None)[:3]
        assert x is not None
        assert weight is not None
        element = _element(stored.get(names[1], feed.get(names[0], weight))) or MYLINEAR.element_type("float32")
        wide_bias = None if bias is None else bias.astype(np.float64)
        calls.append(LinearCall(linear.label, x.astype(np.float64), weight.astype(np.float64), wide_bias, element))
    outputs = {output.name: found[output.name] for output in model.graph.output}
    return Evaluation(outputs, calls, found)


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


def _value(array: Array, onnx_type: int | None, terms: int, factor: float) -> Value:
    element_type = next((t for t in MYLINEAR.element_types if t.onnx_type == onnx_type), None)
    if element_type is None:
        return Value(array, np.zeros(array.shape), None)
    exact = array.astype(np.float64)
    size = float(np.max(np.abs(exact), initial=0.0, where=np.isfinite(exact)))
    return Value(exact, np.full(exact.shape, factor * gamma(terms, element_type.unit_roundoff) * size), element_type)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    MYLINEAR.register_schema()
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _element(array: Array) -> Any:
    return next((t for t in MYLINEAR.element_types if t.name == array.dtype.name), None)
