"""Two ways to run a model in float64, to check that a rewritten one means what it meant. No torch.

onnx's reference evaluator takes every model whose operators it knows; onnxruntime, in which models really run, takes
those for which it has float64 kernels. There are two, because a witness that misreads an operator as the rewriter does
would see nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from ort_ops.analysis.evaluator import make_evaluator
from ort_ops.errors import ModelError, MylinearError
from ort_ops.models.complete import complete_inputs
from ort_ops.models.nodes import OperatorNode, attach_functions, has_function, operator_nodes
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.rewrite.proof.float64_nodes import with_float64_nodes

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Any]]


@dataclass(frozen=True)
class Witness:
    """One way to run a model in float64. ``load`` may raise anything for a model that it cannot run.

    Attributes:
        takes_references: whether it runs operators that the model does not define.
        draws_as_bounds: whether it draws the random numbers that bounds are computed with.
    """

    name: str
    load: Callable[[onnx.ModelProto], Run]
    takes_references: bool = True
    draws_as_bounds: bool = True

    def takes(self, model: onnx.ModelProto) -> bool:
        """Whether it can run the registered operators in the model."""
        return self.takes_references or not undefined(model)


def with_definitions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the definitions of the registered operators in it, in a copy if it lacks some."""
    used = {found.operator.key: found.operator for found in operator_nodes(model)}.values()
    if all(has_function(model, operator) or operator.make_body is None for operator in used):
        return model
    defined = onnx.ModelProto()
    defined.CopyFrom(model)
    try:
        complete_inputs(defined)
        attach_functions(defined)
    except MylinearError:  # about an unknown shape or type; `undefined` finds the nodes
        return model
    return defined


def undefined(model: onnx.ModelProto) -> list[OperatorKit]:
    """Return the operators with nodes that no definition inside the model serves: it is missing, or takes more."""
    found: dict[object, OperatorKit] = {}
    defined: dict[object, bool] = {}
    for node in operator_nodes(model):
        key = node.operator.key
        if key not in defined:
            defined[key] = has_function(model, node.operator)
        if not defined[key] or _lacks_input(node):
            found[key] = node.kit
    return list(found.values())


def _lacks_input(node: OperatorNode) -> bool:
    return len(node.node.input) < len(node.operator.inputs) or not all(node.node.input)


def _load_evaluator(model: onnx.ModelProto) -> Run:
    evaluator = make_evaluator(model, _reference if undefined(model) else None)
    names = computed(model)

    def run(feed: Mapping[str, Array]) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            results = evaluator.run(None, dict(feed), intermediate=True)
        assert isinstance(results, dict)
        return {name: results[name] for name in names if name in results}

    return run


def _reference(kit: OperatorKit, call: Call) -> list[Array]:
    """Compute a node by the operator's reference, in its element types; that of an absent output may be unknown."""
    results = [np.asarray(result) for result in kit.reference(call)]
    pairs = enumerate(zip(results, call.has_output, strict=True))
    return [result.astype(call.output_type(i).name) if is_there else result for i, (result, is_there) in pairs]


def _load_onnxruntime(model: onnx.ModelProto) -> Run:
    """Load a model without optimizations, with every tensor of the main graph as an output."""
    for kit in undefined(model):
        raise ModelError(f"the model has no definition of {kit.operator.op_type} that serves all its nodes")
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    with_float64_nodes(shown)
    outputs = {output.name for output in shown.graph.output}
    hidden = [name for name in computed(model) if name not in outputs]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in hidden)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


def computed(model: onnx.ModelProto) -> list[str]:
    """Return the names of what the nodes of the main graph give, and of outputs that no node gives."""
    names = [name for node in model.graph.node for name in node.output if name]
    return list(dict.fromkeys([*names, *(output.name for output in model.graph.output)]))


WITNESSES: Sequence[Witness] = (
    Witness("onnx's evaluator", _load_evaluator),
    Witness("onnxruntime", _load_onnxruntime, takes_references=False, draws_as_bounds=False),
)
