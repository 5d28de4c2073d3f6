"""Make the model in eval mode of a training file, with weights of now. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.errors import ModelError
from ort_ops.models.graphs import nodes_in
from ort_ops.models.nodes import with_shapes
from ort_ops.training.file_format import FUNCTION_DOMAIN, TrainingMetadata
from ort_ops.training.graph.session_model import prune
from ort_ops.training.storage.training_file import Skeleton
from ort_ops.training.storage.write import write_model

Array = NDArray[Any]


def write_inference(
    path: str | os.PathLike[str],
    skeleton: Skeleton,
    metadata: TrainingMetadata,
    state: Mapping[str, Array],
) -> None:
    """Write the model that the file's function is: the user's inputs, stored weights, and the function's outputs.

    Args:
        skeleton: the training file without its state.
        state: parameters and buffers by name.

    Raises: ModelError if the file has no such function; OutputError.
    """
    training = skeleton.model()
    found = [f for f in training.functions if (f.domain, f.name) == (FUNCTION_DOMAIN, metadata.inference)]
    if not metadata.inference or not found:
        raise ModelError("the training file has no function of the model in eval mode; export it again")
    (function,) = found
    frozen = {t.name: numpy_helper.to_array(t) for t in training.graph.initializer if t.name in function.input}
    weights = {name: state[name] for name in function.input if name in state} | frozen
    declared = {value.name: value for value in training.graph.input}
    model = onnx.ModelProto(ir_version=training.ir_version, producer_name=training.producer_name)
    model.opset_import.extend(training.opset_import)
    model.functions.extend(training.functions)
    model.metadata_props.extend(training.metadata_props)
    model.graph.name = "model"
    given = [name for name in function.input if name not in weights]
    model.graph.input.extend(declared[name] for name in sorted(given, key=metadata.inputs.index))
    # Weights are inputs while the function is inlined, so that onnx copies none.
    model.graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in weights.items()
    )
    model.graph.node.append(
        helper.make_node(function.name, list(function.input), list(function.output), domain=FUNCTION_DOMAIN)
    )
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in function.output)
    model = onnx.inliner.inline_selected_functions(model, [(FUNCTION_DOMAIN, function.name)])
    _remove_unused(model)
    typed = {value.name: value for value in with_shapes(model).graph.output}
    outputs = [typed[name] for name in function.output]
    lacking = [value.name for value in outputs if not value.type.tensor_type.elem_type]
    if lacking:
        raise ModelError(f"the type of the model's output '{lacking[0]}' cannot be inferred; export it again")
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    inputs = onnx.GraphProto(input=[value for value in model.graph.input if value.name not in weights])
    model.graph.ClearField("input")
    model.graph.input.extend(inputs.input)
    used = {name for node in nodes_in(model.graph) for name in node.input} | {*function.output}
    graph_fields = model.graph.SerializeToString()
    model.ClearField("graph")
    write_model(
        path, [model.SerializeToString()], [graph_fields], {n: np.asarray(a) for n, a in weights.items() if n in used}
    )


def _remove_unused(model: onnx.ModelProto) -> None:
    """Remove what no output needs: nodes, functions, and domains that nobody uses."""
    prune(model)
    used = {(node.domain, node.op_type) for node in nodes_in(model.graph)}
    pending = [f for f in model.functions if (f.domain, f.name) in used]
    kept: list[onnx.FunctionProto] = []
    while pending:
        function = pending.pop()
        kept.append(function)
        called = {(node.domain, node.op_type) for node in nodes_in(function)}
        pending += [f for f in model.functions if (f.domain, f.name) in called and f not in kept]
    functions = onnx.ModelProto(functions=[f for f in model.functions if f in kept])
    model.ClearField("functions")
    model.functions.extend(functions.functions)
    domains = {domain for domain, _ in used} | {f.domain for f in kept}
    domains |= {entry.domain for f in kept for entry in f.opset_import}
    imports = [entry for entry in model.opset_import if entry.domain in domains or entry.domain in ("", "ai.onnx")]
    copies = onnx.ModelProto(opset_import=imports)
    model.ClearField("opset_import")
    model.opset_import.extend(copies.opset_import)
