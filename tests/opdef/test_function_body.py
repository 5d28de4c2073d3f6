"""The function body inside a model computes right in a plain onnxruntime, from 1.17 on; it needs no torch.

Also why an absent bias is written as -0.0: the two other ways, and what speaks against them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ort_ops.models.checks import function_difference
from ort_ops.models.nodes import attach_functions
from ort_ops.numerics.compare import compare
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.operators.mylinear.contract import ABSENT_BIAS, DOMAIN, ELEMENT_TYPES, MYLINEAR, NAME
from ort_ops.operators.mylinear.reference import linear_float64
from tests.cases import CASES, Array, Case, numpy_dtype
from tests.linear_model import make_linear_model
from tests.runtime import is_older_than


def run_plain(model: onnx.ModelProto, x: Array, weight: Array | None = None) -> Array:
    """Run by onnxruntime alone: no kernel registered. bfloat16 enters and leaves through float32 casts."""
    if x.dtype.name == "bfloat16":
        wrap_in_casts(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": x if x.dtype.name != "bfloat16" else x.astype(np.float32)}
    if weight is not None:
        feed["weight"] = weight
    result: Array | None = session.run(None, feed)[0]
    if result is None:  # what onnxruntime up to 1.20 gives for an output that it folded away
        raise RuntimeError("onnxruntime returned no result")
    return result.astype(x.dtype)


def wrap_in_casts(model: onnx.ModelProto) -> None:
    """Give a bfloat16 model float32 inputs and outputs, which Python can feed in every version."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["x_small" if name == "x" else name for name in node.input]
        node.output[:] = ["y_small" if name == "y" else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_small"], to=TensorProto.BFLOAT16))
    graph.node.append(helper.make_node("Cast", ["y_small"], ["y"], to=TensorProto.FLOAT))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def complaint_about(model: onnx.ModelProto, case: Case) -> str | None:
    """What is wrong with the model's result on the case's sample; None if nothing is."""
    sample = case.sample()
    assert sample["x"] is not None
    try:
        actual = run_plain(model, sample["x"])
    except Exception as error:  # onnxruntime has a class of its own for each kind
        return str(error)
    return compare(actual, linear_float64(**sample), case.bound(), case.element_type).complaint


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_body_computes_every_case(case: Case) -> None:
    sample = case.sample()
    x, weight = sample["x"], sample["weight"]
    assert x is not None
    assert weight is not None
    dims: list[int | str] = [*(f"d{i}" for i in range(x.ndim - 1)), x.shape[-1]]
    model = make_linear_model(dims, weight, sample["bias"])
    complaint = complaint_about(model, case)
    # onnxruntime's own MatMul and Add: up to 1.17 without in_features they leave memory as it was found, and before
    # 1.28 without out_features the output is folded away.
    if (case.in_features == 0 and is_older_than("1.18")) or (case.out_features == 0 and is_older_than("1.28")):
        pytest.skip(f"this onnxruntime fails on a weight without elements: {complaint}")
    assert complaint is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_types_are_rounded_once_to_nearest_even(dtype: str) -> None:
    # 1 + u is half way between two numbers, 1 + u + tiny is above it: two roundings would lose the tiny.
    unit = MYLINEAR.element_type(dtype).unit_roundoff
    x = np.array([[1.0, 1.0, 1.0]]).astype(numpy_dtype(dtype))
    weight = np.array([[1, unit, 0], [1, unit, unit / 64], [1 + 2 * unit, unit, 0]]).astype(numpy_dtype(dtype))
    actual = run_plain(make_linear_model([1, 3], weight, None), x)
    assert actual.astype(np.float64).tolist() == [[1.0, 1 + 2 * unit, 1 + 4 * unit]]


@pytest.mark.parametrize(
    "dtypes",
    [("float32", "float16"), ("float64", "float32"), ("float64", "float16", "float32"), ("bfloat16", "float32")],
    ids=str,
)
def test_one_body_serves_nodes_of_several_types(dtypes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    types = [MYLINEAR.element_type(name) for name in dtypes]
    weights = [rng.standard_normal((4, 4)).astype(numpy_dtype(name)) for name in dtypes]
    nodes, initializers, last = [], [], "x"
    for i, (element_type, weight) in enumerate(zip(types, weights, strict=True)):
        nodes.append(helper.make_node("Cast", [last], [f"x{i}"], to=element_type.onnx_type))
        nodes.append(helper.make_node(NAME, [f"x{i}", f"w{i}", f"b{i}"], [f"y{i}"], domain=DOMAIN))
        initializers += [
            onnx.numpy_helper.from_array(array, name) for name, array in ((f"w{i}", weight), (f"b{i}", weight[0]))
        ]
        last = f"y{i}"
    nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.DOUBLE))
    x_info, y_info = (helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch", 4]) for name in "xy")
    graph = helper.make_graph(nodes, "mixed", [x_info], [y_info], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    attach_functions(model)
    x = rng.standard_normal((3, 4))
    expected, bound = x, np.zeros(x.shape)
    for element_type, weight in zip(types, weights, strict=True):
        rounded = expected.astype(weight.dtype)
        bound = bound @ np.abs(weight.astype(np.float64)).T + 20 * element_type.unit_roundoff * 40
        expected = linear_float64(rounded, weight, weight[0])
    assert np.all(np.abs(run_plain(model, x) - expected) <= bound)


@pytest.mark.parametrize("dtype", [element_type.name for element_type in ELEMENT_TYPES])
def test_a_bias_of_minus_zero_changes_nothing_not_even_minus_zero(dtype: str) -> None:
    x = np.array([[-0.0], [0.0], [np.inf], [-np.inf], [np.nan]]).astype(numpy_dtype(dtype))
    weight = np.ones((1, 1), numpy_dtype(dtype))
    actual = run_plain(make_linear_model([5, 1], weight, None), x).astype(np.float64)
    assert np.array_equal(actual, x.astype(np.float64), equal_nan=True)
    # With no term but one, -0.0 stays -0.0 wherever the runtime's own product keeps it.
    product_keeps_sign = np.signbit(np.matmul(x.astype(np.float64), [[1.0]]))
    assert np.signbit(ABSENT_BIAS)
    assert np.signbit(actual)[1, 0] == product_keeps_sign[1, 0]


def test_the_other_way_overloads_fail_in_old_runtimes() -> None:
    """A runtime that does not know overload names, which came with IR version 10, mistakes one for the other."""
    model = make_linear_model(["batch", 3], np.ones((3, 3), np.float32), np.zeros(3, np.float32))
    second = helper.make_node(NAME, ["hidden", "weight"], ["y"], name="second", domain=DOMAIN, overload="no_bias")
    model.graph.node[0].output[0] = "hidden"
    model.graph.node.append(second)
    function = make_function(MYLINEAR, 20, ["float32"])
    del function.input[2:]
    function.node[1].output[0] = "Y"
    del function.node[2:]
    function.overload = "no_bias"
    model.functions.append(function)
    x = np.ones((1, 3), np.float32)
    if is_older_than("1.28"):
        with pytest.raises(Exception, match=r"INVALID_GRAPH|FAIL|Inliner"):
            run_plain(model, x)
    else:
        assert run_plain(model, x).tolist() == [[9.0] * 3]


def test_the_other_way_a_body_of_three_inputs_does_not_take_two() -> None:
    model = make_linear_model(["batch", 3], np.ones((2, 3), np.float32), None)
    del model.graph.node[0].input[2:]
    model.graph.node[0].input.append("")
    with pytest.raises(Exception, match=r"INVALID_GRAPH|INVALID_ARGUMENT|Fail|FAIL"):
        run_plain(model, np.ones((1, 3), np.float32))


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_body_at_every_opset(opset: int, dtype: str) -> None:
    weight = np.arange(6).reshape(2, 3).astype(dtype)
    model = make_linear_model(["batch", 3], weight, weight[:, 0], with_function=False)
    next(entry for entry in model.opset_import if entry.domain == "").version = opset
    attach_functions(model)
    assert run_plain(model, np.array([[1, 2, 3]], dtype)).tolist() == [[8.0, 29.0]]


@pytest.mark.parametrize(("before", "after"), [(6, 8), (8, 8), (9, 9)])
def test_a_model_with_the_body_has_an_ir_version_that_knows_functions(before: int, after: int) -> None:
    model = make_linear_model(["batch", 3], np.ones((2, 3), np.float32), np.ones(2, np.float32), with_function=False)
    model.ir_version = before
    attach_functions(model)
    assert model.ir_version == after


def computed_weight_model(opset: int, dtypes: tuple[str, ...], *, is_input: bool) -> onnx.ModelProto:
    """Y = X W^T + B twice, in each dtype, with W = 2 w, or w an input of the graph, which no runtime can fold."""
    nodes, last = [], "x"
    for i, name in enumerate(dtypes):
        element_type = MYLINEAR.element_type(name).onnx_type
        nodes += [helper.make_node("Cast", [v], [f"{v}{i}"], to=element_type) for v in (last, "w", "b") if v != last]
        nodes.append(helper.make_node("Cast", [last], [f"x{i}"], to=element_type))
        weight = f"w{i}"
        if not is_input:
            nodes.append(helper.make_node("Add", [weight, weight], [f"w{i}_twice"]))
            weight = f"w{i}_twice"
        nodes.append(helper.make_node(NAME, [f"x{i}", weight, f"b{i}"], [f"y{i}"], domain=DOMAIN))
        last = f"y{i}"
    nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.DOUBLE))
    shapes = {"x": ["batch", 2], "w": [2, 2], "b": [2], "y": ["batch", 2]}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(nodes, "computed", [infos["x"], infos["w"], infos["b"]], [infos["y"]])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    attach_functions(model)
    return model


