"""adopt and lower: every form of a linear layer, everywhere in a graph, there and back, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ort_ops import InferenceSession
from ort_ops.cli import main as cli
from ort_ops.errors import ModelError
from ort_ops.models.checks import function_difference
from ort_ops.models.nodes import has_function, operator_nodes
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear import patterns
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.operators.mylinear.patterns import lowering as linear_lowering
from ort_ops.operators.mylinear.patterns.causes import Cause
from ort_ops.rewrite import files as rewrite_files
from ort_ops.rewrite import rewrite
from ort_ops.rewrite import whole as rewrite_whole
from ort_ops.rewrite.graph import editor as rewrite_editor
from ort_ops.rewrite.reasons import Reason
from ort_ops.rewrite.report import Extent, Place
from ort_ops.rewrite.rewrite import RewriteError, adopt, lower
from tests.linear_model import make_linear_model

Array = NDArray[Any]
RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 4)).astype(np.float32)  # as MatMul takes it
B = RNG.standard_normal(4).astype(np.float32)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=f"node_{output}", **attributes)


def constant(name: str, array: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))


def model_of(
    nodes: list[onnx.NodeProto],
    initializers: dict[str, Array],
    x_shape: tuple[int | str, ...] = ("batch", 3),
    y_shape: tuple[int | str, ...] | None = None,
    dtype: int = TensorProto.FLOAT,
    functions: list[onnx.FunctionProto] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()]
    rank = len(initializers["shape"]) if "shape" in initializers else len(x_shape)
    output = helper.make_tensor_value_info("y", dtype, y_shape or [f"y{i}" for i in range(rank)])
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", dtype, x_shape)], [output], tensors)
    imports = [helper.make_opsetid("", opset)]
    if functions:
        imports.append(helper.make_opsetid("local", 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions or [])


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(path: Path, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    result: Array = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return result


# name, nodes, initializers, shape of x, operators after adopt, operators after lower of that
FORMS: dict[str, tuple[list[onnx.NodeProto], dict[str, Array], tuple[int | str, ...], list[str], list[str]]] = {
    "Add of the bias": (
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": W, "B": B}, ("batch", 3), [NAME], ["MatMul", "Add"]
    ),
    "Add to the bias": (
        [node("MatMul", "x W", "p"), node("Add", "B p", "y")], {"W": W, "B": B}, ("batch", 3), [NAME], ["MatMul", "Add"]
    ),
    "no bias": ([node("MatMul", "x W", "y")], {"W": W}, ("batch", 3), [NAME], ["MatMul"]),
    "a vector": (
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": W, "B": B}, (3,), [NAME], ["MatMul", "Add"]
    ),
    "N-D": (
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")],
        {"W": W, "B": B}, ("n", 2, 5, 3), [NAME], ["MatMul", "Add"],
    ),
    "bias of rank 2": (
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")],
        {"W": W, "B": B[None]}, ("batch", 3), [NAME], ["MatMul", "Add"],
    ),
    "bias of one number": (
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")],
        {"W": W, "B": np.float32(0.5)}, ("batch", 3), [NAME], ["MatMul", "Add"],
    ),
    "constants through Identity, Transpose and Reshape": (
        [
            constant("raw", W.T.reshape(2, 6)), constant("shape", np.array([4, -1])),
            node("Reshape", "raw shape", "Wt"),
            node("Identity", "Wt", "Wi"), node("Transpose", "Wi", "W", perm=[1, 0]), node("MatMul", "x W", "p"),
            constant("late", B), node("Add", "p late", "y"),
        ],
        {}, ("batch", 3), [NAME], ["MatMul", "Add"],
    ),
    "Reshape and Identity between product and bias": (
        [
            node("MatMul", "x W", "p"), node("Identity", "p", "i"),
            node("Reshape", "i shape", "r"), node("Add", "r B", "y"),
        ],
        {"W": W, "B": B, "shape": np.array([-1, 2, 4])}, (6, 3),
        [NAME, "Identity", "Reshape"], ["MatMul", "Add", "Identity", "Reshape"],
    ),
    "Transpose of other dimensions between product and bias": (
        [node("MatMul", "x W", "p"), node("Transpose", "p", "t", perm=[1, 0, 2]), node("Add", "t B", "y")],
        {"W": W, "B": B}, (2, 5, 3), [NAME, "Transpose"], ["MatMul", "Add", "Transpose"],
    ),
    "a weight of rank 3": (
        [node("MatMul", "x W", "p"), node("Add", "p B", "y")],
        {"W": W[None], "B": B}, (2, 5, 3), [NAME], ["MatMul", "Add"],
    ),
    "Gemm": ([node("Gemm", "x W B", "y")], {"W": W, "B": B}, ("batch", 3), [NAME], ["Gemm"]),
    "Gemm transB": (
        [node("Gemm", "x W B", "y", transB=1)], {"W": W.T.copy(), "B": B}, ("batch", 3), [NAME], ["Gemm"]
    ),
    "Gemm without C": ([node("Gemm", "x W", "y")], {"W": W}, ("batch", 3), [NAME], ["Gemm"]),
    "Gemm with C of one number": (
        [node("Gemm", "x W B", "y")], {"W": W, "B": B[:1]}, ("batch", 3), [NAME], ["Gemm"]
    ),
    "Gemm with exact alpha and beta": (
        [node("Gemm", "x W B", "y", alpha=0.5, beta=-2.0)], {"W": W, "B": B}, ("batch", 3), [NAME], ["Gemm"]
    ),
    "Gemm with beta 0": (
        [node("Gemm", "x W B", "y", beta=0.0)], {"W": W, "B": B}, ("batch", 3), [NAME], ["Gemm"]
    ),
    "a product from the left, between Transposes": (
        [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "W t", "p"), node("Transpose", "p", "y")],
        {"W": W.T.copy()}, ("batch", 3), [NAME], ["MatMul"],
    ),
    "the same with a bias, N-D": (
        [
            node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "W t", "p"), node("Add", "B p", "s"),
            node("Transpose", "s", "y", perm=[0, 2, 1]),
        ],
        {"W": W.T.copy(), "B": B[:, None]}, ("batch", 5, 3), [NAME], ["MatMul", "Add"],
    ),
    "a weight of another type, behind a Cast that keeps its numbers": (
        [
            node("Cast", "half", "W", to=TensorProto.FLOAT), node("MatMul", "x W", "p"),
            node("Cast", "wide", "B", to=TensorProto.FLOAT), node("Add", "p B", "y"),
        ],
        {"half": W.astype(np.float16), "wide": B.astype(np.float64)}, ("batch", 3), [NAME], ["MatMul", "Add"],
    ),
    "constants through Squeeze, Unsqueeze and Flatten": (
        [
            constant("axes", np.array([0, 3])), node("Unsqueeze", "raw axes", "u"), node("Flatten", "u", "f", axis=2),
            constant("rest", np.array([0])), node("Squeeze", "C rest", "B"), node("Gemm", "x f B", "y"),
        ],
        {"raw": W, "C": B[None]}, ("batch", 3), [NAME], ["Gemm"],
    ),
    "parts of constants": (
        [
            constant("sizes", np.array([2, 3, 1])),
            helper.make_node("Split", ["U", "sizes"], ["u0", "W", "u2"], axis=-2),
            constant("start", np.array([-5])), constant("end", np.array([-1])), node("Slice", "C start end", "B"),
            node("MatMul", "x W", "p"), node("Add", "p B", "y"),
        ],
        {"U": np.concatenate([W[:2], W, W[:1]]), "C": np.concatenate([B[:1], B, B[:1]])}, ("batch", 3),
        [NAME], ["MatMul", "Add"],
    ),
    "Split in halves, and Slice of chosen axes": (
        [
            helper.make_node("Split", ["U"], ["u0", "V"], axis=0, num_outputs=2),
            constant("start", np.array([1])), constant("end", np.array([2**62])), constant("axes", np.array([1])),
            node("Slice", "V start end axes", "W"), node("MatMul", "x W", "y"),
        ],
        {"U": np.pad(np.concatenate([W, W]), ((1, 0), (1, 0)))}, ("batch", 3), [NAME], ["MatMul"],
    ),
    "Gemm with C of one row": ([node("Gemm", "x W B", "y")], {"W": W, "B": B[None]}, ("batch", 3), [NAME], ["Gemm"]),
    "Gemm with C of rank 2 and one number": (
        [node("Gemm", "x W B", "y")], {"W": W, "B": B[:1, None]}, ("batch", 3), [NAME], ["Gemm"]
    ),
    "Gemm with a scalar C": (
        [node("Gemm", "x W B", "y")], {"W": W, "B": np.float32(2.5)}, ("batch", 3), [NAME], ["Gemm"]
    ),
    "Gemm transB of a computed weight": (
        [node("Abs", "V", "W"), node("Gemm", "x W B", "y", transB=1)],
        {"V": W.T.copy(), "B": B}, ("batch", 3), ["Abs", NAME], ["Abs", "Gemm"],
    ),
    "Gemm with a computed C": (
        [node("Abs", "C", "B"), node("Gemm", "x W B", "y")],
        {"W": W, "C": B}, ("batch", 3), ["Abs", NAME], ["Abs", "Gemm"],
    ),
    "the Transpose of a computed weight": (
        [
            node("Abs", "V", "A"), node("Transpose", "A", "W", perm=[1, 0]), node("MatMul", "x W", "p"),
            node("Add", "B p", "y"),
        ],
        {"V": W.T.copy(), "B": B}, ("batch", 2, 3), ["Abs", NAME], ["Abs", "Transpose", "MatMul", "Add"],
    ),
    "the same without a bias": (
        [node("Abs", "V", "A"), node("Transpose", "A", "W"), node("MatMul", "x W", "y")],
        {"V": W.T.copy()}, ("batch", 3), ["Abs", NAME], ["Abs", "Transpose", "MatMul"],
    ),
    "Gemm transA of a Transpose": (
        [node("Transpose", "x", "t", perm=[1, 0]), node("Gemm", "t W B", "y", transA=1)],
        {"W": W, "B": B}, ("batch", 3), [NAME], ["Gemm"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_adopted_and_comes_back(form: str, tmp_path: Path) -> None:
    nodes, initializers, x_shape, adopted, lowered = FORMS[form]
    paths = [tmp_path / f"{name}.onnx" for name in ("source", "adopted", "lowered", "again")]
    onnx.save(onnx.shape_inference.infer_shapes(model_of(nodes, initializers, x_shape)), paths[0])
    result = adopt(paths[0], paths[1])
    assert len(result.rewritten) == 1, result.left
    assert any(check.extent is Extent.WHOLE for check in result.checks), result.checks
    model = onnx.load(paths[1])
    assert operators(model) == adopted
    assert has_function(model, MYLINEAR)
    onnx.checker.check_model(model, full_check=True)
    back = lower(paths[1], paths[2])
    assert operators(onnx.load(paths[2])) == lowered
    assert not onnx.load(paths[2]).functions
    assert [entry.domain for entry in onnx.load(paths[2]).opset_import] == [""]
    adopt(paths[2], paths[3])
    assert operators(onnx.load(paths[3])) == adopted
    assert back.num_nodes_before == result.num_nodes_after
    x = np.random.default_rng(1).standard_normal([7 if isinstance(d, str) else d for d in x_shape]).astype(np.float32)
    expected = run(paths[0], x)
    for path in paths[1:]:
        got = run(path, x)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


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


def branches(weight_inside: bool) -> onnx.ModelProto:
    """If on the sum of x: a linear layer in each branch, its weight within the branch or of the main graph."""
    tensors = [numpy_helper.from_array(W, "W"), numpy_helper.from_array(B, "B")] if weight_inside else []

    def branch(name: str, op_type: str) -> onnx.GraphProto:
        nodes = [node("MatMul", "x W", f"p_{name}"), node("Add", f"p_{name} B", f"h_{name}")]
        nodes.append(node(op_type, f"h_{name}", f"out_{name}"))
        output = helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, ["batch", 4])
        return helper.make_graph(nodes, name, [], [output], tensors)

    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0), constant("zero", np.float32(0)),
        node("Greater", "sum zero", "positive"),
        node("If", "positive", "y", then_branch=branch("then", "Relu"), else_branch=branch("else", "Neg")),
    ]  # fmt: skip
    return model_of(nodes, {} if weight_inside else {"W": W, "B": B})


def looped() -> onnx.ModelProto:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    body = helper.make_graph(
        [node("MatMul", "state W", "p"), node("Add", "p b", "next"), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch", 3]),
        ],
    )
    nodes = [constant("n", np.int64(3)), constant("true", np.bool_(True)), node("Loop", "n true x", "y", body=body)]
    return model_of(nodes, {"W": square, "b": square[0]})


def scanned() -> onnx.ModelProto:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    body = helper.make_graph(
        [node("Gemm", "row2 W", "g"), node("Squeeze", "g axis", "s"), node("Add", "s state", "next"),
         node("Identity", "next", "out")],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("state", "row")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("next", "out")],
        [numpy_helper.from_array(square, "W"), numpy_helper.from_array(np.array([0]), "axis")],
    )  # fmt: skip
    body.node.insert(0, node("Unsqueeze", "row axis", "row2"))
    scan = helper.make_node("Scan", ["zero", "x"], ["last", "y"], num_scan_inputs=1, body=body)
    return model_of([constant("zero", np.zeros(3, np.float32)), scan], {}, ("batch", 3))


def in_a_function() -> onnx.ModelProto:
    function = helper.make_function(
        "local", "Block", ["X"], ["Y"],
        [constant("W", W), constant("B", B), node("MatMul", "X W", "p"), node("Add", "p B", "h"),
         node("Relu", "h", "Y")],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    return model_of([helper.make_node("Block", ["x"], ["y"], domain="local")], {}, functions=[function])


INNER: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "If, weights inside": (lambda: branches(True), 2),
    "If, weights outside": (lambda: branches(False), 2),
    "Loop": (looped, 1),
    "Scan": (scanned, 1),
    "a model-local function": (in_a_function, 1),
}


@pytest.mark.parametrize("name", INNER)
def test_inner_graphs_are_rewritten_both_ways(name: str, tmp_path: Path) -> None:
    make, count = INNER[name]
    paths = [tmp_path / f"{n}.onnx" for n in ("source", "adopted", "lowered")]
    onnx.save(make(), paths[0])
    result = adopt(paths[0], paths[1])
    assert len(result.rewritten) == len(operator_nodes(onnx.load(paths[1]))) == count
    assert all(entry.place != Place() for entry in result.rewritten)
    assert function_difference(onnx.load(paths[1])) is None
    lower(paths[1], paths[2])
    assert operator_nodes(onnx.load(paths[2])) == []
    assert all(entry.domain != DOMAIN for f in onnx.load(paths[2]).functions for entry in f.opset_import)
    for sign in (1, -1):
        x = sign * np.abs(np.random.default_rng(2).standard_normal((4, 3))).astype(np.float32)
        for path in paths[1:]:
            np.testing.assert_allclose(run(path, x), run(paths[0], x), rtol=1e-5, atol=1e-5)
    again = adopt(paths[2], tmp_path / "again.onnx")
    assert again.num_nodes_after == result.num_nodes_after


def test_names_metadata_documentation_opsets_and_quantisation_are_kept(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": W, "B": B}, opset=17)
    model.doc_string, model.graph.doc_string, model.producer_name = "a model", "a graph", "somebody"
    model.graph.node[0].doc_string = "a layer"
    helper.set_model_props(model, {"author": "me"})
    model.graph.input[0].doc_string = "pixels"
    model.opset_import.append(helper.make_opsetid("com.example", 3))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    annotation = onnx.TensorAnnotation(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    model.graph.quantization_annotation.append(annotation)
    onnx.save(model, tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    for name in ("a", "l"):
        got = onnx.load(tmp_path / f"{name}.onnx")
        assert (got.doc_string, got.graph.doc_string, got.producer_name) == ("a model", "a graph", "somebody")
        assert [(p.key, p.value) for p in got.metadata_props] == [("author", "me")]
        assert got.graph.node[0].doc_string == "a layer"
        assert got.graph.node[0].name == "node_p"
        assert got.graph.input[0] == model.graph.input[0]
        assert got.graph.output[0] == model.graph.output[0]
        assert list(got.graph.quantization_annotation) == [annotation]
        assert {e.domain: e.version for e in got.opset_import if e.domain != DOMAIN} == {"": 17, "com.example": 3}
        assert "scale" in {tensor.name for tensor in got.graph.initializer}
    assert not any(n.metadata_props for n in onnx.load(tmp_path / "l.onnx").graph.node)


def external_model(folder: Path) -> Path:
    big = RNG.standard_normal((300, 300)).astype(np.float32)
    model = model_of([node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": big, "B": big[0]}, ("batch", 300))
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_stays_external_in_one_file_beside_the_model(tmp_path: Path) -> None:
    source = external_model(tmp_path)
    (tmp_path / "out").mkdir()
    adopt(source, tmp_path / "out" / "a.onnx")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.onnx", "a.onnx.data"}
    x = RNG.standard_normal((2, 300)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "out" / "a.onnx", x), run(source, x), rtol=1e-4, atol=1e-4)
    adopt(source, source)
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data", "weights.bin", "out"}
    lower(source, source)
    np.testing.assert_allclose(run(source, x), run(tmp_path / "out" / "a.onnx", x), rtol=1e-4, atol=1e-4)


def test_a_model_too_large_for_one_file_gets_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite_files, "MAX_NBYTES_INSIDE", 1000)
    monkeypatch.setattr(rewrite_whole, "_MAX_NBYTES", 1000)
    weight = RNG.standard_normal((30, 30)).astype(np.float32)
    onnx.save(model_of([node("MatMul", "x W", "y")], {"W": weight}, ("batch", 30)), tmp_path / "m.onnx")
    result = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "a.onnx", "a.onnx.data"}
    unseen = "the whole model was not run, for its weights are more than 0 MiB"
    assert [str(check) for check in result.checks] == ["1 nodes one by one in float64", unseen]
    assert lower(tmp_path / "a.onnx", tmp_path / "l.onnx").checks == result.checks
    x = RNG.standard_normal((2, 30)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), x @ weight, rtol=1e-5, atol=1e-5)


def test_a_mistake_in_the_rewriter_is_found_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_editor, "scale", lambda array, factor: array * np.float32(1.00001))
    onnx.save(model_of([node("MatMul", "x W", "y")], {"W": W}), tmp_path / "m.onnx")
    with pytest.raises(RewriteError, match="the output of 'node_y' would change"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_an_infinity_hides_no_mistake_in_another_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_whole, "_MAX_NBYTES", 0)
    weight = W.copy()
    weight[0, 0] = np.inf
    onnx.save(model_of([node("MatMul", "x W", "y")], {"W": weight}), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    monkeypatch.setattr(rewrite_editor, "scale", lambda array, factor: array * np.float32(1.00001))
    with pytest.raises(RewriteError, match="the output of 'node_y' would change"):
        adopt(tmp_path / "m.onnx", tmp_path / "b.onnx")


@pytest.mark.parametrize(("form", "argument"), [("MatMul+Add", "weight"), ("Gemm+C", "weight"), ("Gemm+C", "bias")])
def test_a_mistake_in_lowering_a_layer_is_found_without_the_whole_model(
    form: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite_whole, "_MAX_NBYTES", 0)
    onnx.save(make_linear_model(("batch", 3) if form == "Gemm+C" else ("n", 2, 3), W.T.copy(), B), tmp_path / "m.onnx")
    made = linear_lowering.node_like

    def wrong(like: ir.Node, op_type: str, inputs: Any, *others: Any, **more: Any) -> ir.Node:
        index = {"weight": 1, "bias": 2}[argument]
        if index < len(inputs):
            tensor = ir.Tensor(inputs[index].const_value.numpy() * np.float32(1.00001))
            inputs[index] = ir.Value(name="wrong", const_value=tensor)
            like.graph.register_initializer(inputs[index])
        return made(like, op_type, inputs, *others, **more)

    monkeypatch.setattr(linear_lowering, "node_like", wrong)
    with pytest.raises(RewriteError, match="the output of 'linear' would change"):
        lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_mistake_in_the_rewriter_is_found_in_the_whole_model_and_the_first_tensor_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "check_layer", lambda *arguments: True)
    monkeypatch.setattr(rewrite_editor, "scale", lambda array, factor: array * np.float32(1.00001))
    nodes = [node("Relu", "x", "r"), node("MatMul", "r W", "h"), node("Neg", "h", "y")]
    onnx.save(model_of(nodes, {"W": W}), tmp_path / "m.onnx")
    with pytest.raises(RewriteError, match=r"tensor 'h' would change, says .*the first at"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_lower_of_models_made_here_takes_gemm_for_matrices_and_drops_the_absent_bias(tmp_path: Path) -> None:
    weight = RNG.standard_normal((4, 3)).astype(np.float32)
    expected = {("batch", 3): "Gemm", ("batch", 5, 3): "MatMul"}
    for shape, op_type in expected.items():
        onnx.save(make_linear_model(shape, weight, None), tmp_path / "m.onnx")
        lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
        assert operators(onnx.load(tmp_path / "l.onnx")) == [op_type]
        x = RNG.standard_normal([5 if d == "batch" else d for d in shape]).astype(np.float32)
        np.testing.assert_allclose(run(tmp_path / "l.onnx", x), x @ weight.T, rtol=1e-5, atol=1e-6)


def test_a_computed_weight_is_transposed_when_the_lowered_model_runs(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 5, 3], W.T.copy(), B)
    model.graph.node.insert(0, helper.make_node("Abs", ["weight"], ["computed"]))
    model.graph.node[1].input[1] = "computed"
    onnx.save(model, tmp_path / "m.onnx")
    lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
    assert operators(onnx.load(tmp_path / "l.onnx")) == ["Abs", "Transpose", "MatMul", "Add"]


def test_the_quantiser_of_onnxruntime_runs_between_lower_and_adopt(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("U", "V")}
    nodes = [node("MatMul", "x U", "h"), node("Relu", "h", "r"), node("MatMul", "r V", "y")]
    onnx.save(model_of(nodes, weights, ("batch", 16), ("batch", 16)), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    quantize_dynamic(
        tmp_path / "l.onnx", tmp_path / "q.onnx", weight_type=QuantType.QInt8, nodes_to_quantize=["node_h"]
    )
    assert "MatMulInteger" in operators(onnx.load(tmp_path / "q.onnx"))
    result = adopt(tmp_path / "q.onnx", tmp_path / "qa.onnx")
    assert len(result.rewritten) == 1, "the layer that was not quantised"
    x = rng.standard_normal((4, 16)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "qa.onnx", x), run(tmp_path / "q.onnx", x), rtol=1e-4, atol=1e-4)
    exact = run(tmp_path / "m.onnx", x)
    assert np.abs(run(tmp_path / "qa.onnx", x) - exact).max() < 0.1 * np.abs(exact).max()


def test_onnxslim_runs_between_lower_and_adopt(tmp_path: Path) -> None:
    import onnxslim

    nodes = [
        node("MatMul", "x W", "p"), node("Add", "p B", "h"), node("Identity", "h", "i"), node("Relu", "i", "y"),
    ]  # fmt: skip
    onnx.save(model_of(nodes, {"W": W, "B": B}, y_shape=("batch", 4)), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    onnxslim.slim(str(tmp_path / "l.onnx"), str(tmp_path / "s.onnx"))
    assert len(operators(onnx.load(tmp_path / "s.onnx"))) < 4
    result = adopt(tmp_path / "s.onnx", tmp_path / "sa.onnx")
    assert len(result.rewritten) == 1
    x = RNG.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "sa.onnx", x), run(tmp_path / "m.onnx", x), rtol=1e-5, atol=1e-6)


def damaged(kind: str, folder: Path) -> Path:
    """A model that is wrong in one way."""
    path = folder / "bad.onnx"
    model = make_linear_model(["batch", 3], W.T.copy(), B)
    if kind == "newer version":
        model.opset_import[1].version = 2
    elif kind == "attribute":
        model.graph.node[0].attribute.append(helper.make_attribute("alpha", 2.0))
    elif kind == "body":
        model.functions[0].node[-1].op_type = "Sub"
    elif kind == "body order":
        model.functions[0].node[1].input[:] = ["W_transposed", "X"]
    elif kind == "shape":
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(W, "weight"))
    elif kind == "empty name":
        model.graph.input[0].name = model.graph.node[0].input[0] = ""
    elif kind == "duplicate name":
        model.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    elif kind == "no bytes":
        path.write_bytes(b"")
        return path
    elif kind in ("truncated", "missing", "outside", "absolute", "link", "length"):
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        if kind == "truncated":
            (folder / "w.bin").write_bytes((folder / "w.bin").read_bytes()[:-1])
        elif kind == "missing":
            (folder / "w.bin").unlink()
        elif kind == "link":
            (folder / "w.bin").unlink()
            (folder / "w.bin").symlink_to("/dev/zero")
        else:
            model = onnx.load(path, load_external_data=False)
            entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
            if kind == "length":
                entries["length"].value = "4"
            else:
                entries["location"].value = "../w.bin" if kind == "outside" else "/etc/passwd"
            path.write_bytes(model.SerializeToString())
        return path
    path.write_bytes(model.SerializeToString())
    return path


DAMAGES = {
    "newer version": "the version of domain 'mylinear' must be 1, got 2",
    "attribute": "the attributes must be none, got alpha",
    "body": "the definition of MYLINEAR inside the model is not the contract's: operators",
    "body order": "the definition of MYLINEAR inside the model is not the contract's",
    "shape": "weight must be [out_features, 3] (x has in_features 3)",
    "empty name": "X, W and optionally B",
    "duplicate name": "name 'y' of the graph stands for two values",
    "no bytes": "is not an ONNX model",
    "truncated": "is truncated: tensor",
    "missing": "external data 'w.bin' is missing",
    "outside": "lies in '../w.bin', which is outside the model's folder",
    "absolute": "lies in '/etc/passwd', which is outside the model's folder",
    "link": "which is outside the model's folder",
    "length": "takes 48 bytes, not 4",
}


@pytest.mark.parametrize("command", ["adopt", "lower"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_bad_models_are_refused_and_nothing_is_written(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(kind, tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises((ModelError, ContractError)):
        getattr(rewrite, command)(path, tmp_path / "out.onnx")
    assert cli.main([command, str(path), str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    if kind == "empty name":
        assert "has no name" in error or DAMAGES[kind] in error
    else:
        assert DAMAGES[kind] in error
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["run", "verify", "inspect"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_bad_models_are_refused_by_every_command(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"run": ["--input", "1,2,3"], "verify": ["--compile", "none", "--batch-size", "2"], "inspect": []}
    status = cli.main([command, str(damaged(kind, tmp_path)), *options[command]])
    told = capsys.readouterr()
    if (command, kind) == ("verify", "body"):  # one that runs, and gives something else
        assert status == 1
        assert "at node 'linear'" in told.out
        return
    assert status in ((1, 2) if command == "inspect" else (2,))
    assert DAMAGES[kind] in told.err + told.out or (kind == "empty name" and "has no name" in told.err)
    assert len(told.err.splitlines()) <= 1 or command == "verify", "one line; verify shows how far it was"


def test_the_commands_print_a_summary_and_need_no_torch(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x W", "h"), node("MatMul", "h h", "y")]
    onnx.save(model_of(nodes, {"W": W[:, :3].copy()}, (3, 3)), tmp_path / "in.onnx")
    code = """
