"""The model in eval mode of a training file loads everywhere, and computes with the weights of now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from ort_ops import Trainer
from ort_ops.errors import ModelError
from ort_ops.models.checks import function_difference
from ort_ops.training.file_format import KEY
from ort_ops.training.sessions import first_that_opens
from tests.training_runtime.hand_made import Array, draw_batches, plain_steps, step_model
from tests.training_runtime.test_trainer import assert_same_state


def predict(path: Path, x: Array) -> Array:
    """Run in plain onnxruntime, which knows no operator of ours."""
    options, providers = onnxruntime.SessionOptions(), ["CPUExecutionProvider"]
    session = first_that_opens(lambda more: onnxruntime.InferenceSession(path, options, providers, **more), options)
    (result,) = session.run(None, {"x": x})
    array: Array = result
    return array


def reference(state: dict[str, Array], x: Array) -> Array:
    hidden = np.maximum(x @ state["first.weight"].T + state["first.bias"], 0)
    array: Array = hidden @ state["second.weight"].T + state["second.bias"]
    return array


@pytest.mark.parametrize("operator", [False, True])
def test_it_has_the_trained_weights(tmp_path: Path, operator: bool) -> None:
    onnx.save(step_model(operator=operator), tmp_path / "step.onnx")
    trainer = Trainer(tmp_path / "step.onnx")
    trainer.run(draw_batches(5))
    trainer.export_inference(tmp_path / "model.onnx")
    x = draw_batches(1, 9, seed=3)[0][0]
    np.testing.assert_allclose(predict(tmp_path / "model.onnx", x), reference(trainer.state(), x), rtol=1e-13)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=not operator)
    assert [value.name for value in model.graph.input] == ["x"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 2
    assert sorted(t.name for t in model.graph.initializer) == sorted(trainer.parameters())
    assert [entry.key for entry in model.metadata_props if entry.key == KEY] == []
    assert {f.domain for f in model.functions} == ({"mylinear"} if operator else set())
    if operator:
        assert function_difference(model) is None
        session = ort_ops.InferenceSession(tmp_path / "model.onnx")
        assert session.kernels == trainer.kernels
        np.testing.assert_allclose(session.run(None, {"x": x})[0], reference(trainer.state(), x), rtol=1e-13)


def test_frozen_weights_and_labels_go_along(tmp_path: Path) -> None:
    model = step_model()
    model.metadata_props.add(key="classes", value="a,b")
    (function,) = model.functions
    function.input.append("scale.frozen")
    function.node[-1].output[0] = "unscaled"
    function.node.append(onnx.helper.make_node("Mul", ["unscaled", "scale.frozen"], ["y"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2.0, 3.0]), "scale.frozen"))
    onnx.save(model, tmp_path / "step.onnx")
    trainer = Trainer(tmp_path / "step.onnx")
    trainer.save(tmp_path / "saved.onnx")
    Trainer(tmp_path / "saved.onnx").export_inference(tmp_path / "model.onnx")
    x = draw_batches(1)[0][0]
    expected = reference(trainer.state(), x) * [2.0, 3.0]
    np.testing.assert_allclose(predict(tmp_path / "model.onnx", x), expected, rtol=1e-13)
    assert onnx.load(tmp_path / "model.onnx").metadata_props[0].value == "a,b"


def test_a_file_without_such_a_model_says_so(tmp_path: Path) -> None:
    model = step_model()
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"Inference"', '""')
    onnx.save(model, tmp_path / "step.onnx")
    with pytest.raises(ModelError, match="has no function of the model in eval mode; export it again"):
        Trainer(tmp_path / "step.onnx").export_inference(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("kernels", ["body", "auto", "python"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_steps_of_an_operator(tmp_path: Path, kernels: str, dtype: str) -> None:
    """By its body the bits are those of plain onnxruntime; by any kernel they are near."""
    model = step_model(dtype=dtype, operator=True)
    onnx.save(model, tmp_path / "step.onnx")
    batches = draw_batches(8, dtype=dtype)
    losses, state = plain_steps(model, batches)
    try:
        trainer = Trainer(tmp_path / "step.onnx", kernels=kernels, threads=1)
    except ort_ops.KernelError as error:
        pytest.skip(str(error))
    got = trainer.run(batches)
    if kernels == "body":
        assert got == losses
        assert_same_state(trainer.state(), state)
    rtol = 1e-12 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(got, losses, rtol=rtol)
    assert set(trainer.kernels) <= {"mylinear::MYLINEAR"}
    if kernels == "python":
        assert set(trainer.two_buffers.values()) == {"a kernel in Python may fail half-way"}