@pytest.mark.parametrize("is_input", [True, False], ids=["an input", "computed"])
@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
@pytest.mark.parametrize(
    "dtypes", [("float64",), ("float32",), ("float64", "float32"), ("float16", "float64")], ids=str
)
def test_a_weight_need_not_be_constant(opset: int, dtypes: tuple[str, ...], is_input: bool) -> None:
    if len(dtypes) > 1 and opset < 15:
        pytest.skip("a body for several types takes opset 15")
    model = computed_weight_model(opset, dtypes, is_input=is_input)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x, w, b = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[1.0, 0.5], [2, 4]]), np.array([0.25, -1])
    expected = x
    for _ in dtypes:
        expected = expected @ (w if is_input else 2 * w).T + b
    assert session.run(None, {"x": x, "w": w, "b": b})[0].tolist() == expected.tolist()


@pytest.mark.parametrize("opset", [9, 20])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_that_is_done_to_a_constant_weight_is_done_when_the_model_is_loaded(
    opset: int, dtype: str, tmp_path: Path
) -> None:
    weight = np.arange(6).reshape(2, 3).astype(dtype)
    model = make_linear_model(["batch", 3], weight, weight[:, 0], with_function=False)
    next(entry for entry in model.opset_import if entry.domain == "").version = opset
    attach_functions(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [node.op_type for node in optimized.graph.node] in (["MatMul", "Add"], ["Gemm"])


def test_a_model_with_the_former_body_is_as_good() -> None:
    weight = np.ones((2, 3))
    model = make_linear_model(["batch", 3], weight, None)
    assert function_difference(model) is None
    del model.functions[:]
    (former,) = MYLINEAR.former_bodies
    model.functions.append(make_function(MYLINEAR, 20, ["float64"], former))
    assert [node.op_type for node in model.functions[0].node] == ["Transpose", "MatMul", "Add"]
    assert function_difference(model) is None
    model.functions[0].node[0].op_type = "Identity"
    assert "is not the contract's" in str(function_difference(model))
