"""Training files made by hand with onnx alone: two linear layers, mean squared error, SGD with momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.models.complete import complete_inputs
from ort_ops.models.nodes import attach_functions
from ort_ops.opdef.onnx_objects import make_node
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.training.file_format import Group, OptimizerDescription, TrainingMetadata, find_metadata, put_metadata
from ort_ops.training.sessions import first_that_opens, has_right_patterns

Array = NDArray[Any]
OPSET, IR_VERSION = 20, 9
PARAMETERS = ("first.weight", "first.bias", "second.weight", "second.bias")
MOMENTUM = 0.9


def first_state(sizes: Sequence[int], dtype: str, seed: int = 0) -> dict[str, Array]:
    """Return parameters of two layers and their zero momentum buffers."""
    rng = np.random.default_rng(seed)
    n_in, hidden, n_out = sizes
    shapes = ([hidden, n_in], [hidden], [n_out, hidden], [n_out])
    state = {
        name: (rng.standard_normal(shape) / 4).astype(dtype) for name, shape in zip(PARAMETERS, shapes, strict=True)
    }
    return state | {f"{name}/momentum_buffer": np.zeros_like(value) for name, value in state.items()}


def step_model(
    sizes: Sequence[int] = (3, 4, 2),
    dtype: str = "float64",
    *,
    lr: float = 0.1,
    seed: int = 0,
    groups: int = 1,
    operator: bool = False,
) -> onnx.ModelProto:
    """Return a training file of kind ``step``.

    Args:
        operator: whether the layers are nodes of MYLINEAR, with its function body inside.
    """
    state = first_state(sizes, dtype, seed)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node
    nodes = [
        *forward_and_backward(dtype),
        node("Add", ["step", "one"], ["step/next"]),
    ]
    for i, name in enumerate(PARAMETERS):
        rate = "lr"
        if groups > 1:
            nodes.append(node("Gather", ["lr", f"group{i % groups}"], [f"{name}.lr"], axis=0))
            rate = f"{name}.lr"
        slot = f"{name}/momentum_buffer"
        nodes += [
            node("Cast", [rate], [f"{name}.rate"], to=kind),
            node("Mul", [slot, "mu"], [f"{name}.kept"]),
            node("Add", [f"{name}.kept", f"{name}/grad"], [f"{slot}/next"]),
            node("Mul", [f"{slot}/next", f"{name}.rate"], [f"{name}.change"]),
            node("Sub", [name, f"{name}.change"], [f"{name}/next"]),
        ]
    fixed = layer_constants(dtype) | {f"group{i}": np.array(i) for i in range(groups)} | {"one": np.array(1)}
    rates = np.array(lr) if groups == 1 else np.full(groups, lr)
    stored = state | {"step": np.array(0), "lr": rates}
    slots = [name for name in state if name not in PARAMETERS]
    metadata = TrainingMetadata(
        kind="step",
        loss="loss",
        inputs=("x",),
        targets=("target",),
        feeds={f"{name}/next": name for name in (*state, "step")},
        parameters=PARAMETERS,
        optimizer_state=tuple(slots),
        step="step",
        lr="lr",
        optimizer=OptimizerDescription(
            "SGD", tuple(Group(PARAMETERS[i::groups], {"lr": lr, "momentum": MOMENTUM}) for i in range(groups))
        ),
        inference="Inference",
    )
    model = make_training_model(nodes, stored, fixed, metadata, user_inputs(sizes, dtype), dtype)
    if operator:
        _use_operator(model)
    return model


def make_training_model(
    nodes: Sequence[onnx.NodeProto],
    stored: Mapping[str, Array],
    constants: Mapping[str, Array],
    metadata: TrainingMetadata,
    given: Sequence[onnx.ValueInfoProto],
    dtype: str,
    opsets: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Put a training file together: inputs of state with first values, those of the user, the loss and the nexts."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = {name: declare(name, array) for name, array in stored.items()}
    outputs = [helper.make_tensor_value_info(metadata.loss, kind, [])] if metadata.loss else []
    outputs += [declare(output, stored[name]) for output, name in metadata.feeds.items()]
    graph = helper.make_graph(
        nodes,
        "step",
        [*values.values(), *given],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in {**stored, **constants}.items()],
    )
    imports = {"": OPSET, "mylinear.training": 1} | dict(opsets or {})
    opset_imports = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    model = helper.make_model(graph, opset_imports=opset_imports, ir_version=IR_VERSION)
    if metadata.inference:
        node = helper.make_node
        body = [
            node("Gemm", ["x", "first.weight", "first.bias"], ["h"], transB=1),
            node("Relu", ["h"], ["r"]),
            node("Gemm", ["r", "second.weight", "second.bias"], ["y"], transB=1),
        ]
        function = helper.make_function(
            "mylinear.training", "Inference", [*PARAMETERS, "x"], ["y"], body, [helper.make_opsetid("", OPSET)]
        )
        model.functions.append(function)
    put_metadata(model, metadata)
    return model


def plain_steps(
    model: onnx.ModelProto, batches: Sequence[tuple[Array, ...]], lr: float | Array | None = None
) -> tuple[list[float], dict[str, Array]]:
    """Run a training file as another language would: a session, dictionaries, and the feeds of the metadata."""
    metadata = find_metadata(model)
    assert metadata is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = has_right_patterns()
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.graph.ClearField("initializer")
    bare.graph.initializer.extend(t for t in model.graph.initializer if t.name not in metadata.stored)
    data, providers = bare.SerializeToString(), ["CPUExecutionProvider"]
    session = first_that_opens(lambda more: onnxruntime.InferenceSession(data, options, providers, **more), options)
    state = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in metadata.stored
    }
    if lr is not None:
        state[metadata.lr] = np.asarray(lr, np.float64)
    losses = []
    names = [metadata.loss, *metadata.feeds]
    for batch in batches:
        given = dict(zip(metadata.given, batch, strict=True))
        results = dict(zip(names, session.run(names, {**state, **given}), strict=True))
        losses.append(float(results[metadata.loss]))
        state |= {name: results[output] for output, name in metadata.feeds.items()}
    return losses, state


def save_step(folder: Path) -> Path:
    """Save a training file to start from, and return its path."""
    onnx.save(step_model(), folder / "step.onnx")
    return folder / "step.onnx"


def draw_batches(
    count: int, rows: int = 5, sizes: Sequence[int] = (3, 4, 2), dtype: str = "float64", seed: int = 1
) -> list[tuple[Array, Array]]:
    """Draw inputs and targets."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((rows, sizes[0])).astype(dtype), rng.standard_normal((rows, sizes[2])).astype(dtype))
        for _ in range(count)
    ]


