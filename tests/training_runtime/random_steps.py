"""Random training files whose states are read early, late, transposed, reshaped, in bodies and by each other."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from ort_ops.training.file_format import Group, OptimizerDescription, TrainingMetadata
from tests.training_runtime.hand_made import Array, make_training_model

SIZE = 4
node = helper.make_node


def training_model(
    nodes: Sequence[onnx.NodeProto], states: dict[str, Array], constants: dict[str, Array] | None = None
) -> onnx.ModelProto:
    """Return a file of a step with states of float64 and one input ``x``; the nodes make ``loss`` and the nexts."""
    names = tuple(states)
    metadata = TrainingMetadata(
        kind="step",
        loss="loss",
        inputs=("x",),
        feeds={f"{name}/next": name for name in (*names, "step")},
        parameters=names,
        step="step",
        lr="lr",
        optimizer=OptimizerDescription("SGD", (Group(names, {"lr": 0.1}),)),
    )
    stored = states | {"step": np.array(0), "lr": np.array(0.1)}
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [SIZE, SIZE])]
    made = [*nodes, node("Add", ["step", "one"], ["step/next"])]
    found = {"one": np.array(1), "flat": np.array([SIZE * SIZE]), "square": np.array([SIZE, SIZE])} | (constants or {})
    return make_training_model(made, stored, found, metadata, given, "float64")


def draw_states(count: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"s{i}": rng.uniform(-1, 1, (SIZE, SIZE)) for i in range(count)}


def random_model(seed: int) -> onnx.ModelProto:
    """Draw a graph: nodes over states, ``x`` and each other, then a writer for each state."""
    draw = random.Random(seed)
    states = draw_states(draw.randint(2, 6), seed)
    nodes: list[onnx.NodeProto] = []
    values, numbers = ["x", *states], itertools.count()

    def new() -> str:
        return f"v{next(numbers)}"

    def view(name: str) -> str:
        """Add a node, or two, whose result may be the memory of its input."""
        kind = draw.choice(("Transpose", "Identity", "Reshape", "Flatten", "Unsqueeze", "Two"))
        made = new()
        if kind == "Reshape":
            nodes.append(node("Reshape", [name, "flat"], [f"{made}f"]))
            nodes.append(node("Reshape", [f"{made}f", "square"], [made]))
        elif kind == "Unsqueeze":
            nodes.append(node("Unsqueeze", [name, "axis"], [f"{made}u"]))
            nodes.append(node("Squeeze", [f"{made}u", "axis"], [made]))
        elif kind == "Two":
            nodes.append(node("Transpose", [name], [f"{made}t"], perm=[1, 0]))
            nodes.append(node("Transpose", [f"{made}t"], [made], perm=[1, 0]))
        elif kind == "Flatten":
            nodes.append(node("Flatten", [name], [made], axis=1))
        else:
            nodes.append(node(kind, [name], [made]))
        return made

    def branch(name: str) -> str:
        """Add an If whose bodies read a state from outside."""
        made = new()
        nodes.append(node("Greater", [draw.choice(values), "zero"], [f"{made}g"]))
        nodes.append(node("Cast", [f"{made}g"], [f"{made}i"], to=onnx.TensorProto.INT64))
        nodes.append(node("ReduceMax", [f"{made}i"], [f"{made}m"], keepdims=0))
        nodes.append(node("Cast", [f"{made}m"], [f"{made}c"], to=onnx.TensorProto.BOOL))
        value = helper.make_tensor_value_info(f"{made}o", onnx.TensorProto.DOUBLE, [SIZE, SIZE])
        bodies = [
            helper.make_graph([node(op, [name], [f"{made}o"])], f"{made}{op}", [], [value])
            for op in ("Identity", "Neg")
        ]
        nodes.append(node("If", [f"{made}c"], [made], then_branch=bodies[0], else_branch=bodies[1]))
        return made

    def compute() -> None:
        a, b = draw.choice(values), draw.choice(values)
        kind = draw.random()
        if kind < 0.3:
            values.append(view(a))
        elif kind < 0.4:
            values.append(branch(a))
        else:
            made = new()
            op = draw.choice(("MatMul", "MatMul", "Add", "Sub", "Mul", "Gemm"))
            attributes = {"transA": draw.randint(0, 1), "transB": draw.randint(0, 1)} if op == "Gemm" else {}
            if op == "MatMul" and draw.random() < 0.5:
                a = view(a)
            nodes.append(node(op, [a, b], [f"{made}w"], **attributes))
            nodes.append(node("Tanh", [f"{made}w"], [made]))
            values.append(made)

    for _ in range(draw.randint(3, 14)):
        compute()
    for name in states:
        kind, source = draw.random(), draw.choice(values)
        if kind < 0.5:
            nodes.append(node("Mul", [source, "half"], [f"{name}.change"]))
            nodes.append(node(draw.choice(("Sub", "Add")), [name, f"{name}.change"], [f"{name}.sum"]))
            nodes.append(node(draw.choice(("Tanh", "Identity")), [f"{name}.sum"], [f"{name}/next"]))
        elif kind < 0.8:
            nodes.append(node(draw.choice(("Sub", "Add", "Mul")), [name, source], [f"{name}/next"]))
        elif kind < 0.9:
            nodes.append(node("Identity", [source], [f"{name}/next"]))
        elif kind < 0.95:
            nodes.append(node("Identity", ["half_square"], [f"{name}/next"]))
        else:
            nodes.append(node("Transpose", [name], [f"{name}/next"], perm=[1, 0]))
        if draw.random() < 0.3:  # the new value may be read too
            values.append(f"{name}/next")
            compute()
    nodes.append(node("ReduceMean", [values[-1]], ["loss"], keepdims=0))
    constants = {
        "half": np.array(0.5),
        "zero": np.array(0.0),
        "axis": np.array([0]),
        "half_square": np.full((SIZE, SIZE), 0.5),
    }
    return training_model(nodes, states, constants)
