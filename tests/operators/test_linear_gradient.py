"""MYLINEARGRAD: its contract, its body in plain onnxruntime, its bounds, and wrong kernels that they catch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ort_ops.models.checks import function_difference
from ort_ops.models.complete import drop_unread_outputs
from ort_ops.models.make import make_model
from ort_ops.models.nodes import attach_functions, check_operator_nodes
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES, TF32
from ort_ops.numerics.compare import compare
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.reference import linear_float64
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD, infer_shape
from ort_ops.operators.mylineargrad.kit import KIT
from ort_ops.operators.mylineargrad.numpy_kernel import KERNEL
from ort_ops.operators.mylineargrad.samples import draw_calls
from ort_ops.python_kernels.compute import compute
from tests.every_operator import complaints, feed_of, in_place, one_node

Array = NDArray[Any]
IS_OLDEST = onnxruntime.__version__.startswith("1.17.")
DTYPES = [element_type.name for element_type in MYLINEARGRAD.element_types]


def call_of(leading: tuple[int, ...], out_features: int, in_features: int, dtype: str = "float64") -> Call:
    rng = np.random.default_rng(len(leading) + out_features)
    shapes = ((*leading, out_features), (*leading, in_features), (out_features, in_features))
    return make_call(MYLINEARGRAD, [rng.standard_normal(shape).astype(dtype) for shape in shapes])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([[], [3], [2, 3]], r"grad must be [..., out_features] with rank 1 or more, got []"),
        ([[2], [], [2, 3]], r"x must be [..., in_features] with rank 1 or more, got []"),
        ([[5, 2], [5, 3], [2]], r"weight must be [out_features, in_features], got [2]"),
        ([[5, 2], [5, 3], [3, 2]], r"weight must be [out_features, 3] (x has in_features 3), got [3, 2]; is it trans"),
        ([[5, 4], [5, 3], [2, 3]], r"grad must be [..., 2] (weight has out_features 2), got [5, 4]"),
        ([[4, 2], [5, 3], [2, 3]], r"grad must be [5, 2] (x is [5, 3]), got [4, 2]"),
        ([[2], [5, 3], [2, 3]], r"grad must be [5, 2] (x is [5, 3]), got [2]"),
        ([["b", 4, 2], ["b", 5, 3], None], r"grad must be [b, 5, 2] (x is [b, 5, 3]), got [b, 4, 2]"),
    ],
)
def test_a_wrong_shape_is_told(shapes: list[Any], message: str) -> None:
    with pytest.raises(ContractError) as caught:
        infer_shape(shapes)
    assert str(caught.value).startswith(f"MYLINEARGRAD: {message}")


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([["b", 2], ["b", 3], [2, 3]], [["b", 3], [2, 3], [2]]),
        ([[None, 2], [7, 3], None], [[7, 3], [2, 3], [2]]),
        ([["b", None], None, [2, 3]], [["b", 3], [2, 3], [2]]),
        ([None, ["b", 3], [2, "k"]], [["b", 3], [2, 3], [2]]),
        ([None, None, None], [None, [None, None], [None]]),
    ],
)
def test_shapes_are_inferred_from_what_is_known(shapes: list[Any], expected: list[Any]) -> None:
    assert infer_shape(shapes) == expected


def test_a_node_has_at_least_one_output() -> None:
    model = one_node(call_of((3,), 2, 4))
    for outputs in ([], [""], ["", "", ""]):
        del model.graph.node[0].output[:]
        model.graph.node[0].output.extend(outputs)
        with pytest.raises(
            ContractError, match=r"the outputs must be one or more of GX, GW, GB \(node 'one'\), got \["
        ):
            check_operator_nodes(model)


def plain(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("opset", [11, 12, 13, 15, 20])
def test_the_body_is_right_with_every_input_fed(opset: int, dtype: str) -> None:
    """Fed, not stored: in float64, onnxruntime up to 1.25 has no kernel for a product with a transposed matrix."""
    for call in draw_calls(np.random.default_rng(0), ELEMENT_TYPES[dtype]):
        if IS_OLDEST and 0 in (*call.arrays[0].shape[:-1], call.arrays[0].shape[-1]):  # type: ignore[union-attr]
            continue  # sums of nothing: its Gemm refuses them, and its MatMul leaves them unset
        model = one_node(call, opset=opset, with_function=True)
        assert function_difference(model) is None
        results = plain(model).run(None, feed_of(call, model))
        assert complaints(KIT, call, in_place(model, results)) == []


def test_the_body_serves_nodes_of_several_types() -> None:
    """One function for all: computed in float64, and rounded once to the type of each node."""
    calls = [call_of((3,), 2, 4, dtype) for dtype in ("float16", "float64", "float32")]
    models = [one_node(call, opset=17) for call in calls]
    merged = onnx.ModelProto()
    merged.CopyFrom(models[0])
    for field in ("node", "input", "output"):
        del getattr(merged.graph, field)[:]
    feed = {}
    for number, (call, model) in enumerate(zip(calls, models, strict=True)):
        for node in model.graph.node:
            node.name += str(number)
            for names in (node.input, node.output):
                names[:] = [f"{name}{number}" for name in names]
        feed |= {f"{name}{number}": array for name, array in feed_of(call, model).items()}
        for value in (*model.graph.input, *model.graph.output):
            value.name += str(number)
        for field in ("node", "input", "output"):
            getattr(merged.graph, field).extend(getattr(model.graph, field))
    attach_functions(merged)
    results = plain(merged).run(None, feed)
    for number, call in enumerate(calls):
        assert complaints(KIT, call, results[3 * number : 3 * number + 3]) == []


def wrong_results(call: Call) -> dict[str, list[Array]]:
    """Return what wrong kernels give: each has one output of a classic mistake."""
    g, x, w = (array.astype(np.float64) for array in call.arrays if array is not None)
    rows, x_rows = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
    right = [g @ w, rows.T @ x_rows, rows.sum(0)]
    wrong = {
        "GX from the transposed weight": [g @ w.T, *right[1:]],
        "GX from X": [x @ w, *right[1:]],
        "GW transposed": [right[0], right[1].T, right[2]],
        "GW of the last matrix alone": [right[0], g[-1].T @ x[-1], right[2]],
        "GW without a row": [right[0], rows[1:].T @ x_rows[1:], right[2]],
        "GB of the first leading dimension alone": [*right[:2], g[:, 0].sum(0)],
        "GB without the last row": [*right[:2], rows[:-1].sum(0)],
        "GB as the mean": [*right[:2], rows.mean(0)],
    }
    dtype = np.dtype(call.element_type.name)
    return {name: [value.astype(dtype) for value in values] for name, values in wrong.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_mistake_leaves_the_bound(dtype: str) -> None:
    call = call_of((3, 4), 5, 5, dtype)  # square, so that no shape gives it away
    for name, results in wrong_results(call).items():
        assert len(complaints(KIT, call, results)) == 1, name
    assert complaints(KIT, call, compute(KERNEL, call.arrays)) == []


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("operand", range(3))
def test_a_lost_bit_of_an_output_leaves_the_bound_of_short_sums(operand: int, dtype: str) -> None:
    call = call_of((2,), 2, 3, dtype)
    exact, bounds = KIT.reference(call)[operand], KIT.bound(call, ROUNDED)[operand]
    off = exact + 4 * bounds.error  # type: ignore[union-attr]
    assert not compare(off, exact, bounds, call.element_type).is_within_bound  # type: ignore[arg-type]
    assert (bounds.error < 1e3 * call.element_type.unit_roundoff * (1 + np.abs(exact))).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_of_one_row_is_that_row(dtype: str) -> None:
    call = call_of((1,), 6, 2, dtype)
    (row,) = call.arrays[0]  # type: ignore[misc]
    bound = KIT.bound(call, ROUNDED)[2]
    assert bound is not None
    assert not bound.error.any()
    assert np.array_equal(KIT.reference(call)[2], row.astype(np.float64))
    assert KIT.bound(call, TENSOR_CORES)[2].error.all()  # type: ignore[union-attr]  # tiny numbers may become 0
    assert (KIT.bound(call, TF32)[2].error >= 2.0**-11 * np.abs(row.astype(np.float64))).all()  # type: ignore[union-attr]


def test_sums_that_overflow_in_part_are_exact_and_may_be_infinite() -> None:
    big = np.finfo(np.float64).max
    grad = np.array([[big], [big], [-big], [-big]])
    call = make_call(MYLINEARGRAD, [grad, np.ones((4, 1)), np.ones((1, 1))])
    exact, bounds = KIT.reference(call), KIT.bound(call, ROUNDED)
    assert exact[1] == 0
    assert exact[2] == 0
    for index, shape in ((1, (1, 1)), (2, (1,))):
        for value, is_right in ((0.0, True), (np.inf, True), (-np.inf, True), (np.nan, True), (big, False)):
            found = compare(np.full(shape, value), exact[index], bounds[index], call.element_type)  # type: ignore[arg-type]
            assert found.is_within_bound is is_right, (index, value)
    one = make_call(MYLINEARGRAD, [grad[:1] / 2, np.ones((1, 1)), np.ones((1, 1))])
    found = compare(np.full(1, np.inf), KIT.reference(one)[2], KIT.bound(one, ROUNDED)[2], one.element_type)  # type: ignore[arg-type]
    assert not found.is_within_bound  # one row is not summed


def test_gradients_are_those_of_the_definition_of_mylinear() -> None:
    """The linear function is its own difference: L(X + dX) - L(X) = <G, dX W^T> = <GX, dX>, and so on."""
    rng = np.random.default_rng(0)
    call = call_of((2, 3), 4, 5)
    grad, x, weight = (array for array in call.arrays if array is not None)
    grad_x, grad_weight, grad_bias = KIT.reference(call)
    step_x, step_weight, step_bias = (rng.standard_normal(s) for s in (x.shape, weight.shape, (4,)))
    for of_step, inner in (
        (linear_float64(step_x, weight), np.sum(grad_x * step_x)),
        (linear_float64(x, step_weight), np.sum(grad_weight * step_weight)),
        (linear_float64(0 * x, weight, step_bias), np.sum(grad_bias * step_bias)),
    ):
        assert np.isclose(np.sum(grad * of_step), inner, rtol=1e-12)


@pytest.mark.parametrize(
    ("read", "left"),
    [
        (["grad_x", "grad_weight", "grad_bias"], ["grad_x", "grad_weight", "grad_bias"]),
        (["grad_weight"], ["", "grad_weight", ""]),
        (["grad_bias"], ["", "", "grad_bias"]),
        (["grad_x"], ["grad_x", "", ""]),
        ([], ["grad_x", "grad_weight", "grad_bias"]),
    ],
)
@pytest.mark.parametrize("by", ["a node", "an output", "a body"])
def test_outputs_that_nobody_reads_are_dropped(read: list[str], left: list[str], by: str) -> None:
    model = make_model(MYLINEARGRAD, [["b", 2], ["b", 3], [2, 3]], types={"T": "float32"})
    outputs = {value.name: value for value in model.graph.output}
    model.graph.value_info.extend(outputs.values())
    del model.graph.output[:]
    for name in read:
        if by == "an output":
            model.graph.output.append(outputs[name])
        elif by == "a node":
            model.graph.node.append(helper.make_node("Relu", [name], [f"{name}_read"]))
        else:
            result = helper.make_tensor_value_info(f"{name}_read", TensorProto.FLOAT, None)
            graph = helper.make_graph([helper.make_node("Relu", [name], [f"{name}_read"])], "body", [], [result])
            model.graph.node.append(
                helper.make_node("If", ["yes"], [f"{name}_out"], then_branch=graph, else_branch=graph)
            )
    dropped = drop_unread_outputs(model)
    assert list(model.graph.node[0].output) == left
    assert dropped == left.count("")
    assert {value.name for value in model.graph.value_info} == {name for name in left if name}
    assert drop_unread_outputs(model) == 0


def test_a_call_of_some_outputs_is_a_node_of_these() -> None:
    call = replace(call_of((3,), 2, 4), outputs=(False, True, False))
    assert list(one_node(call).graph.node[0].output) == ["", "grad_weight", ""]