def _use_operator(model: onnx.ModelProto) -> None:
    """Make nodes of MYLINEAR of the layers, in the step and in the model in eval mode."""
    for container in (model.graph, *model.functions):
        for found in container.node:
            if found.op_type == "Gemm" and len(found.input) == 3:
                made = make_node(MYLINEAR, list(found.input), list(found.output))
                found.CopyFrom(made)
    model.opset_import.append(helper.make_opsetid("mylinear", 1))
    for function in model.functions:
        function.opset_import.append(helper.make_opsetid("mylinear", 1))
    complete_inputs(model)
    attach_functions(model)


def user_inputs(sizes: Sequence[int], dtype: str) -> list[onnx.ValueInfoProto]:
    """Declare ``x`` and ``target``."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return [
        helper.make_tensor_value_info("x", kind, ["batch", sizes[0]]),
        helper.make_tensor_value_info("target", kind, ["batch", sizes[2]]),
    ]


def layer_constants(dtype: str) -> dict[str, Array]:
    return {
        "two": np.array(2, dtype),
        "zero": np.array(0, dtype),
        "mu": np.array(MOMENTUM, dtype),
        "rows": np.array([0]),
    }


def forward_and_backward(dtype: str) -> list[onnx.NodeProto]:
    """Return the nodes that compute the loss, and ``<parameter>/grad`` of each parameter."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node
    return [
        node("Gemm", ["x", "first.weight", "first.bias"], ["h"], transB=1),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "second.weight", "second.bias"], ["y"], transB=1),
        node("Sub", ["y", "target"], ["d"]),
        node("Mul", ["d", "d"], ["squares"]),
        node("ReduceMean", ["squares"], ["loss"], keepdims=0),
        node("Size", ["d"], ["count"]),
        node("Cast", ["count"], ["count_float"], to=kind),
        node("Div", ["two", "count_float"], ["scale"]),
        node("Mul", ["d", "scale"], ["G"]),
        node("Gemm", ["G", "r"], ["second.weight/grad"], transA=1),
        node("ReduceSum", ["G", "rows"], ["second.bias/grad"], keepdims=0),
        node("Greater", ["h", "zero"], ["positive"]),
        node("Cast", ["positive"], ["mask"], to=kind),
        # Reads the second weight, and its update need not wait for it.
        node("MatMul", ["G", "second.weight"], ["gr"]),
        node("Mul", ["gr", "mask"], ["gh"]),
        node("Gemm", ["gh", "x"], ["first.weight/grad"], transA=1),
        node("ReduceSum", ["gh", "rows"], ["first.bias/grad"], keepdims=0),
    ]


def declare(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
