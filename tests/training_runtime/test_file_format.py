"""The metadata of a training file is complete, and no damaged or edited file passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import pytest
from onnx import helper, numpy_helper

from ort_ops.errors import ModelError
from ort_ops.training.check import read_training
from ort_ops.training.file_format import KEY, TrainingMetadata, find_metadata, put_metadata
from tests.training_runtime.hand_made import step_model


def _metadata(model: onnx.ModelProto) -> TrainingMetadata:
    found = find_metadata(model)
    assert found is not None
    return found


def test_metadata_survives_json() -> None:
    metadata = replace(_metadata(step_model(groups=2)), ranges={"x": (-0.5, 2.0)})
    assert TrainingMetadata.from_json(metadata.to_json()) == metadata
    assert read_training(step_model(), "'it'").fed[-1] == "step"


def test_a_model_without_metadata_is_no_training_file() -> None:
    model = step_model()
    del model.metadata_props[:]
    with pytest.raises(ModelError, match=r"^'it' is no training file; `exporter.export_training` writes one$"):
        read_training(model, "'it'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is no JSON"),
        ("[]", "must be an object"),
        ("[" * 100_000, "it is no JSON"),
        ("{}", "reads format 1 of training files, and the file has None"),
        ('{"format": 2, "kind": "step"}', "the file has 2; export it again, or update"),
        ('{"format": true, "kind": "step"}', "the file has True"),
        ('{"format": 1, "kind": "stop"}', "'kind' must be one of step, grad, apply, gradients, got 'stop'"),
        ('{"format": 1, "kind": "step", "kind": "step"}', "an entry is there twice"),
        ('{"format": 1, "kind": "step", "more": 1}', "the unknown entry 'more'"),
        ('{"format": 1, "kind": "step", "inputs": "x"}', "'inputs' must be a list of names, got 'x'"),
        ('{"format": 1, "kind": "step", "loss": 1}', "'loss' must be a name, got 1"),
        ('{"format": 1, "kind": "step", "feeds": {"a": 1}}', "'feeds' must map names to names"),
        ('{"format": 1, "kind": "step", "accumulate": 0}', "'accumulate' must be a whole number from 1, got 0"),
        ('{"format": 1, "kind": "step", "ranges": {"x": [1, 0]}}', "'ranges' must map names to two finite numbers"),
        ('{"format": 1, "kind": "step", "ranges": {"x": [0, 1e999]}}', "'ranges' must map names to two finite numbers"),
        ('{"format": 1, "kind": "step", "ranges": {"x": 1}}', "'ranges' must map names to two finite numbers"),
        ('{"format": 1, "kind": "step", "optimizer": {"class": "SGD"}}', "must have 'class' and 'groups'"),
    ],
)
def test_wrong_json_is_refused(text: str, message: str) -> None:
    model = step_model()
    model.metadata_props[0].value = text
    with pytest.raises(ModelError, match=message) as caught:
        read_training(model, "'it'")
    assert "\n" not in str(caught.value)


def _without_input(model: onnx.ModelProto) -> None:
    model.graph.input.remove(next(v for v in model.graph.input if v.name == "first.bias"))


def _swapped_feeds(model: onnx.ModelProto) -> None:
    entry = next(e for e in model.metadata_props if e.key == KEY)
    found = json.loads(entry.value)
    found["feeds"]["first.weight/momentum_buffer/next"] = "first.weight"
    found["feeds"]["first.weight/next"] = "first.weight/momentum_buffer"
    entry.value = json.dumps(found)


def _changed(**changes: Any) -> Callable[[onnx.ModelProto], None]:
    return lambda model: put_metadata(model, replace(_metadata(model), **changes))


def _output(name: str, dtype: int, shape: list[int]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        value = next(v for v in model.graph.output if v.name == name)
        value.CopyFrom(helper.make_tensor_value_info(name, dtype, shape))

    return change


def _first_value(name: str, tensor: onnx.TensorProto | None) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        found = next(t for t in model.graph.initializer if t.name == name)
        if tensor is None:
            model.graph.initializer.remove(found)
        else:
            found.CopyFrom(tensor)

    return change


def _twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key=KEY, value=model.metadata_props[0].value)


DOUBLE, FLOAT = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_twice, "it is there 2 times"),
        (_without_input, "metadata names the input 'first.bias', which is missing"),
        (_changed(inputs=()), "the input 'x' is not in its metadata"),
        (_changed(inputs=("x", "x")), "input 'x' is there twice"),
        (_changed(loss=""), "lacks 'loss'"),
        (_changed(lr=""), "lacks 'lr'"),
        (_changed(accumulate=2), "has 'accumulate', which a file of kind 'step' has not"),
        (_changed(kind="gradients"), "has 'loss', which a file of kind 'gradients' has not"),
        (_changed(feeds={}), "output 'first.bias/m.*/next' is not in its metadata"),
        (_swapped_feeds, "output 'first.weight/next' feeds '.*buffer', which only 'first.weight/m.*/next' may"),
        (
            _output("first.weight/next", DOUBLE, [3, 4]),
            r"must be float64 \[4, 3\] as 'first.weight' is, got float64 \[3",
        ),
        (_output("first.bias/next", FLOAT, [4]), r"must be float64 \[4\] as 'first.bias' is, got float32 \[4\]"),
        (_output("loss", DOUBLE, [1]), r"'loss' must be a scalar of .*, got float64 \[1\]"),
        (_output("step/next", DOUBLE, []), "'step/next' must be a scalar of int64, got float64"),
        (_first_value("second.bias", None), "first value 'second.bias', which is missing"),
        (
            _first_value("second.bias", helper.make_tensor("second.bias", FLOAT, [2], [0, 0])),
            r"the first value of 'second.bias' must be float64 \[2\], got float32 \[2\]",
        ),
        (_changed(ranges={"step": (0.0, 1.0)}), "has a range of 'step', which is no input or target"),
        (_changed(inference="Other"), "there are 0 functions 'Other'"),
        (lambda model: model.functions[0].input.append("target"), "takes 'target', which the file has not"),
        (lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"), "'first.weight' has no shape"),
    ],
)
def test_a_graph_that_is_not_what_the_metadata_says_is_refused(
    change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = step_model()
    change(model)
    with pytest.raises(ModelError, match=message) as caught:
        read_training(model, "'it'")
    assert str(caught.value).startswith("'it'")
    assert "\n" not in str(caught.value)


def test_every_group_has_its_learning_rate() -> None:
    model = step_model(groups=2)
    read_training(model, "'it'")
    value = next(v for v in model.graph.input if v.name == "lr")
    value.CopyFrom(helper.make_tensor_value_info("lr", DOUBLE, []))
    with pytest.raises(ModelError, match=r"'lr' must be float64 \[2\] for 2 groups of parameters, got float64 \[\]"):
        read_training(model, "'it'")
    metadata = _metadata(model)
    assert metadata.optimizer is not None
    groups = (metadata.optimizer.groups[0], replace(metadata.optimizer.groups[1], parameters=("first.weight",)))
    put_metadata(model, replace(metadata, optimizer=replace(metadata.optimizer, groups=groups)))
    with pytest.raises(ModelError, match=r"parameter of the optimizer's groups 'first.weight' is there twice"):
        read_training(model, "'it'")


def test_a_state_of_a_free_shape_is_refused() -> None:
    model = step_model()
    values = {v.name: v for v in (*model.graph.input, *model.graph.output)}
    for name in ("first.weight", "first.weight/next"):
        values[name].type.tensor_type.shape.dim[0].dim_param = "n"
    with pytest.raises(ModelError, match=r"the shape of 'first.weight' must be fixed, got \[n, 3\]"):
        read_training(model, "'it'")
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (4, 3)


def _gradients_model() -> onnx.ModelProto:
    """Return the product of ``x`` and a constant ``w``, with gradients by both for a cotangent of ``y``."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["y"]),
        helper.make_node("Mul", ["y/cotangent", "w"], ["x/grad"]),
        helper.make_node("Mul", ["y/cotangent", "x"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["w/grad"], keepdims=0),
    ]
    values = {n: helper.make_tensor_value_info(n, DOUBLE, ["b", 3]) for n in ("x", "y/cotangent", "y", "x/grad")}
    values["w/grad"] = helper.make_tensor_value_info("w/grad", DOUBLE, [3])
    stored = [
        helper.make_tensor("w", DOUBLE, [3], [1, 2, 3]),
        helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [0]),
    ]
    inputs, outputs = [[values[n] for n in names] for names in (("x", "y/cotangent"), ("y", "x/grad", "w/grad"))]
    model = helper.make_model(helper.make_graph(nodes, "it", inputs, outputs, stored))
    gradients = {"x/grad": "x", "w/grad": "w"}
    metadata = TrainingMetadata(
        "gradients", inputs=("x",), outputs=("y",), of=("y",), cotangents={"y/cotangent": "y"}, gradients=gradients
    )
    put_metadata(model, metadata)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed(of=()), "lacks 'of'"),
        (_changed(of=("z",), cotangents={"y/cotangent": "z"}), "differentiates 'z', which is no output of the model"),
        (_changed(cotangents={}), "the input 'y/cotangent' is not in its metadata"),
        (_changed(cotangents={"y/cotangent": "x"}), "names the output with a cotangent 'y', which is missing"),
        (_changed(gradients={"x/grad": "w", "w/grad": "x"}), "'x/grad' is the gradient of 'w', which 'w/grad' must be"),
        (_changed(gradients={"x/grad": "x"}), "the output 'w/grad' is not in its metadata"),
        (_output("w/grad", DOUBLE, [4]), r"'w/grad' must be float64 \[3\] as 'w' is, got float64 \[4\]"),
        (_output("x/grad", FLOAT, [2, 3]), r"'x/grad' must be float64 \[b, 3\] as 'x' is, got float32 \[2, 3\]"),
        (_output("y", DOUBLE, [3]), r"'y/cotangent' must be float64 \[3\] as 'y' is, got float64 \[b, 3\]"),
        (_first_value("w", None), "'w/grad' belongs to 'w', which the file has not"),
    ],
)
def test_gradients_that_are_not_what_the_metadata_says_are_refused(
    change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = _gradients_model()
    assert read_training(model, "'it'").given == ("x", "y/cotangent")
    change(model)
    with pytest.raises(ModelError, match=message):
        read_training(model, "'it'")
