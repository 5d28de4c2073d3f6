"""Models with C++ MYLINEAR nodes: where the weights live, what is around the nodes, how the model was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

from ort_ops.operators.mylinear.contract import DOMAIN, infer_shape
from tests.native_support import (
    DTYPES,
    Array,
    Case,
    call,
    error_in_bounds,
    make_model,
    node,
    one_node_model,
    run,
    session,
    session_options,
    value,
)
from tests.runtime import is_older_than

pytestmark = pytest.mark.native
DTYPE = pytest.mark.parametrize("dtype", DTYPES)
CASE = Case((5,), 33, 17)


def _sample(case: Case = CASE) -> tuple[Array, Array, Array]:
    x, weight, bias = case.sample()
    assert bias is not None
    return x, weight, bias


@DTYPE
def test_bias_is_optional_and_may_be_an_empty_input(dtype: str) -> None:
    x, weight, _ = Case((3,), 5, 4, dtype).sample()
    assert error_in_bounds(run(x, weight, None, True), x, weight, None) <= 1
    if is_older_than("1.18"):
        return  # onnxruntime 1.17 infers no type for a node with an empty input, whoever made the op
    model = one_node_model(dtype, 2, {"W": weight}, has_bias=False)
    next(n for n in model.graph.node if n.domain == DOMAIN).input.append("")
    assert error_in_bounds(call(session(model), {"X": x}), x, weight, None) <= 1


def test_dtypes_mix_in_one_model() -> None:
    x, weight, bias = _sample(Case((6,), 8, 8, "float64"))
    nodes, initializers, name = [], {}, "X"
    for index, dtype in enumerate(DTYPES):
        onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype]))
        nodes.append(helper.make_node("Cast", [name], [f"x{index}"], to=onnx_type))
        nodes.append(node(f"x{index}", f"w{index}", f"b{index}", output=f"y{index}"))
        initializers |= {f"w{index}": weight.astype(DTYPES[dtype]), f"b{index}": bias.astype(DTYPES[dtype])}
        name = f"y{index}"
    nodes.append(helper.make_node("Cast", [name], ["Y"], to=TensorProto.DOUBLE))
    model = make_model(nodes, [value("X", "float64", [6, 8])], [value("Y", "float64", [6, 8])], initializers)
    y = call(session(model), {"X": x})
    expected = x
    for dtype in DTYPES:
        step = [a.astype(DTYPES[dtype]).astype(np.float64) for a in (expected, weight, bias)]
        expected = (step[0] @ step[1].T + step[2]).astype(DTYPES[dtype]).astype(np.float64)
    np.testing.assert_allclose(y, expected, rtol=0, atol=0.05 * np.abs(expected).max())


def test_nodes_share_weights() -> None:
    x, weight, bias = _sample(Case((5,), 17, 17))
    nodes = [node("X", "W", "B", output="H"), node("H", "W", "B", output="I"), node("I", "W")]
    model = make_model(
        nodes, [value("X", "float32", [5, 17])], [value("Y", "float32", [5, 17])], {"W": weight, "B": bias}
    )
    h = run(x, weight, bias, True)
    expected = run(run(h, weight, bias, True), weight, None, True)
    np.testing.assert_array_equal(call(session(model), {"X": x}), expected)


def test_weights_may_be_graph_inputs_with_defaults() -> None:
    x, weight, bias = _sample()
    model = one_node_model("float32", 2, {"W": weight, "B": bias})
    model.graph.input.extend([value("W", "float32", [33, 17]), value("B", "float32", [33])])
    opened = session(model)
    assert error_in_bounds(call(opened, {"X": x}), x, weight, bias) <= 1
    assert error_in_bounds(call(opened, {"X": x, "W": 2 * weight, "B": -bias}), x, 2 * weight, -bias) <= 1


@pytest.mark.parametrize("which", ["W", "B"])
def test_one_of_weight_and_bias_may_be_computed(which: str) -> None:
    x, weight, bias = _sample()
    constants = {"W": weight, "B": bias}
    fed = {which: constants.pop(which)}
    opened = session(one_node_model("float32", 2, constants))
    assert error_in_bounds(call(opened, {"X": x} | fed), x, weight, bias) <= 1


def test_node_in_an_if_branch_with_outer_weights() -> None:
    x, weight, bias = _sample()
    then = helper.make_graph([node("X", "W", "B", output="T")], "then", [], [value("T", "float32", [5, 33])])
    other = helper.make_graph([node("X", "W", output="E")], "else", [], [value("E", "float32", [5, 33])])
    choose = helper.make_node("If", ["condition"], ["Y"], then_branch=then, else_branch=other)
    inputs = [value("X", "float32", [5, 17]), helper.make_tensor_value_info("condition", TensorProto.BOOL, [])]
    model = make_model([choose], inputs, [value("Y", "float32", [5, 33])], {"W": weight, "B": bias})
    opened = session(model)
    for condition, expected_bias in ((True, bias), (False, None)):
        y = opened.run(None, {"X": x, "condition": np.array(condition)})[0]
        assert error_in_bounds(y, x, weight, expected_bias) <= 1


@DTYPE
def test_external_data_at_any_offset(dtype: str, tmp_path: Path) -> None:
    """onnxruntime maps the file, so an odd offset gives a pointer that is not aligned to the element."""
    x, weight, bias = _sample(Case((9,), 33, 17, dtype))
    model = one_node_model(dtype, 2, {"W": weight, "B": bias})
    data = b"?" * 13
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, entry in (("location", "weights.bin"), ("offset", len(data)), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(entry))
        data += raw
    (tmp_path / "weights.bin").write_bytes(data)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    for rows in (9, 1):
        y = call(session(str(path)), {"X": x[:rows]})
        assert error_in_bounds(y, x[:rows], weight, bias) <= 1


@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
@DTYPE
def test_optimised_and_saved_models_reload(dtype: str, suffix: str, tmp_path: Path) -> None:
    x, weight, bias = _sample(Case((5,), 33, 17, dtype))
    saved = tmp_path / f"saved{suffix}"
    options = session_options()
    options.optimized_model_filepath = str(saved)
    first = call(session(one_node_model(dtype, 2, {"W": weight, "B": bias}), options), {"X": x})
    again = call(session(str(saved)), {"X": x})
    assert first.tobytes() == again.tobytes()
    assert error_in_bounds(again, x, weight, bias) <= 1


def test_weight_made_of_a_constant_by_other_nodes() -> None:
    x, weight, bias = _sample()
    nodes = [helper.make_node("Transpose", ["V"], ["W"], perm=[1, 0]), node("X", "W", "B")]
    arrays = {"V": np.ascontiguousarray(weight.T), "B": bias}
    model = make_model(nodes, [value("X", "float32", [5, 17])], [value("Y", "float32", [5, 33])], arrays)
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = session_options()
        options.graph_optimization_level = level
        assert error_in_bounds(call(session(model, options), {"X": x}), x, weight, bias) <= 1


def test_shapes_may_change_between_runs() -> None:
    _, weight, bias = _sample()
    opened = session(one_node_model("float32", 2, {"W": weight, "B": bias}))
    for rows in (1, 200, 0, 5, 97):
        x = Case((rows,), 33, 17).sample()[0]
        assert error_in_bounds(call(opened, {"X": x}), x, weight, bias) <= 1


def test_high_ranks() -> None:
    for rank in (8, 16, 17, 32):
        x = np.arange(6, dtype=np.float32).reshape((1,) * (rank - 2) + (2, 3))
        weight = np.ones((4, 3), np.float32)
        y = run(x, weight, None, True)
        assert y.shape == (1,) * (rank - 2) + (2, 4)
        np.testing.assert_array_equal(y.reshape(2, 4), np.repeat([[3], [12]], 4, axis=1))


INFERENCE = [
    [[2, 3], [5, 3], [5]],
    [["batch", 3], [5, 3], [5]],
    [["batch", 3], [5, 3], None],
    [["b", "s", 3], [5, 3], [5]],
    [[3], [5, 3], [5]],
    [["batch", "features"], ["out", "features"], ["out"]],
    [["batch", None], [None, 3], [5]],
    [[None, 3], ["out", 3], None],
    [["batch", 3], None, [5]],
    [["batch", 3], None, None],
    [None, [5, 3], [5]],
    [[0, 3], [5, 3], [5]],
    [[2, 3], [0, 3], [0]],
    [[1, 2, 3, 4, 5, 6], [7, 6], [7]],
]


@pytest.mark.skipif(is_older_than("1.24"), reason="shape inference is left out there: those crash on an empty input")
@DTYPE
@pytest.mark.parametrize("shapes", INFERENCE, ids=str)
def test_shape_inference_agrees_with_the_contract(shapes: list[list[int | str | None] | None], dtype: str) -> None:
    declared = [value(name, dtype, shape) for name, shape in zip("XWB", shapes, strict=True)]
    inputs = [entry for entry, shape in zip(declared, shapes, strict=True) if shape is not None or entry.name != "B"]
    cast = helper.make_node("Cast", ["Y"], ["Z"], to=TensorProto.FLOAT)
    names = [entry.name for entry in inputs]
    output = onnx.ValueInfoProto(name="Z")
    output.type.tensor_type.elem_type = TensorProto.FLOAT  # shape left to inference
    model = make_model([node(*names), cast], inputs, [output])
    expected = infer_shape(shapes)
    if expected is None or None in expected:
        expected = []  # onnxruntime's Python for unknown; a custom op cannot state a part of a shape
    assert session(model).get_outputs()[0].shape == expected


@pytest.mark.skipif(is_older_than("1.24"), reason="no shape inference there")
def test_unknown_dimensions_do_not_upset_the_nodes_behind() -> None:
    nodes = [node("X", "W", output="H"), helper.make_node("Add", ["H", "A"], ["Y"])]
    inputs = [value("X", "float64", [None, 3]), value("A", "float64", [4, 5])]
    model = make_model(nodes, inputs, [value("Y", "float64", [4, 5])], {"W": np.ones((5, 3))})
    y = session(model).run(None, {"X": np.ones((4, 3)), "A": np.zeros((4, 5))})[0]
    np.testing.assert_array_equal(y, np.full((4, 5), 3.0))


@pytest.mark.skipif(is_older_than("1.24"), reason="no shape inference there")
def test_shape_inference_reaches_the_nodes_behind() -> None:
    nodes = [node("X", "W", output="H"), helper.make_node("Transpose", ["H"], ["Y"], perm=[1, 0])]
    output = onnx.ValueInfoProto(name="Y")
    output.type.tensor_type.elem_type = TensorProto.DOUBLE
    model = make_model(nodes, [value("X", "float64", ["batch", 3])], [output], {"W": np.ones((5, 3))})
    assert session(model).get_outputs()[0].shape == [5, "batch"]
    options = session_options()
    options.add_free_dimension_override_by_name("batch", 7)
    assert session(model, options).get_outputs()[0].shape == [5, 7]