import sys
from ort_ops.cli.main import main
status = main(["adopt", "in.onnx", "out.onnx"]) or main(["lower", "out.onnx", "back.onnx"])
status = status or main(["adopt", "back.onnx", "again.onnx", "--json"])
assert "torch" not in sys.modules
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left alone: the weight is not a constant ('h' is computed by MYLINEAR)" in done.stdout
    assert "2 nodes became 2, 1 rewritten, 1 left alone" in done.stdout
    assert "compared: 1 nodes one by one in float64" in done.stdout
    assert '"what": "MatMul"' in done.stdout


def test_the_summary_has_one_row_for_what_differs_in_names_only(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x x", "h"), node("MatMul", "h h", "i"), node("MatMul", "i W", "j"), node("MatMul", "j W", "y"),
    ]  # fmt: skip
    onnx.save(model_of(nodes, {"W": W[:, :3].copy()}, (3, 3)), tmp_path / "m.onnx")
    reason = "the weight is not a constant ('x' is an input of the graph or function, and 1 more)"
    assert adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").table()[1] == [
        ["MatMul", "main graph", "2", "rewritten"],
        ["MatMul", "main graph", "2", f"left alone: {reason}"],
    ]


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes_is_rewritten_without_a_second_copy(tmp_path: Path) -> None:
    size = 24_000  # 2.3 GB of float32
    weight = ir.LazyTensor(
        lambda: ir.Tensor(np.eye(size, dtype=np.float32) * 2), ir.DataType.FLOAT, ir.Shape([size, size])
    )
    value = ir.Value(name="W", shape=ir.Shape([size, size]), type=ir.TensorType(ir.DataType.FLOAT), const_value=weight)
    proto = model_of([node("MatMul", "x W", "y")], {}, ("batch", size), ("batch", size))
    proto.graph.node[0].input[1] = "x"  # the weight comes in below
    model = ir.from_proto(proto)
    model.graph.register_initializer(value)
    model.graph[0].replace_input_with(1, value)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    del model, value, weight
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_DATA, (4_000_000_000,) * 2)  # memory of its own; mapped files do not count
from ort_ops.rewrite.rewrite import adopt, lower
adopt({str(tmp_path / "m.onnx")!r}, {str(tmp_path / "a.onnx")!r})
lower({str(tmp_path / "a.onnx")!r}, {str(tmp_path / "l.onnx")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    x = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    for name in ("a", "l"):
        np.testing.assert_array_equal(run(tmp_path / f"{name}.onnx", x), 2 * x)
        assert (tmp_path / f"{name}.onnx").stat().st_size < 10_000_000


def test_the_whole_model_is_compared_on_real_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What gives a shape cannot be drawn, and an index into one row must be 0."""
    nodes = [node("Gather", "one i", "g"), node("Add", "x g", "s"), node("Reshape", "s shape", "r")]
    model = model_of([*nodes, node("MatMul", "r w", "y")], {"w": W, "one": W[:1, :3]}, ("batch", 3), ("p", 4))
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [1]))
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
    source, target, file = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "i.npz"
    onnx.save(model, source)
    (check,) = [check for check in adopt(source, target).checks if not check.has_compared]
    assert str(check) == (
        "the whole model was not run: no numbers can be drawn for input 'shape': it gives the shape to Reshape "
        "'node_r'; give real inputs by --inputs file.npz"
    )
    feed = {"x": np.ones((2, 3), np.float32), "i": np.zeros(1, np.int64)}
    np.savez(file, **feed, shape=np.array([-1, 3]))
    assert cli.main(["adopt", str(source), str(target), "--inputs", str(file)]) == 0
    assert "compared: 4 tensors of the whole model in float64" in capsys.readouterr().out
    np.savez(file, **feed)
    assert cli.main(["adopt", str(source), str(target), "--inputs", str(file)]) == 2
    assert capsys.readouterr().err == f"mylinear: '{file}': it has no 'shape'\n"
    del model.graph.node[2], model.graph.input[2]
    model.graph.node[2].input[0] = "s"
    onnx.save(model, source)
    assert any((check.extent, check.count) == (Extent.WHOLE, 3) for check in adopt(source, target).checks)
