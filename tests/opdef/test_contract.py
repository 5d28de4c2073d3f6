"""The contract, its schema, its shape inference and its function body say the same; messages are one table."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import defs, helper

from exporter.operators.mylinear.functional import linear as torch_linear
from exporter.torch_ops.tensors import from_numpy
from ort_ops.opdef.onnx_objects import make_function, register_schema
from ort_ops.opdef.operator import ContractError, Shape
from ort_ops.operators.mylinear import numpy_kernel
from ort_ops.operators.mylinear.contract import (
    DOMAIN,
    ELEMENT_TYPES,
    MYLINEAR,
    NAME,
    SINCE_VERSION,
    check_arguments,
    infer_shape,
)
from ort_ops.operators.mylinear.reference import linear as numpy_linear
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2
from tests.cases import numpy_dtype
from tests.linear_model import make_linear_model


@pytest.fixture(autouse=True)
def registered() -> None:
    """Make onnx know the operator, whichever test runs first in its process."""
    register_schema(MYLINEAR)


# shapes of x, weight, bias -> the whole message, whoever raises it
BAD_SHAPES: list[tuple[list[tuple[int, ...] | None], str]] = [
    ([(), (5, 3), None], "MYLINEAR: x must be [..., in_features] with rank 1 or more, got []"),
    ([(2, 3), (3,), None], "MYLINEAR: weight must be [out_features, in_features], got [3]"),
    ([(2, 3), (1, 5, 3), None], "MYLINEAR: weight must be [out_features, in_features], got [1, 5, 3]"),
    ([(2, 16), (8, 4), None], "MYLINEAR: weight must be [out_features, 16] (x has in_features 16), got [8, 4]"),
    (
        [(2, 16), (16, 8), None],
        "MYLINEAR: weight must be [out_features, 16] (x has in_features 16), got [16, 8]; is it transposed?",
    ),
    ([(2, 3), (5, 3), (4,)], "MYLINEAR: bias must be [5] (weight has out_features 5), got [4]"),
    ([(2, 3), (5, 3), (1,)], "MYLINEAR: bias must be [5] (weight has out_features 5), got [1]"),
    ([(2, 3), (5, 3), (1, 5)], "MYLINEAR: bias must be [5] (weight has out_features 5), got [1, 5]"),
    ([(2, 3), (5, 3), ()], "MYLINEAR: bias must be [5] (weight has out_features 5), got []"),
]
BAD_DTYPES = [
    (("int64", "int64", None), "MYLINEAR: x must be float64, float32, float16 or bfloat16, got int64"),
    (("float32", "float64", None), "MYLINEAR: weight must be float32 (the dtype of x), got float64"),
    (("float64", "float64", "float32"), "MYLINEAR: bias must be float64 (the dtype of x), got float32"),
]


def zeros(shapes: list[tuple[int, ...] | None], dtypes: tuple[str | None, ...] = ("float32",) * 3) -> list[np.ndarray]:
    return [np.zeros(s, numpy_dtype(d)) for s, d in zip(shapes, dtypes, strict=True) if s is not None and d is not None]


@pytest.mark.parametrize(("shapes", "message"), BAD_SHAPES)
def test_bad_shapes_give_one_message_everywhere(shapes: list[tuple[int, ...] | None], message: str) -> None:
    arrays = zeros(shapes)
    for run in (
        lambda: infer_shape(shapes),
        lambda: numpy_linear(*arrays),
        lambda: torch_linear(*map(from_numpy, arrays)),
        lambda: numpy_kernel.compute(arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else np.zeros(5, "float32")),
    ):
        with pytest.raises(ContractError) as caught:
            run()
        assert str(caught.value) == message


@pytest.mark.parametrize(("dtypes", "message"), BAD_DTYPES)
def test_bad_dtypes_give_one_message_everywhere(dtypes: tuple[str | None, ...], message: str) -> None:
    shapes: list[tuple[int, ...] | None] = [(2, 3), (5, 3), (5,)]
    arrays = zeros(shapes, dtypes)
    for run in (lambda: check_arguments(shapes, dtypes), lambda: numpy_linear(*arrays)):
        with pytest.raises(ContractError) as caught:
            run()
        assert str(caught.value) == message
    with pytest.raises(ContractError) as told:
        torch_linear(*map(from_numpy, arrays))  # it takes what version 2 takes
    with pytest.raises(ContractError) as expected:
        MYLINEAR_2.bind(dtypes)
    assert str(told.value) == str(expected.value)


def test_results_beyond_addressable_memory_are_refused() -> None:
    shapes = [(2**60, 0), (5, 0), None]
    with pytest.raises(ContractError) as caught:
        check_arguments(shapes, ["float64", "float64", None])
    assert str(caught.value) == f"MYLINEAR: y must be smaller than 2^63 bytes, got [{2**60}, 5]"


@pytest.mark.parametrize("version", [0, 2])
def test_unknown_versions_are_refused(version: int) -> None:
    expected = f"MYLINEAR: the version of domain 'mylinear' must be 1, got {version}; update ort-mylinear"
    with pytest.raises(ContractError) as caught:
        MYLINEAR.check_version(version)
    assert str(caught.value) == expected


def test_attributes_are_refused() -> None:
    with pytest.raises(ContractError, match="MYLINEAR: the attributes must be none, got alpha, beta"):
        MYLINEAR.check_attributes(["beta", "alpha"])


def test_element_types_agree_with_onnx_and_numpy() -> None:
    for element_type in ELEMENT_TYPES:
        dtype = numpy_dtype(element_type.name)
        assert element_type.onnx_type == helper.np_dtype_to_tensor_dtype(dtype)
        known = {t for c in defs.get_schema("Cast", 13).type_constraints for t in c.allowed_type_strs}
        assert element_type.onnx_name in known
        info = ml_dtypes.finfo(dtype)
        assert element_type.nbytes == dtype.itemsize
        assert element_type.unit_roundoff == float(info.eps) / 2
        assert element_type.smallest == float(info.smallest_subnormal)
        assert element_type.largest == float(info.max)


def test_schema_states_the_contract() -> None:
    register_schema(MYLINEAR)
    register_schema(MYLINEAR)
    schema = defs.get_schema(NAME, SINCE_VERSION, DOMAIN)
    assert [(p.name, p.option == defs.OpSchema.FormalParameterOption.Optional) for p in schema.inputs] == [
        ("X", False),
        ("W", False),
        ("B", True),
    ]
    assert [p.name for p in schema.outputs] == ["Y"]
    assert schema.min_input == MYLINEAR.num_required == 2
    assert not schema.attributes
    assert schema.has_type_and_shape_inference_function
    (constraint,) = schema.type_constraints
    assert set(constraint.allowed_type_strs) == {t.onnx_name for t in ELEMENT_TYPES}


SHAPES: list[tuple[list[Shape], Shape]] = [
    ([["batch", 3], [5, 3], [5]], ["batch", 5]),
    ([["batch", "sequence", 3], [5, 3]], ["batch", "sequence", 5]),
    ([[3], [5, 3], [5]], [5]),
    ([[0, 3], [5, 3], [5]], [0, 5]),
    ([[2, 0], [5, 0], [5]], [2, 5]),
    ([[2, 3], [0, 3], [0]], [2, 0]),
    ([["batch", 3], ["out", 3], [5]], ["batch", "out"]),
    ([["batch", "k"], [5, 3], [5]], ["batch", 5]),
]


@pytest.mark.parametrize(("shapes", "expected"), SHAPES, ids=str)
def test_schema_and_function_body_infer_the_same_shapes(shapes: list[Shape], expected: Shape) -> None:
    names = ["x", "weight", "bias"][: len(shapes)]
    graph = helper.make_graph(
        [helper.make_node(NAME, names, ["y"], domain=DOMAIN)],
        "g",
        [helper.make_tensor_value_info(n, 1, s) for n, s in zip(names, shapes, strict=True)],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    register_schema(MYLINEAR)
    assert inferred_shape(model) == expected
    if len(shapes) == 3 and "k" not in shapes[0] and "out" not in shapes[1]:
        model.functions.append(make_function(MYLINEAR, 20, ["float32"]))
        defs.deregister_schema(NAME, SINCE_VERSION, DOMAIN)
        try:
            assert inferred_shape(model) == expected
        finally:
            register_schema(MYLINEAR)


def inferred_shape(model: onnx.ModelProto) -> Shape:
    output = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    return [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim]


@pytest.mark.parametrize("element_type", ELEMENT_TYPES, ids=lambda t: t.name)
def test_checker_accepts_what_the_contract_has(element_type: object) -> None:
    dtype = numpy_dtype(element_type.name)  # type: ignore[attr-defined]
    model = make_linear_model(["batch", 3], np.ones((5, 3), dtype), np.ones(5, dtype))
    onnx.checker.check_model(model, full_check=True, check_custom_domain=True)


def test_checker_refuses_other_types_and_attributes() -> None:
    model = make_linear_model(["batch", 3], np.ones((5, 3), np.float32), np.ones(5, np.float32))
    with_attribute = onnx.ModelProto()
    with_attribute.CopyFrom(model)
    with_attribute.graph.node[0].attribute.append(helper.make_attribute("alpha", 1.0))
    with pytest.raises(onnx.checker.ValidationError, match="Unrecognized attribute: alpha"):
        onnx.checker.check_model(with_attribute, check_custom_domain=True)
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        if isinstance(value, onnx.TensorProto):
            value.data_type = onnx.TensorProto.INT32
        else:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT32
    with pytest.raises(Exception, match="int32"):
        onnx.checker.check_model(model, full_check=True, check_custom_domain=True)


def test_wrong_shapes_in_a_model_are_reported_in_the_contract_s_words() -> None:
    weight, wrong = (np.ones(shape, np.float32) for shape in ((3, 5), (5, 3)))
    model = make_linear_model(["batch", 5], weight, np.ones(3, np.float32))
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(wrong, "weight"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ContractError, match="is it transposed"):
        onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("opset", "types", "message"),
    [
        (12, ["bfloat16"], "the opset version must be 13 or newer for bfloat16, got 12"),
        (14, ["float32", "float16"], "the opset version must be 15 or newer for a model that mixes"),
        (20, ["int8"], "x must be float64, float32, float16 or bfloat16, got int8"),
    ],
)
def test_the_function_body_refuses_what_it_cannot_say(opset: int, types: list[str], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        make_function(MYLINEAR, opset, types)
