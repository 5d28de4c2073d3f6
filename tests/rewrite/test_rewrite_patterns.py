"""What adopt leaves alone, and what stays as it was around what it adopts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops import InferenceSession
from ort_ops.models.nodes import operator_nodes
from ort_ops.operators.mylinear.contract import NAME
from ort_ops.operators.mylinear.patterns.causes import Cause
from ort_ops.rewrite.reasons import Reason
from ort_ops.rewrite.rewrite import adopt, lower
from tests.rewrite.small_models import RNG, B, W, constant, model_of, node, operators, run

LEFT = {
    "the constant is the left factor": ([node("MatMul", "W x", "y")], {"W": W}, (4, "n")),
    "rank 1": ([node("MatMul", "x W", "y")], {"W": W[:, 0]}, ("batch", 3)),
    "a product of batches": ([node("MatMul", "x W", "y")], {"W": np.stack([W, W])}, (2, 5, 3)),
    "computed by Add": ([node("Add", "W W", "V"), node("MatMul", "x V", "y")], {"W": W}, ("batch", 3)),
    "'x' is an input": ([node("Transpose", "x", "t"), node("MatMul", "x t", "y")], {}, ("batch", 3)),
    "transA=1": ([node("Gemm", "x W", "y", transA=1)], {"W": W}, (3, "n")),
    "alpha=0.3 cannot": ([node("Gemm", "x W", "y", alpha=0.3)], {"W": W}, ("batch", 3)),
    "beta=0.7 cannot": ([node("Gemm", "x W B", "y", beta=0.7)], {"W": W, "B": B}, ("batch", 3)),
    "no single node takes the product": (
        [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "W t", "y")], {"W": W.T.copy()}, ("batch", 3)
    ),
    "a constant that a Cast rounds": (
        [node("Cast", "wide", "W", to=TensorProto.FLOAT), node("MatMul", "x W", "y")],
        {"wide": W.astype(np.float64) + 1e-12}, ("batch", 3),
    ),
    "or makes of other than floating-point numbers": (
        [node("Cast", "whole", "W", to=TensorProto.FLOAT), node("MatMul", "x W", "y")],
        {"whole": np.ones((3, 4), np.int64)}, ("batch", 3),
    ),
    "beta=0 of a C that is not finite": (
        [node("Gemm", "x W B", "y", beta=0.0)], {"W": W, "B": B * np.float32(np.inf)}, ("batch", 3)
    ),
    "'W' is computed by Slice": (
        [
            constant("s", np.array([0])), constant("e", np.array([99])), constant("a", np.array([0])),
            constant("two", np.array([2])), node("Slice", "U s e a two", "W"), node("MatMul", "x W", "y"),
        ],
        {"U": np.repeat(W, 2, axis=0)}, ("batch", 3),
    ),
    "its out_features are not known": (
        [node("Compress", "V kept", "W", axis=0), node("Gemm", "x W", "y", transB=1)],
        {"V": W.T.copy(), "kept": np.ones(4, bool)}, ("batch", 3),
    ),
    "alpha=2 cannot go into the computed value": (
        [node("Abs", "V", "W"), node("Gemm", "x W B", "y", transB=1, alpha=2.0)],
        {"V": W.T.copy(), "B": B}, ("batch", 3),
    ),
    "alpha=1e-30 cannot": ([node("Gemm", "x W", "y", alpha=1e-30)], {"W": W * np.float32(1e-20)}, ("batch", 3)),
    "nor known to be one number for each output feature": (
        [node("Compress", "C kept", "B"), node("Gemm", "x W B", "y")],
        {"W": W, "C": B, "kept": np.ones(4, bool)}, ("batch", 3),
    ),
    "C is not one number for each output feature": (
        [node("Gemm", "x W C", "y")], {"W": W, "C": np.ones((5, 4), np.float32)}, (5, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", LEFT)
def test_what_is_left_alone_is_told_with_the_reason(reason: str, tmp_path: Path) -> None:
    nodes, initializers, x_shape = LEFT[reason]
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    if reason == "'x' is an input":
        nodes = [node("MatMul", "x x", "y")]
        x_shape = (3, 3)
    onnx.save(model_of(nodes, initializers, x_shape), source)
    result = adopt(source, target)
    assert result.rewritten == []
    (entry,) = result.left
    assert reason in str(entry.reason)
    assert operators(onnx.load(target)) == operators(onnx.load(source))
    assert not onnx.load(target).functions


@pytest.mark.parametrize("rank", [1, 2])
def test_an_add_that_is_no_bias_stays(rank: int, tmp_path: Path) -> None:
    """[5, 4] is not one number for each feature, and [1, 4] would make a matrix of a vector."""
    added = np.ones((5, 4) if rank == 2 else (1, 4), np.float32)
    model = model_of(
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": W, "B": added}, (5, 3) if rank == 2 else (3,)
    )
    onnx.save(model, tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert operators(onnx.load(tmp_path / "m.onnx")) == [NAME, "Add"]


def test_a_product_that_others_use_keeps_its_add(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x W", "p"), node("Add", "p B", "h"), node("Mul", "p h", "y")]
    onnx.save(model_of(nodes, {"W": W, "B": B}), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert operators(onnx.load(tmp_path / "m.onnx")) == [NAME, "Add", "Mul"]


def test_an_add_behind_moved_features_stays(tmp_path: Path) -> None:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    nodes = [node("MatMul", "x W", "p"), node("Transpose", "p", "t", perm=[0, 2, 1]), node("Add", "t B", "y")]
    onnx.save(model_of(nodes, {"W": square, "B": square[0]}, (2, 3, 3)), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert operators(onnx.load(tmp_path / "m.onnx")) == [NAME, "Transpose", "Add"]


def test_an_add_that_widens_the_product_stays(tmp_path: Path) -> None:
    onnx.save(
        model_of([node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": W[:, :1].copy(), "B": B}),
        tmp_path / "m.onnx",
    )
    adopt(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert operators(onnx.load(tmp_path / "m.onnx")) == [NAME, "Add"]


def test_a_weight_that_a_caller_may_override_is_left_alone(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x W", "y")], {"W": W})
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, W.shape))
    onnx.save(model, tmp_path / "m.onnx")
    (entry,) = adopt(tmp_path / "m.onnx", tmp_path / "m.onnx").left
    assert "'W' is also an input, which a caller may override" in str(entry.reason)


def test_a_weight_that_a_caller_may_override_stays_an_input_where_it_lies_right(tmp_path: Path) -> None:
    model = model_of([node("Gemm", "x W B", "y", transB=1)], {"W": W.T.copy(), "B": B})
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, (4, 3)))
    onnx.save(model, tmp_path / "m.onnx")
    assert len(adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").rewritten) == 1
    x, other = np.ones((2, 3), np.float32), np.full((4, 3), 7, np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for feed in ({"x": x}, {"x": x, "W": other}):
        got, expected = (
            onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), options).run(None, feed)[0] for name in "am"
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_weight_that_is_a_function_s_parameter(tmp_path: Path) -> None:
    types = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in {"X": ("n", 3), "V": (4, 3)}.items()]
    function = helper.make_function(
        "local", "Layer", ["X", "V"], ["Y"],
        [node("Transpose", "V", "T", perm=[1, 0]), node("MatMul", "X T", "Y")],
        [helper.make_opsetid("", 20)], value_info=types,
    )  # fmt: skip
    call = helper.make_node("Layer", ["x", "W"], ["y"], domain="local")
    onnx.save(model_of([call], {"W": W.T.copy()}, functions=[function]), tmp_path / "m.onnx")
    result = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert [entry.shape for entry in result.rewritten] == [(4, 3)], result.left
    (linear,) = operator_nodes(onnx.load(tmp_path / "a.onnx"))
    assert linear.node.input[1] == "V"
    assert [n.op_type for n in linear.container.node] == ["Constant", NAME], "no Transpose"
    x = RNG.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), run(tmp_path / "m.onnx", x), rtol=1e-5, atol=1e-6)


def test_others_still_see_what_a_product_from_the_left_gives(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "W t", "p"), node("Transpose", "p", "q", perm=[1, 0]),
        node("MatMul", "q p", "y"),
    ]  # fmt: skip
    onnx.save(model_of(nodes, {"W": W.T.copy()}, ("batch", 3)), tmp_path / "m.onnx")
    assert adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").rewritten == []


def test_shared_weights_stay_shared_and_no_transpose_runs(tmp_path: Path) -> None:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    nodes = [
        node("MatMul", "x W", "a"), node("MatMul", "a W", "b"), node("Transpose", "W", "Wt", perm=[1, 0]),
        node("MatMul", "b Wt", "y"),
    ]  # fmt: skip
    onnx.save(model_of(nodes, {"W": square}), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    assert operators(model) == [NAME] * 3
    first, second, third = (n.input[1] for n in model.graph.node)
    assert first == second
    assert third == "W"
    assert sorted(t.name for t in model.graph.initializer) == ["W", "W_transposed", "absent_bias_3"]
    lower(tmp_path / "out.onnx", tmp_path / "back.onnx")
    assert len(onnx.load(tmp_path / "back.onnx").graph.initializer) == 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda t: t.__name__)
def test_every_dtype(dtype: Any, tmp_path: Path) -> None:
    element_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of(
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")],
        {"W": W.astype(dtype), "B": B.astype(dtype)}, dtype=element_type,
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "out.onnx")
    adopted = onnx.load(tmp_path / "out.onnx")
    (tensor,) = [t for t in adopted.graph.initializer if t.name == "W_transposed"]
    assert tensor.data_type == element_type
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), W.astype(dtype).T)
    session = InferenceSession(tmp_path / "out.onnx", kernels="body")
    x = np.ones((2, 3), dtype)
    expected = W.astype(dtype).astype(np.float64).sum(0) + B.astype(dtype)
    np.testing.assert_allclose(session.run(None, {"x": x})[0].astype(np.float64), np.stack([expected] * 2), rtol=0.02)


def test_integers_are_left_alone(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x W", "y")], {"W": np.ones((3, 4), np.int32)}, dtype=TensorProto.INT32)
    onnx.save(model, tmp_path / "m.onnx")
    assert adopt(tmp_path / "m.onnx", tmp_path / "m.onnx").left[0].reason == Reason(Cause.DTYPE, {"dtype": "int32"})
