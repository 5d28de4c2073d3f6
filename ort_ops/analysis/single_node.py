"""Run one node by onnxruntime, in the model's own element types, where onnx's evaluator does not know its operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnx.reference.op_run import OpRun

from ort_ops.errors import ModelError, MylinearError
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]
_IR_VERSION = 9


class SingleNode:
    """A node as a model of its own."""

    def __init__(self, node: onnx.NodeProto, opsets: Mapping[str, int]) -> None:
        self._node = node
        self._opsets = dict(opsets)
        self._sessions: dict[tuple[Any, ...], Any] = {}

    def __call__(self, inputs: Sequence[Any], types: Sequence[ElementType | None]) -> tuple[Array, ...]:
        """Return the results, in their own dtypes, of float64 inputs rounded to their element types."""
        feed = {}
        for name, value, element_type in zip(self._node.input, inputs, types, strict=True):
            if name and isinstance(value, np.ndarray):
                dtype = value.dtype if element_type is None else helper.tensor_dtype_to_np_dtype(element_type.onnx_type)
                with np.errstate(all="ignore"):
                    feed[name] = value.astype(dtype)
        key = tuple((name, value.dtype, value.ndim) for name, value in feed.items())
        if key not in self._sessions:
            self._sessions[key] = self._open(feed)
        results: list[Array] = self._sessions[key].run(None, feed)
        by_name = dict(zip([o for o in self._node.output if o], results, strict=True))
        return tuple(by_name.get(name, np.zeros(0)) for name in self._node.output)

    def _open(self, feed: Mapping[str, Array]) -> Any:
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
            for name, value in feed.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self._node.output if name]
        graph = helper.make_graph([self._node], "node", inputs, outputs)
        imports = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_fallback(
    node: onnx.NodeProto,
    opsets: Mapping[str, int],
    implementation: Any,
    types_of_inputs: Callable[[], Sequence[ElementType | None]],
) -> Any:
    """Return the evaluator's operator for a node, or one that onnxruntime runs where the evaluator has none or fails.

    Args:
        implementation: the evaluator's; None for none. One with bodies, or a function, is returned as it is.
        types_of_inputs: gives the element types of what the node is about to receive.

    The operator raises: ModelError where neither can run the node.
    """
    if implementation is not None and not isinstance(implementation, type):
        return implementation
    if implementation is not None and any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
        return implementation
    single = SingleNode(node, opsets)
    base: Any = implementation or OpRun

    class Operator(base):  # type: ignore[misc]
        """Runs as the evaluator does, or else by onnxruntime."""

        if implementation is None:
            op_schema = None  # the evaluator looks by name alone for one, which may be of another domain

        def run(self, *inputs: Any, **options: Any) -> Any:
            reason: Exception | None = None
            if implementation is not None:
                try:
                    return super().run(*inputs, **options)
                except MylinearError:
                    raise
                except Exception as error:  # it does not know every use of an operator
                    reason = error
            try:
                return single(inputs, types_of_inputs())
            except Exception as error:
                name = node.name or (node.output[0] if node.output else "")
                first = str(reason or error).strip().splitlines()
                raise ModelError(
                    f"node '{name}' ({node.op_type}) can be run neither by onnx's evaluator nor alone by onnxruntime "
                    f"{onnxruntime.__version__}: {first[0] if first else type(error).__name__}"
                ) from error

        def _run(self, *inputs: Any, **attributes: Any) -> Any:
            return super()._run(*inputs, **attributes)

    Operator.__name__ = node.op_type if implementation is None else base.__name__
    return Operator
