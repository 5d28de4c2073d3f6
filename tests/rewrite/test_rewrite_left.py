"""What adopt leaves alone and why, as data; what it finds by inferring shapes; constants that it never rounds."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ort_ops.cli import main as cli
from ort_ops.models.nodes import operator_nodes
from ort_ops.operators.mylinear.contract import MYLINEAR, NAME
from ort_ops.operators.mylinear.patterns.causes import Cause
from ort_ops.rewrite.graph.constants import Constant
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.graph.scaling import scales_exactly
from ort_ops.rewrite.reasons import Origin, OriginKind, Reason
from ort_ops.rewrite.report import Extent
from ort_ops.rewrite.rewrite import adopt, lower
from tests.linear_model import make_linear_model
from tests.rewrite.small_models import RNG, B, W, model_of, node, operators, run

MICROSOFT = "com.microsoft"
POINTWISE = RNG.standard_normal((4, 3, 1)).astype(np.float32)


def foreign(op_type: str, inputs: str, domain: str = MICROSOFT, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), ["y"], name="node_y", domain=domain, **attributes)


LOOKALIKES: dict[str, tuple[onnx.NodeProto, Cause]] = {
    "FusedMatMul": (foreign("FusedMatMul", "x W", transB=0), Cause.FUSED),
    "FusedGemm": (foreign("FusedGemm", "x W B", activation="Relu"), Cause.FUSED),
    "Attention of onnxruntime": (foreign("Attention", "x W B", num_heads=1), Cause.FUSED_ATTENTION),
    "MatMulNBits": (foreign("MatMulNBits", "x Q S", K=3, N=4, bits=4, block_size=16), Cause.QUANTIZED),
    "MatMulInteger": (node("MatMulInteger", "q Q", "y"), Cause.QUANTIZED),
    "QLinearMatMul": (node("QLinearMatMul", "q S Z Q S Z S Z", "y"), Cause.QUANTIZED),
    "DynamicQuantizeMatMul": (foreign("DynamicQuantizeMatMul", "x Q S"), Cause.QUANTIZED),
    "Conv": (node("Conv", "x P B", "y"), Cause.POINTWISE_CONVOLUTION),
    "FusedConv": (foreign("FusedConv", "x P B", activation="Relu"), Cause.POINTWISE_CONVOLUTION),
    "ConvInteger": (node("ConvInteger", "q P8", "y"), Cause.QUANTIZED),
    "Einsum": (node("Einsum", "x W", "y", equation="bi,io->bo"), Cause.EQUATION),
    "LinearRegressor": (foreign("LinearRegressor", "x", "ai.onnx.ml", coefficients=[1.0]), Cause.CLASSICAL),
}
STORED = {
    "W": W, "B": B, "P": POINTWISE, "P8": POINTWISE.astype(np.int8), "Q": np.ones((3, 4), np.uint8),
    "S": np.float32(0.5), "Z": np.uint8(0), "q": np.ones((5, 3), np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_looks_like_a_linear_layer_is_named_with_the_reason(name: str, tmp_path: Path) -> None:
    made, cause = LOOKALIKES[name]
    model = model_of([made], {key: STORED[key] for key in dict.fromkeys(made.input) if key != "x"}, (5, 3))
    model.opset_import.extend([helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid("ai.onnx.ml", 1)])
    onnx.save(model, tmp_path / "m.onnx")
    (left,) = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").left
    assert (left.name, left.op_type, left.reason.cause) == ("node_y", made.op_type, cause)
    assert str(left.reason)


@pytest.mark.parametrize(
    "changed",
    [{"kernel": 3}, {"group": 3}, {"strides": [2]}, {"pads": [1, 1]}, {"auto_pad": "SAME_UPPER"}],
    ids=lambda changed: next(iter(changed)),
)
def test_other_convolutions_do_not_look_like_linear_layers(changed: dict[str, Any], tmp_path: Path) -> None:
    kernel = changed.pop("kernel", 1)
    weight = np.ones((3, 1 if "group" in changed else 3, kernel), np.float32)
    onnx.save(model_of([node("Conv", "x P", "y", **changed)], {"P": weight}, (2, 3, 7)), tmp_path / "m.onnx")
    assert adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").left == []


def test_a_quantised_weight_is_told_as_such(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", "Q S Z", "V"), node("MatMul", "x V", "y")]
    onnx.save(model_of(nodes, {key: STORED[key] for key in "QSZ"}), tmp_path / "m.onnx")
    (left,) = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").left
    assert left.reason == Reason(Cause.WEIGHT_QUANTIZED, origin=Origin(OriginKind.COMPUTED, "V", "DequantizeLinear"))


TURNED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], Reason]] = {
    "before": (
        [node("Transpose", "x", "t", perm=[2, 1, 0]), node("MatMul", "U t", "p"),
         node("Transpose", "p", "y", perm=[0, 2, 1])],
        {}, Reason(Cause.LEFT_OTHER_AXES, {"where": "before", "perm": "[2, 1, 0]"}),
    ),
    "behind": (
        [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "U t", "p"),
         node("Transpose", "p", "y", perm=[2, 1, 0])],
        {}, Reason(Cause.LEFT_OTHER_AXES, {"where": "behind", "perm": "[2, 1, 0]"}),
    ),
    "no second one": (
        [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "U t", "p"), node("Relu", "p", "y")],
        {}, Reason(Cause.LEFT_NOT_TRANSPOSED_BACK, {"op_type": "Relu"}),
    ),
    "an Add of something else": (
        [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "U t", "p"), node("Add", "p C", "s"),
         node("Transpose", "s", "y", perm=[0, 2, 1])],
        {"C": np.ones((1, 1, 5), np.float32)}, Reason(Cause.LEFT_NOT_A_BIAS),
    ),
    "none before": (
        [node("MatMul", "U x", "p"), node("Transpose", "p", "y", perm=[0, 2, 1])],
        {}, Reason(Cause.LEFT_NOT_TRANSPOSED, origin=Origin(OriginKind.PARAMETER, "x")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNED)
def test_a_product_from_the_left_is_left_for_the_right_reason(name: str, tmp_path: Path) -> None:
    nodes, more, reason = TURNED[name]
    shape = (2, 3, 5) if name == "none before" else (2, 5, 3)
    onnx.save(model_of(nodes, {"U": W.T.copy(), **more}, shape), tmp_path / "m.onnx")
    assert [left.reason for left in adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").left] == [reason]


def test_biases_are_found_by_inferring_shapes_and_what_was_inferred_is_not_written(tmp_path: Path) -> None:
    nodes = [
        node("Gather", "table x", "e"), node("MatMul", "e W", "p"), node("Transpose", "p", "t", perm=[1, 0, 2]),
        node("Add", "t B", "h"), node("Shape", "h", "size"), node("Reshape", "h size", "r"),
        node("MatMul", "r V", "q"), node("Reshape", "q size", "s"), node("Add", "s B2", "y"),
    ]  # fmt: skip
    table = RNG.standard_normal((9, 3)).astype(np.float32)
    stored = {"table": table, "W": W, "B": B, "V": np.eye(4, dtype=np.float32), "B2": B[None, None]}
    model = model_of(nodes, stored, (2, 5), (5, 2, 4))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, tmp_path / "m.onnx")
    result = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert [entry.what for entry in result.rewritten] == ["MatMul+Add"] * 2
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert {value.name for value in graph.value_info} <= {tensor.name for tensor in graph.initializer}
    x = np.arange(10).reshape(2, 5) % 9
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), run(tmp_path / "m.onnx", x), rtol=1e-5, atol=1e-6)


def test_lower_takes_a_gemm_where_a_matrix_is_inferred(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 3], W.T.copy(), B)
    model.graph.node.insert(0, helper.make_node("Relu", ["x"], ["r"]))
    model.graph.node[1].input[0] = "r"
    onnx.save(model, tmp_path / "m.onnx")
    lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
    assert operators(onnx.load(tmp_path / "l.onnx")) == ["Relu", "Gemm"]


def of_ir_version_3(nodes: list[onnx.NodeProto], stored: dict[str, Any]) -> onnx.ModelProto:
    """A model as exporters wrote it in 2018: each initializer is an input, too."""
    model = model_of(nodes, stored, opset=8)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model)
    return model


def test_weights_of_ir_version_3_are_constants_although_they_are_inputs(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x W", "p"), node("Add", "p B", "h"), node("Mul", "h C", "y")]
    onnx.save(of_ir_version_3(nodes, {"W": W, "B": B, "C": B}), tmp_path / "m.onnx")
    assert [entry.what for entry in adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").rewritten] == ["MatMul+Add"]
    adopted = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(adopted, full_check=True)
    assert [value.name for value in adopted.graph.input] == ["x"]
    x = RNG.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), run(tmp_path / "m.onnx", x), rtol=1e-5, atol=1e-6)


def test_a_model_of_ir_version_3_without_a_linear_layer_stays_as_it_was(tmp_path: Path) -> None:
    model = of_ir_version_3([node("Mul", "x C", "y")], {"C": W[:, 0].copy()})
    onnx.save(model, tmp_path / "m.onnx")
    for change in (adopt, lower):
        change(tmp_path / "m.onnx", tmp_path / "a.onnx")
        written = onnx.load(tmp_path / "a.onnx")
        assert (written.ir_version, len(written.graph.input)) == (3, 2)


def test_an_attribute_of_the_function_around_a_node_is_not_taken_for_its_default(tmp_path: Path) -> None:
    gemm = node("Gemm", "X V", "p")
    gemm.attribute.append(AttributeProto(name="alpha", ref_attr_name="by", type=AttributeProto.FLOAT))
    turn = node("Transpose", "V", "T")
    turn.attribute.append(AttributeProto(name="perm", ref_attr_name="order", type=AttributeProto.INTS))
    function = helper.make_function(
        "local", "Layer", ["X", "V"], ["Y"], [gemm, turn, node("MatMul", "p T", "Y")],
        [helper.make_opsetid("", 20)], ["by", "order"],
    )  # fmt: skip
    call = helper.make_node("Layer", ["x", "W"], ["y"], domain="local", by=0.5, order=[0, 1])
    onnx.save(model_of([call], {"W": W[:, :3].copy()}, functions=[function]), tmp_path / "m.onnx")
    left = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").left
    assert [entry.reason.cause for entry in left] == [Cause.ATTRIBUTE_OF_FUNCTION, Cause.WEIGHT_NOT_CONSTANT]


def test_a_long_chain_of_identities_is_followed(tmp_path: Path) -> None:
    nodes = [node("Identity", f"W{i}" if i else "W", f"W{i + 1}") for i in range(2000)]
    onnx.save(model_of([*nodes, node("MatMul", "x W2000", "y")], {"W": W}), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert operators(onnx.load(tmp_path / "a.onnx")) == [NAME]


def test_the_report_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [node("MatMul", "x W", "h"), node("MatMul", "h h", "y")]
    onnx.save(model_of(nodes, {"W": W[:, :3].copy()}, (3, 3)), tmp_path / "m.onnx")
    assert cli.main(["adopt", str(tmp_path / "m.onnx"), str(tmp_path / "a.onnx"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (left,) = told["left"]
    assert (left["cause"], left["fields"]) == ("WEIGHT_NOT_CONSTANT", {})
    assert left["origin"] == {"kind": "COMPUTED", "value": "h", "op_type": NAME}
    assert left["reason"] == f"the weight is not a constant ('h' is computed by {NAME})"
    (rewritten,) = told["rewritten"]
    assert rewritten.pop("operator") == MYLINEAR.op_type
    assert rewritten == {"name": "node_h", "where": "main graph", "what": "MatMul", "shape": [3, 3]}


def as_constant(array: Any) -> Constant:
    value = ir.Value(name="c", const_value=ir.tensor(array))
    graph = ir.Graph([], [], nodes=[], initializers=[value], name="g")
    constant = resolve(graph.initializers["c"])
    assert constant is not None
    return constant


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda t: t.__name__)
def test_a_scale_is_folded_only_where_exact_arithmetic_gives_the_same_number(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    info = ml_dtypes.finfo(dtype)
    short = [
        float(np.float32(f)) for f in (0.5, -2.0, 3.0, 0.1, 1 + 2**-23, 0.75, 2.0**-20, 2.0**100, 2.0**-140, 5e-45)
    ]
    numbers = [1.0, 1 + float(info.eps), float(info.smallest_subnormal), float(info.max), -0.0, 3 * float(info.tiny)]
    numbers += [float(n) for n in rng.standard_normal(20).astype(dtype)]
    for factor in short:
        for number in numbers:
            stored = np.array([number], dtype)
            exact = Fraction(float(stored[0])) * Fraction(factor)
            with np.errstate(all="ignore"):
                rounded = float((stored.astype(np.float64) * factor).astype(dtype)[0])
            is_exact = bool(np.isfinite(rounded)) and Fraction(rounded) == exact
            assert scales_exactly(as_constant(stored), factor) == is_exact, (number, factor)


def test_a_product_that_only_more_than_64_bits_hold_is_not_exact() -> None:
    """80-bit arithmetic, which decided this before, cannot tell it from the rounded one."""
    assert not scales_exactly(as_constant(np.array([1 + 2.0**-52])), 1 + 2.0**-23)


@pytest.mark.parametrize("small", [1e-8, 1e-30])
def test_no_small_number_is_dropped(small: float, tmp_path: Path) -> None:
    """Neither ``+ c`` nor ``* (1 + c)`` is an identity."""
    nodes = [
        node("Gemm", "x W c", "g"), node("Mul", "g one", "m"), node("MatMul", "m V", "p"), node("Add", "p c", "a"),
        node("Add", "a c", "y"),
    ]  # fmt: skip
    stored = {
        "W": W, "V": np.eye(4, dtype=np.float32), "c": np.full(4, small, np.float32),
        "one": np.float32(1) + np.finfo(np.float32).eps,
    }  # fmt: skip
    onnx.save(model_of(nodes, stored), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    adopted = onnx.load(tmp_path / "a.onnx")
    assert operators(adopted) == [NAME, "Mul", NAME, "Add"]
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in adopted.graph.initializer}
    for linear in operator_nodes(adopted):
        np.testing.assert_array_equal(tensors[linear.node.input[2]], stored["c"])
    result = lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    assert any(check.extent is Extent.WHOLE for check in result.checks)
    assert operators(onnx.load(tmp_path / "l.onnx")) == ["Gemm", "Mul", "MatMul", "Add", "Add"]
    zeros = np.zeros((2, 3), np.float32)
    for name in ("m", "a", "l"):
        assert (run(tmp_path / f"{name}.onnx", zeros) > 2 * small).all()


def test_a_constant_s_other_part_may_be_an_output(tmp_path: Path) -> None:
    nodes = [helper.make_node("Split", ["U"], ["W", "rest"], axis=0, num_outputs=2), node("MatMul", "x W", "y")]
    model = model_of(nodes, {"U": np.concatenate([W, W])})
    model.graph.output.append(helper.make_tensor_value_info("rest", TensorProto.FLOAT, (3, 4)))
    onnx.save(model, tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert operators(onnx.load(tmp_path / "a.onnx")) == ["Split", NAME]
