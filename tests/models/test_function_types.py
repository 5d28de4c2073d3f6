"""Nodes inside a user's own model-local functions, which only the functions' callers give types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import ort_ops
from ort_ops.cli import main as cli
from ort_ops.inspection.model import inspect_model
from ort_ops.models.complete import complete_inputs
from ort_ops.models.nodes import attach_functions, node_types, types_by_operator
from ort_ops.operators.mylinear.contract import MYLINEAR

OPSETS = [helper.make_opsetid(domain, version) for domain, version in (("", 20), ("my", 1), ("mylinear", 1))]
LINEAR = helper.make_node("MYLINEAR", ["r", "w"], ["c"], "inner", domain="mylinear")


def function(name: str, nodes: list[onnx.NodeProto], attributes: tuple[str, ...] = ()) -> onnx.FunctionProto:
    return helper.make_function("my", name, ["a", "w"], ["c"], nodes, OPSETS, attributes=list(attributes))


def called(name: str, *types: str, functions: list[onnx.FunctionProto], **attributes: Any) -> onnx.ModelProto:
    """A model that calls a function once for each element type."""
    nodes, inputs, outputs, stored = [], [], [], []
    for i, dtype in enumerate(types):
        number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes += [
            helper.make_node("Neg", [f"x{i}"], [f"n{i}"]),
            helper.make_node(name, [f"n{i}", f"w{i}"], [f"y{i}"], domain="my", **attributes),
        ]
        inputs.append(helper.make_tensor_value_info(f"x{i}", number, ["batch", 3]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", number, ["batch", 3]))
        stored.append(numpy_helper.from_array(np.diag([1, 2, 3]).astype(dtype), f"w{i}"))
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, functions=functions, opset_imports=OPSETS, ir_version=10)


def relu_linear(name: str = "F") -> onnx.FunctionProto:
    return function(name, [helper.make_node("Relu", ["a"], ["r"]), LINEAR])


def check_results(model: onnx.ModelProto, *types: str, kernels: str = "auto") -> None:
    session = ort_ops.InferenceSession(model.SerializeToString(), kernels=kernels)
    results = session.run(None, {f"x{i}": np.array([[-1, -2, 3]], dtype) for i, dtype in enumerate(types)})
    for result, dtype in zip(results, types, strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, [[1, 4, 0]])


@pytest.mark.parametrize("types", [("float32",), ("float64",), ("float32", "float64"), ("float32", "float32")], ids=str)
@pytest.mark.parametrize("kernels", ["auto", "python", "body"])
def test_a_node_typed_by_its_callers_runs_by_every_kernel(types: tuple[str, ...], kernels: str) -> None:
    model = called("F", *types, functions=[relu_linear()])
    assert types_by_operator(model) == {MYLINEAR.key: {"T": set(types)}}
    check_results(model, *types, kernels=kernels)


def nested() -> onnx.ModelProto:
    outer = function("G", [helper.make_node("F", ["a", "w"], ["c"], domain="my")])
    return called("G", "float64", functions=[relu_linear(), outer])


def in_a_branch() -> onnx.ModelProto:
    def branch() -> onnx.GraphProto:
        return helper.make_graph([LINEAR], "branch", [], [onnx.ValueInfoProto(name="c")])

    condition = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", 9, [], [True]))
    chosen = helper.make_node("If", ["yes"], ["c"], then_branch=branch(), else_branch=branch())
    return called(
        "F", "float64", functions=[function("F", [condition, helper.make_node("Relu", ["a"], ["r"]), chosen])]
    )


def with_an_attribute() -> onnx.ModelProto:
    cast = helper.make_node("Cast", ["a"], ["b"])
    cast.attribute.append(onnx.AttributeProto(name="to", type=onnx.AttributeProto.INT, ref_attr_name="kind"))
    weight = helper.make_node("Cast", ["w"], ["v"])
    weight.attribute.append(onnx.AttributeProto(name="to", type=onnx.AttributeProto.INT, ref_attr_name="kind"))
    nodes = [
        cast,
        weight,
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("MYLINEAR", ["r", "v"], ["d"], "inner", domain="mylinear"),
        helper.make_node("CastLike", ["d", "a"], ["c"]),
    ]
    return called("F", "float64", functions=[function("F", nodes, ("kind",))], kind=1)


@pytest.mark.parametrize(
    ("make", "inner"),
    [(nested, "float64"), (in_a_branch, "float64"), (with_an_attribute, "float32")],
    ids=["in a function of a function", "in a branch", "by the caller's attribute"],
)
def test_types_come_through_calls(make: Any, inner: str, tmp_path: Path) -> None:
    model = make()
    assert types_by_operator(model)[MYLINEAR.key] == {"T": {inner}}
    assert all(types["T"].name == inner for types in node_types(model))
    check_results(model, "float64", kernels="body")
    onnx.save(model, tmp_path / "m.onnx")
    assert {node.dtypes["T"] for node in inspect_model(tmp_path / "m.onnx").nodes} == {inner}


@pytest.mark.parametrize("make", [nested, with_an_attribute, lambda: called("F", "float32", functions=[relu_linear()])])
def test_inspect_accepts_a_model_that_holds_the_definition(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make()
    complete_inputs(model)
    attach_functions(model)
    onnx.save(model, tmp_path / "m.onnx")
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    plain = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    np.testing.assert_array_equal(plain.run(None, {"x0": np.array([[-1, -2, 3]], dtype)})[0], [[1, 4, 0]])
    assert cli.main(["inspect", str(tmp_path / "m.onnx")]) == 0, capsys.readouterr()
    assert "body       right" in capsys.readouterr().out


def test_a_type_that_the_operator_does_not_take_is_found_through_the_call() -> None:
    model = called("F", "int64", functions=[function("F", [helper.make_node("Abs", ["a"], ["r"]), LINEAR])])
    with pytest.raises(ort_ops.ContractError, match="must be float64, float32, float16 or bfloat16, got int64"):
        types_by_operator(model)


def test_a_function_that_nothing_calls_matters_to_nothing() -> None:
    model = called("F", "float32", functions=[relu_linear(), relu_linear("Unused")])
    assert types_by_operator(model) == {MYLINEAR.key: {"T": {"float32"}}}
    check_results(model, "float32", kernels="body")


def test_nothing_of_the_model_is_changed() -> None:
    model = called("F", "float32", functions=[relu_linear()])
    before = model.SerializeToString(deterministic=True)
    types_by_operator(model)
    node_types(model)
    assert model.SerializeToString(deterministic=True) == before
