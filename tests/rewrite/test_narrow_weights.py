"""`adopt --weights`: weights of 16 bits under float32, what is left, and what the check finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.cli.main import main
from ort_ops.operators.mylinear.patterns.version_2 import narrow
from ort_ops.rewrite.reasons import RewriteError
from ort_ops.rewrite.rewrite import adopt, lower
from ort_ops.rewrite.selection import SelectionError
from tests.rewrite.activation_models import WEIGHT, K, model_with, plain
from tests.rewrite.small_models import operators, run

Array = NDArray[Any]
X = np.random.default_rng(0).standard_normal((7, K)).astype(np.float32)
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def narrow_file(model: onnx.ModelProto, tmp_path: Path, dtype: str, **options: Any) -> tuple[onnx.ModelProto, Any]:
    onnx.save(model, tmp_path / "in.onnx")
    result = adopt(tmp_path / "in.onnx", tmp_path / "out.onnx", weight_dtype=dtype, **options)
    return onnx.load(tmp_path / "out.onnx"), result


def weights(model: onnx.ModelProto) -> list[Array]:
    names = [node.input[1] for node in model.graph.node if node.op_type == "MYLINEAR"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [stored[name] for name in names]


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_rounded_to_nearest_even(dtype: str, tmp_path: Path) -> None:
    model, result = narrow_file(model_with(plain("Relu")()), tmp_path, dtype)
    (weight,) = weights(model)
    assert weight.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(weight, WEIGHT.T.astype(DTYPES[dtype]))
    worst = np.max(np.abs(weight.astype(np.float64) - WEIGHT.T) / np.abs(WEIGHT.T))
    assert result.rounding == pytest.approx(worst)
    assert result.rounding_note.endswith(f"largest relative change {worst:.2g}")
    assert 0 < result.checks[-1].change < 2 * result.rounding
    assert {entry.domain: entry.version for entry in model.opset_import}["mylinear"] == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_body_serves_it_in_plain_onnxruntime(dtype: str, tmp_path: Path) -> None:
    model, _ = narrow_file(model_with(plain("Relu")()), tmp_path, dtype, fuse_activations=True)
    assert operators(model) == ["MYLINEAR"]
    (weight,) = weights(model)
    bias = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "b")
    expected = np.maximum(X @ weight.astype(np.float32).T + bias, 0)
    np.testing.assert_allclose(run(tmp_path / "out.onnx", X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lower_makes_them_float32_again(dtype: str, tmp_path: Path) -> None:
    narrow_file(model_with(plain("Relu")()), tmp_path, dtype)
    lower(tmp_path / "out.onnx", tmp_path / "back.onnx")
    back = onnx.load(tmp_path / "back.onnx")
    assert operators(back) == ["MatMul", "Add", "Relu"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in back.graph.initializer}
    np.testing.assert_array_equal(stored[back.graph.node[0].input[1]], WEIGHT.astype(DTYPES[dtype]).astype(np.float32))


def test_a_weight_that_float16_does_not_hold_is_left(tmp_path: Path) -> None:
    model = model_with(plain("Relu")())
    large = WEIGHT.copy()
    large[2, 3] = 7e4
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(large, "w"))
    narrowed, result = narrow_file(model, tmp_path, "float16")
    assert weights(narrowed)[0].dtype == np.float32
    assert str(result.left[-1].reason) == "the weight's largest number is 70000, and float16 ends at 65504"
    assert weights(narrow_file(model, tmp_path, "bfloat16")[0])[0].dtype == ml_dtypes.bfloat16


def test_a_weight_that_others_take_is_left(tmp_path: Path) -> None:
    onnx.save(model_with(plain("Relu")(), layer="Gemm"), tmp_path / "first.onnx")
    adopt(tmp_path / "first.onnx", tmp_path / "ours.onnx")
    model = onnx.load(tmp_path / "ours.onnx")
    shared = model.graph.node[0].input[1]
    model.graph.node.append(helper.make_node("ReduceSum", [shared], ["total"]))
    model.graph.output.append(helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, None))
    narrowed, result = narrow_file(model, tmp_path, "bfloat16")
    assert weights(narrowed)[0].dtype == np.float32
    assert "it would be stored twice" in str(result.left[-1].reason)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types_are_left(dtype: type[np.generic], tmp_path: Path) -> None:
    model, result = narrow_file(model_with(plain("Relu")(), dtype=dtype), tmp_path, "bfloat16")
    assert weights(model)[0].dtype == dtype
    assert f"the weight is {np.dtype(dtype).name}" in str(result.left[-1].reason)


def test_layers_that_share_a_weight_share_the_narrow_one(tmp_path: Path) -> None:
    model = model_with(plain("Relu")())
    copy = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    for node in copy:
        node.name += "_2"
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = f"{name}2" if name in ("product", "s", "y") else name
    model.graph.node.extend(copy)
    model.graph.output.append(helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, None))
    narrowed, result = narrow_file(model, tmp_path, "bfloat16")
    first, second = (node.input[1] for node in narrowed.graph.node if node.op_type == "MYLINEAR")
    assert first == second
    assert sum(tensor.name == first for tensor in narrowed.graph.initializer) == 1
    assert len(result.rounded) == 1


def test_cut_off_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncation, the usual mistake with bfloat16."""
    right = narrow.narrowed

    def cut(weight: Any, dtype: str) -> Any:
        made = right(weight, dtype)

        def last(array: Array) -> Array:
            return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)

        return type(made)(made.source, made.steps, (*made.functions[:-1], last), made.cast_to)

    monkeypatch.setattr(narrow, "narrowed", cut)
    with pytest.raises(RewriteError, match="would change"):
        narrow_file(model_with(plain("Relu")()), tmp_path, "bfloat16")
    assert not (tmp_path / "out.onnx").exists()


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="must be bfloat16 or float16, got 'int8'"):
        narrow_file(model_with(plain("Relu")()), tmp_path, "int8")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model_with(plain("Relu")()), tmp_path / "in.onnx")
    arguments = ["adopt", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--fuse-activations"]
    assert main([*arguments, "--weights", "bfloat16"]) == 0
    told = capsys.readouterr().out
    assert "1 weight rounded to bfloat16: largest relative change" in told
    assert "rounding the weights changed an output by" in told
    assert main([*arguments, "--weights", "bfloat16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounded"]
