"""`mylinear inspect` of training files: who is who, what becomes what, and one fault where the metadata is damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops.cli import main as cli
from ort_ops.inspection.model import inspect_model
from ort_ops.training.file_format import (
    FUNCTION_DOMAIN,
    KEY,
    Group,
    OptimizerDescription,
    TrainingMetadata,
    find_metadata,
    put_metadata,
)
from tests.training_runtime.hand_made import PARAMETERS, make_training_model, step_model

WEIGHT = np.arange(3.0)


def small_model(kind: str) -> onnx.ModelProto:
    """Return a file of another kind than ``step``: loss = sum(x * weight), whose gradient is the sum of the rows."""
    node = helper.make_node
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["batch", 3])
    sums = helper.make_tensor_value_info("weight/grad", TensorProto.DOUBLE, [3])
    count = helper.make_tensor_value_info("count", TensorProto.DOUBLE, [])
    forward = [
        node("Mul", ["x", "weight"], ["y"]),
        node("ReduceSum", ["y"], ["loss"], keepdims=0),
        node("ReduceSum", ["x", "rows"], ["own"], keepdims=0),
    ]
    sgd = OptimizerDescription("SGD", (Group(("weight",), {"lr": 0.5}),))
    if kind == "grad":
        metadata = TrainingMetadata(
            "grad", loss="loss", inputs=("x",), parameters=("weight",), gradients={"weight/grad": "weight"},
            feeds={"weight/grad/next": "weight/grad"}, accumulate=4, apply="it.apply.onnx", accumulated=2,
            optimizer=sgd,
        )  # fmt: skip
        nodes = [*forward, node("Add", ["weight/grad", "own"], ["weight/grad/next"])]
        stored = {"weight": WEIGHT, "weight/grad": np.zeros(3)}
        return make_training_model(nodes, stored, {"rows": np.array([0])}, metadata, [x], "float64")
    if kind == "apply":
        metadata = TrainingMetadata(
            "apply", parameters=("weight",), gradients={"weight/grad": "weight"}, step="step", lr="lr", count="count",
            feeds={"weight/next": "weight", "step/next": "step"}, accumulate=4, optimizer=sgd,
        )  # fmt: skip
        nodes = [
            node("Div", ["weight/grad", "count"], ["mean"]),
            node("Mul", ["mean", "lr"], ["change"]),
            node("Sub", ["weight", "change"], ["weight/next"]),
            node("Add", ["step", "one"], ["step/next"]),
        ]
        stored = {"weight": WEIGHT, "step": np.array(7), "lr": np.array(0.5)}
        return make_training_model(nodes, stored, {"one": np.array(1)}, metadata, [sums, count], "float64")
    metadata = TrainingMetadata(
        "gradients", inputs=("x",), outputs=("y",), of=("y",), gradients={"x/grad": "x"}
    )  # fmt: skip
    nodes = [forward[0], node("Shape", ["x"], ["shape"]), node("Expand", ["weight", "shape"], ["x/grad"])]
    model = make_training_model(nodes, {}, {"weight": WEIGHT}, metadata, [x], "float64")
    for name in ("y", "x/grad"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch", 3]))
    return model


def _shown(model: onnx.ModelProto, folder: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    onnx.save(model, folder / "it.onnx")
    assert cli.main(["inspect", str(folder / "it.onnx"), *arguments]) == 0
    return capsys.readouterr().out


def test_state_feeds_and_optimizer_are_told(tmp_path: Path) -> None:
    onnx.save(step_model(groups=2), tmp_path / "step.onnx")
    found = inspect_model(tmp_path / "step.onnx").training
    assert found is not None
    assert (found.kind, found.loss, found.inputs, found.targets) == ("step", "loss", ("x",), ("target",))
    assert (found.optimizer, found.steps_done, found.lr, found.inference) == ("SGD", 0, [0.1, 0.1], "Inference")
    assert [group["parameters"] for group in found.groups] == [list(PARAMETERS[0::2]), list(PARAMETERS[1::2])]
    weight, *_ = found.state
    assert (weight.name, weight.role, weight.dtype, weight.shape) == (PARAMETERS[0], "parameter", "float64", "[4, 3]")
    assert (weight.nbytes, weight.next, weight.group) == (96, "first.weight/next", 0)
    slot = next(info for info in found.state if info.name == "second.bias/momentum_buffer")
    assert (slot.role, slot.group) == ("optimizer", 1)
    assert {info.next: info.name for info in found.state if info.next} == found.feeds


def test_frozen_parameters_are_told(tmp_path: Path) -> None:
    model = small_model("grad")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "shift"))
    body = [helper.make_node("Mul", ["x", "weight"], ["scaled"]), helper.make_node("Add", ["scaled", "shift"], ["y"])]
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function(FUNCTION_DOMAIN, "Eval", ["weight", "shift", "x"], ["y"], body, opsets)
    model.functions.append(function)
    put_metadata(model, replace(_metadata(model), inference="Eval"))
    onnx.save(model, tmp_path / "it.onnx")
    found = inspect_model(tmp_path / "it.onnx")
    assert found.training is not None
    frozen = found.training.state[-1]
    assert (frozen.name, frozen.role, frozen.dtype, frozen.nbytes, frozen.next) == (
        "shift",
        "frozen",
        "float32",
        12,
        "",
    )


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (
            "step",
            [
                "parameter      first.weight                   float64 [4, 3]  96     first.weight/next",
                "loss       loss, of inputs x and targets target",
                "optimizer  SGD: lr 0.1, momentum 0.9",
                "done       0 steps; learning rate now 0.1",
            ],
        ),
        (
            "grad",
            [
                "sum of gradients  weight/grad  float64 [3]  24     weight/grad/next",
                "accumulate 4 runs, then one of the update by 'it.apply.onnx', which does not lie beside this one; 2",
            ],
        ),
        (
            "apply",
            [
                "done       7 steps; learning rate now 0.5",
                "accumulate 4 runs of the gradients, then one of this; 'count' divides their sums",
            ],
        ),
        ("gradients", ["outputs    y", "of         y, the sum of its numbers", "gradient   x/grad, by x"]),
    ],
)
def test_each_kind_is_shown(kind: str, lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = step_model() if kind == "step" else small_model(kind)
    text = _shown(model, tmp_path, capsys, [])
    for line in lines:
        assert line in text
    found = json.loads(_shown(model, tmp_path, capsys, ["--json"]))
    assert found["training"]["kind"] == kind
    assert found["training"]["feeds"] == dict(_metadata(model).feeds)
    assert found["faults"] == []


def test_a_file_of_the_update_that_lies_beside_is_found(tmp_path: Path) -> None:
    onnx.save(small_model("grad"), tmp_path / "it.onnx")
    onnx.save(small_model("apply"), tmp_path / "it.apply.onnx")
    found = inspect_model(tmp_path / "it.onnx").training
    assert found is not None
    assert found.apply_is_there is True


def test_another_model_is_no_training_file(tmp_path: Path) -> None:
    model = step_model()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "it.onnx")
    found = inspect_model(tmp_path / "it.onnx")
    assert (found.training, found.faults) == (None, [])


@pytest.mark.parametrize("is_json", [False, True])
def test_damaged_metadata_is_one_fault(is_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = step_model()
    entry = next(e for e in model.metadata_props if e.key == KEY)
    entry.value = entry.value.replace('"second.bias/next": "second.bias"', '"second.bias/next": "first.bias"')
    onnx.save(model, tmp_path / "it.onnx")
    assert cli.main(["inspect", str(tmp_path / "it.onnx"), *(["--json"] if is_json else [])]) == 1
    text = capsys.readouterr().out
    fault = f"'{tmp_path / 'it.onnx'}' is damaged: output 'second.bias/next' feeds 'first.bias', which only"
    if is_json:
        found = json.loads(text)
        assert found["training"] is None
        assert len(found["faults"]) == 1
        assert found["faults"][0].startswith(fault)
    else:
        assert text.count("fault ") == 1
        assert f"fault      {fault}" in text


def _metadata(model: onnx.ModelProto) -> TrainingMetadata:
    found = find_metadata(model)
    assert found is not None
    return found
