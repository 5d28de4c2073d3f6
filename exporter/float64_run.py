"""Run a model whose operators have no error rule, in float64 where that can be, with what its sums allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference.op_run import OpRun

from exporter.evaluator import make_evaluator
from exporter.widen import widen_to_float64
from ort_ops.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.error_bound import gamma
from ort_ops.evaluate import Evaluation, LinearCall, Value
from ort_ops.model import linear_element_types, linear_nodes, linear_nodes_within
from ort_ops.reference import linear_float64
from ort_ops.session import InferenceSession

Array = NDArray[Any]
MAX_CALLS = 3
"""Of a node that runs more than once, as in the body of a Loop: these many, the last of them in place of the others."""
_ROUNDINGS = 8
"""Of any other operator: what the rules of `ort_ops.evaluate` grant its functions too."""


class Float64Run:
    """A model prepared to be run in float64 on several inputs.

    By onnx's reference evaluator, which shows what each MYLINEAR node receives, in bodies and functions too; where
    that does not run the model, by onnxruntime with the function body in the model's own dtypes. That shows whether
    roads agree, and each node alone of the main graph is still held against float64.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._types = _types(model)
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._linear = linear_nodes(model)
        self._elements = dict(zip((n.path for n in self._linear), linear_element_types(model), strict=True))
        self._calls: dict[str, list[LinearCall]] = {}
        self._counts: dict[str, int] = {}
        wide = without_definition(widen_to_float64(model))
        for linear, named in zip(self._linear, linear_nodes(wide), strict=True):
            named.node.name = linear.path
        try:
            self._evaluator: Any = make_evaluator(wide, [self._recorder()])
        except Exception:  # it does not know every operator
            self._evaluator = None

    def __call__(self, feed: Mapping[str, Array]) -> Evaluation:
        """Return every value that can be had, each with the error that the sums before it allow for its size."""
        self._calls, factor = {}, 1.0
        values: Mapping[str, Any] | None = None
        self._counts = dict.fromkeys(self._elements, 0)
        if self._evaluator is not None:
            wide = {name: array.astype(np.float64) if _element(array) else array for name, array in feed.items()}
            try:
                with np.errstate(all="ignore"):
                    values = self._evaluator.run(None, wide, intermediate=True)
            except Exception:  # nor every use of one
                self._calls = {}
        if values is None:
            values, factor = run_all(self._model, feed, InferenceSession, kernels="body"), 2.0
            self._record_from({**feed, **values})
        found: dict[str, Value] = {}
        terms = 1
        for node in self._model.graph.node:
            terms += self._terms_of(node)
            for name in node.output:
                if isinstance(values.get(name), np.ndarray | np.generic):
                    found[name] = _value(np.asarray(values[name]), self._types.get(name), terms, factor)
        outputs = {output.name: found[output.name] for output in self._model.graph.output}
        return Evaluation(outputs, [call for calls in self._calls.values() for call in calls], found)

    def _recorder(self) -> type[OpRun]:
        record = self._record

        class Recorder(OpRun):
            op_domain = DOMAIN

            def _run(self, x: Any, weight: Any, bias: Any = None) -> tuple[Array]:
                record(self.onnx_node.name, x, weight, bias)
                return (linear_float64(x, weight, bias),)

        Recorder.__name__ = NAME
        return Recorder

    def _record(self, path: str, x: Array, weight: Array, bias: Array | None) -> None:
        calls = self._calls.setdefault(path, [])
        self._counts[path] += 1
        del calls[MAX_CALLS - 1 :]
        calls.append(LinearCall(path, x, weight, bias, self._elements[path]))

    def _record_from(self, values: Mapping[str, Any]) -> None:
        """Take what the nodes of the main graph received from the values of the main graph."""
        for linear in self._linear:
            names = linear.node.input
            if linear.container is self._model.graph and all(n in values or n in self._stored for n in names if n):
                arrays = (values[n] if n in values else numpy_helper.to_array(self._stored[n]) for n in names if n)
                x, weight, bias = (*(np.asarray(array).astype(np.float64) for array in arrays), None)[:3]
                assert x is not None
                assert weight is not None
                self._record(linear.path, x, weight, bias)

    def _terms_of(self, node: onnx.NodeProto) -> int:
        """How many roundings a node adds: those of each MYLINEAR sum in it, each time that it ran, and its own."""
        inside = [linear.path for linear in linear_nodes_within(self._model, node)]
        ran = [path for path in inside if self._counts[path]]
        sums = sum(self._counts[path] * (int(self._calls[path][0].weight.shape[1]) + 1) for path in ran)
        if (node.domain, node.op_type) == (DOMAIN, NAME):
            return sums or _ROUNDINGS
        runs = max((self._counts[path] for path in inside), default=0)
        others = sum(len(graph.node) for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
        return sums + _ROUNDINGS * (1 + runs * others)


def without_definition(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the operator's own function, which evaluators would take instead of an operator."""
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    kept = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, NAME)]
    del stripped.functions[:]
    stripped.functions.extend(kept)
    return stripped


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
        return Value(array, np.broadcast_to(0.0, array.shape), None)
    exact = array.astype(np.float64, copy=False)
    size = float(np.max(np.abs(exact), initial=0.0, where=np.isfinite(exact)))
    bound = np.broadcast_to(factor * gamma(terms, element_type.unit_roundoff) * size, exact.shape)
    return Value(exact, bound, element_type)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    MYLINEAR.register_schema()
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _element(array: Array) -> Any:
    return next((t for t in MYLINEAR.element_types if t.name == array.dtype.name), None)
