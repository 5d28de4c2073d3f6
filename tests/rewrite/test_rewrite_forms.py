"""adopt and lower: every form of a linear layer, there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ort_ops.models.nodes import has_function
from ort_ops.operators.mylinear.contract import MYLINEAR, NAME
from ort_ops.rewrite.report import Extent
from ort_ops.rewrite.rewrite import adopt, lower
from tests.rewrite.small_models import Array, B, W, constant, model_of, node, operators, run

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
