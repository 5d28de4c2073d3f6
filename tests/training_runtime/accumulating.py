"""Training files in two parts, made by hand: sums of gradients, and the step that they make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from ort_ops.training.file_format import Group, OptimizerDescription, TrainingMetadata
from tests.training_runtime.hand_made import (
    MOMENTUM,
    PARAMETERS,
    declare,
    first_state,
    forward_and_backward,
    layer_constants,
    make_training_model,
    user_inputs,
)


def accumulating_models(
    sizes: Sequence[int] = (3, 4, 2), dtype: str = "float64", *, accumulate: int = 3, apply: str = "step.apply.onnx"
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return training files of kinds ``grad`` and ``apply``, which do as `step_model` does."""
    state = first_state(sizes, dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node
    nodes = []
    for made in forward_and_backward(dtype):
        outputs = [f"{name[:-5]}.new" if name.endswith("/grad") else name for name in made.output]
        nodes.append(made)
        del made.output[:]
        made.output.extend(outputs)
    nodes += [node("Add", [f"{name}/grad", f"{name}.new"], [f"{name}/grad/next"]) for name in PARAMETERS]
    parameters = {name: state[name] for name in PARAMETERS}
    sums = {f"{name}/grad": np.zeros_like(array) for name, array in parameters.items()}
    slots = {name: array for name, array in state.items() if name not in PARAMETERS}
    optimizer = OptimizerDescription("SGD", (Group(PARAMETERS, {"lr": 0.1, "momentum": MOMENTUM}),))
    gradients = {f"{name}/grad": name for name in PARAMETERS}
    grad = TrainingMetadata(
        kind="grad",
        loss="loss",
        inputs=("x",),
        targets=("target",),
        feeds={f"{name}/next": name for name in sums},
        parameters=PARAMETERS,
        gradients=gradients,
        inference="Inference",
        accumulate=accumulate,
        apply=apply,
        optimizer=optimizer,
    )
    grad_model = make_training_model(
        nodes, parameters | sums, layer_constants(dtype), grad, user_inputs(sizes, dtype), dtype
    )
    updates = [node("Add", ["step", "one"], ["step/next"]), node("Cast", ["lr"], ["rate"], to=kind)]
    updates.append(node("Cast", ["count"], ["number"], to=kind))
    for name in PARAMETERS:
        slot = f"{name}/momentum_buffer"
        updates += [
            node("Div", [f"{name}/grad", "number"], [f"{name}.mean"]),
            node("Mul", [slot, "mu"], [f"{name}.kept"]),
            node("Add", [f"{name}.kept", f"{name}.mean"], [f"{slot}/next"]),
            node("Mul", [f"{slot}/next", "rate"], [f"{name}.change"]),
            node("Sub", [name, f"{name}.change"], [f"{name}/next"]),
        ]
    apply_metadata = TrainingMetadata(
        kind="apply",
        feeds={f"{name}/next": name for name in (*PARAMETERS, *slots, "step")},
        parameters=PARAMETERS,
        optimizer_state=tuple(slots),
        step="step",
        lr="lr",
        count="count",
        gradients=gradients,
        accumulate=accumulate,
        optimizer=optimizer,
    )
    stored = parameters | slots | {"step": np.array(0), "lr": np.array(0.1)}
    given = [declare(name, array) for name, array in sums.items()]
    given.append(helper.make_tensor_value_info("count", onnx.TensorProto.DOUBLE, []))
    constants = {"mu": np.array(MOMENTUM, dtype), "one": np.array(1)}
    return grad_model, make_training_model(updates, stored, constants, apply_metadata, given, dtype)
