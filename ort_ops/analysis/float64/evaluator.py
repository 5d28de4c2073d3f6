"""onnx's reference evaluator in float64 for any model, and with every node's result perturbed. No torch.

The model is neither widened nor copied: a weight becomes float64 when a node takes it, and a value goes when no node
needs it any more. Each value carries the element type that the model holds it in, and what overflows there is infinity.
`ort_ops.analysis.float64.tracker` decides what happens at each node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpFunction, OpRun

from ort_ops.analysis.evaluator import Erf, GatherElements, Gelu, MaxPool
from ort_ops.analysis.float64.result_types import FLOATS_BY_ONNX_TYPE
from ort_ops.analysis.float64.tracker import Tracker
from ort_ops.analysis.operator_op import OperatorOp, make_operator_op
from ort_ops.analysis.stored import Stored
from ort_ops.models.graphs import names_taken
from ort_ops.opdef.element_types import BY_ONNX_TYPE, ElementType


class Cast(OpRun):
    """Leaves numbers as they are where they stay floating-point: the element type is known beside them."""

    op_domain = ""

    def _run(self, x: Any, to: Any = 0, **attributes: Any) -> tuple[Any]:
        from onnx.reference.ops.op_cast import cast_to

        if to in FLOATS_BY_ONNX_TYPE and x.dtype.kind in "fiub":
            return (x.astype(np.float64),)
        with np.errstate(all="ignore"):
            return (cast_to(x, to, attributes.get("saturate", 1)),)


class CastLike(OpRun):
    """The same, to the type of another value."""

    op_domain = ""

    def _run(self, x: Any, like: Any, **attributes: Any) -> tuple[Any]:
        from onnx.reference.ops.op_cast import cast_to

        if like.dtype == np.float64 and x.dtype.kind in "fiub":
            return (x.astype(np.float64),)
        return (cast_to(x, helper.np_dtype_to_tensor_dtype(like.dtype), attributes.get("saturate", 1)),)


def make_float64_evaluator(
    model: onnx.ModelProto, tracker: Tracker, fallback: Callable[..., type[OpRun]], folder: Path | None = None
) -> Any:
    """Return an evaluator whose ``run(None, feed)`` gives the outputs in float64; values of the main graph are shown.

    Args:
        tracker: sees every node, of bodies and model-local functions too.
        fallback: makes an operator for a node that the evaluator does not know.
        folder: of the model's external data.
    """
    own: list[type[OpRun]] = [Cast, CastLike, Erf, Gelu, GatherElements, MaxPool]

    class Evaluator(ReferenceEvaluator):
        """Makes others of its own class for bodies and functions; for functions it forgets the operators."""

        def __init__(self, proto: Any, *, new_ops: Any = None, **options: Any) -> None:
            super().__init__(proto, new_ops=own, **options)

        def _init(self) -> None:
            self.stored = {t.name: Stored(t, folder) for t in self.inits_ if isinstance(t, TensorProto)}
            self.inits_ = [t for t in self.inits_ if not isinstance(t, TensorProto)]
            super()._init()
            self.bound: dict[tuple[int, bytes], OpRun] = {}
            self.gone_after = _last_uses(self.nodes_, self.output_names)
            types = self.all_types_ or {}
            self.declared = [[_declared(types.get(name)) for name in node.output] for node in self.nodes_]

        def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
            registered = make_operator_op(node, self.opsets)
            if registered is not None:
                return registered
            try:
                implementation = super()._load_impl(node, input_types)
            except (NotImplementedError, RuntimeError):
                return fallback(node, dict(self.opsets), None)
            return fallback(node, dict(self.opsets), implementation)

        def run(  # type: ignore[override]  # whatever else onnx's own takes, this has no use for
            self, output_names: Any, feed_inputs: Any, attributes: Any = None, **options: Any
        ) -> Any:
            results: dict[str, Any] = {**self.rt_inits_, **self.stored, **feed_inputs, "": None}
            shown = tracker.on_value if isinstance(self.proto_, onnx.ModelProto) else None
            for index, found_node in enumerate(self.rt_nodes_):
                node = found_node
                keywords: dict[str, Any] = {}
                if node.has_linked_attribute and (node.has_subgraph or isinstance(node, OpFunction)):
                    keywords["linked_attributes"] = attributes or {}
                elif node.has_linked_attribute:
                    node = self._bind(index, node, attributes or {})
                if node.need_context():
                    keywords["context"] = results
                values = [results[name] for name in node.input]
                outputs = tracker.step(
                    node,
                    values,
                    lambda *a, node=node, keywords=keywords: node.run(*a, **keywords),
                    self.declared[index],
                )
                for name, value in zip(node.output, outputs, strict=False):
                    if name:
                        results[name] = value
                        if shown is not None:
                            shown(name, value)
                for name in self.gone_after[index]:
                    results.pop(name, None)
            found = [results[name] for name in self.output_names]
            return [value.load() if isinstance(value, Stored) else value for value in found]

        def _bind(self, index: int, node: OpRun, attributes: Mapping[str, Any]) -> OpRun:
            """Return the operator with the attributes of the call, which many of onnx's operators cannot take."""
            proto = with_attributes(node.onnx_node, attributes)
            key = index, proto.SerializeToString(deterministic=True)
            if key not in self.bound:
                bound = self._load_impl(proto)(proto, node.run_params)
                if isinstance(bound, OperatorOp):
                    bound.own_origin = node.onnx_node
                self.bound[key] = bound
            return self.bound[key]

    return Evaluator(model)


def with_attributes(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> onnx.NodeProto:
    """Return a copy of a node in a function that has the values of the call, as the evaluator holds them, for its own.

    An attribute that the call does not give is left out, as ONNX has it.
    """
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        name = attribute.ref_attr_name
        if not name:
            copy.attribute.append(attribute)
        elif attributes.get(name) is not None:
            value = attributes[name]
            value = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            copy.attribute.append(helper.make_attribute(attribute.name, value, attr_type=attribute.type))
    return copy


def _declared(value_type: Any) -> ElementType | None:
    return None if value_type is None else BY_ONNX_TYPE.get(value_type.tensor_type.elem_type)


def _last_uses(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[list[str]]:
    """Return for each node the values that no later one needs, in its bodies or as an output."""
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in (*node.output, *names_taken(node)):
            last[name] = index
    gone: list[list[str]] = [[] for _ in nodes]
    for name, index in last.items():
        if name and name not in outputs:
            gone[index].append(name)
    return gone
