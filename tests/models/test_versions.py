"""Several versions of one operator: which one a file imports, and models that hold nodes of more than one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from ort_ops import InferenceSession, KernelError, register
from ort_ops.models.checks import check_shapes, function_difference
from ort_ops.models.nodes import attach_functions, check_operator_nodes, domain_version, import_oldest_versions
from ort_ops.native import library
from ort_ops.opdef import registry
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2

_STATUS = library.status()
KERNELS = [
    *(["cpp"] if _STATUS.is_usable and _STATUS.versions.get(MYLINEAR.name, 0) >= 2 else []),
    *(["python"] if _STATUS.is_usable else []),
    "body",
]
X = np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], np.float32)
WEIGHTS = np.array([[1.0, 2.0, -4.0], [0.5, -1.0, 2.0], [-3.0, 1.0, 1.0]], np.float32)


def node(inputs: str, output: str, **attributes: str) -> onnx.NodeProto:
    return helper.make_node("MYLINEAR", inputs.split(), [output], name=output, domain=DOMAIN, **attributes)


def model_of(
    nodes: list[onnx.NodeProto],
    outputs: str,
    *,
    version: int,
    weights: NDArray[Any] = WEIGHTS,
    opset: int = 17,
    functions: tuple[onnx.FunctionProto, ...] = (),
    prefix: str = "",
) -> onnx.ModelProto:
    """Make a model of nodes that take x, w and b, all of 3 features."""
    bias = np.array([0.5, -0.5, 1.0], np.float32)
    graph = helper.make_graph(
        nodes,
        "versions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in outputs.split()],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, version)]
    opsets += [helper.make_opsetid("own", 1)] * bool(functions)
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


def linear(x: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = x @ WEIGHTS.T + np.array([0.5, -0.5, 1.0], np.float32)
    return result


@pytest.mark.parametrize(
    ("attributes", "weights", "needed"),
    [
        ({}, WEIGHTS, 1),
        ({"activation": "none"}, WEIGHTS, 1),
        ({"activation": "relu"}, WEIGHTS, 2),
        ({}, WEIGHTS.astype(np.float16), 2),
        ({}, WEIGHTS.astype(ml_dtypes.bfloat16), 2),
    ],
)
def test_a_model_imports_the_oldest_version_that_has_what_it_uses(
    attributes: dict[str, str], weights: NDArray[Any], needed: int
) -> None:
    model = model_of([node("x w b", "y"), node("y w b", "z", **attributes)], "z", version=2, weights=weights)
    model.graph.node[0].attribute.append(helper.make_attribute("activation", "none"))
    import_oldest_versions(model)
    assert domain_version(model, DOMAIN) == needed
    check_operator_nodes(model)  # no attribute is left that the version does not have
    attach_functions(model)
    assert function_difference(model) is None
    assert len(model.functions[0].attribute_proto) == needed - 1


def test_nodes_in_functions_and_bodies_count() -> None:
    inner = helper.make_function(
        "own", "Inner", ["x", "w", "b"], ["y"], [node("x w b", "y", activation="silu")],
        [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 2)],
    )  # fmt: skip
    call = helper.make_node("Inner", ["y", "w", "b"], ["z"], domain="own")
    model = model_of([node("x w b", "y"), call], "z", version=2, functions=(inner,))
    import_oldest_versions(model)
    assert domain_version(model, DOMAIN) == 2
    model.functions[0].node[0].attribute[0].s = b"none"
    import_oldest_versions(model)
    assert domain_version(model, DOMAIN) == domain_version(model.functions[0], DOMAIN) == 1
    assert not model.functions[0].node[0].attribute


def test_the_registry_finds_the_oldest_that_takes_a_node() -> None:
    def found(attributes: dict[str, Any], *types: str | None) -> int | None:
        kit = registry.oldest(DOMAIN, "MYLINEAR", attributes, types)
        return None if kit is None else kit.operator.since_version

    assert found({}, "float32", "float32", None) == 1
    assert found({"activation": "none"}, "float16", "float16", "float16") == 1
    assert found({}, "float32", "bfloat16", "float32") == 2
    assert found({"activation": "tanh"}, None, None, None) == 2
    assert found({}, "float64", "float32", None) is None
    assert found({"activation": "swish"}, "float32", "float32", None) is None
    assert registry.oldest(DOMAIN, "NOTHING", {}, ()) is None


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("version", [1, 2])
def test_one_session_runs_plain_nodes_of_either_version(kernels: str, version: int) -> None:
    model = model_of([node("x w b", "y")], "y", version=version)
    attach_functions(model)
    (got,) = InferenceSession(model.SerializeToString(), kernels=kernels).run(None, {"x": X})
    np.testing.assert_allclose(got, linear(X), rtol=1e-6)


def mixed_model(version: int) -> onnx.ModelProto:
    """Make a model whose function imports version 1, and whose graph imports another one and has an activation."""
    inner = helper.make_function(
        "own", "Inner", ["x", "w", "b"], ["y"], [node("x w b", "y")],
        [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)],
    )  # fmt: skip
    call = helper.make_node("Inner", ["x", "w", "b"], ["y"], domain="own")
    return model_of([call, node("y w b", "z", activation="relu")], "z", version=version, functions=(inner,))


# In a function, onnxruntime infers types of an operator only by its definition, which the body brings by itself.
@pytest.mark.parametrize(("kernels", "with_definition"), [*((name, True) for name in KERNELS), ("body", False)])
def test_a_function_may_import_an_older_version_than_its_model(kernels: str, with_definition: bool) -> None:
    model = mixed_model(2)
    assert [found.operator.since_version for found in check_operator_nodes(model)] == [2, 1]
    check_shapes(model)
    if with_definition:
        attach_functions(model)
        assert [f.name for f in model.functions].count("MYLINEAR") == 1
        assert function_difference(model) is None
    (got,) = InferenceSession(model.SerializeToString(), kernels=kernels).run(None, {"x": X})
    np.testing.assert_allclose(got, np.maximum(linear(linear(X)), 0), rtol=1e-6)


def test_stock_onnxruntime_runs_both_versions_by_one_definition() -> None:
    model = mixed_model(2)
    attach_functions(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": X})
    np.testing.assert_allclose(got, np.maximum(linear(linear(X)), 0), rtol=1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
def test_models_of_both_versions_merge(kernels: str) -> None:
    first, second = model_of([node("x w b", "y")], "y", version=1), mixed_second()
    for model in (first, second):
        attach_functions(model)
    first.opset_import[1].version = 2  # onnx merges models of equal versions; every node of 1 is one of 2
    first = compose.add_prefix(first, "one_", rename_functions=False)
    with pytest.raises(Exception, match="overlap"):
        compose.merge_models(first, second, io_map=[("one_y", "x")])
    del first.functions[:]
    merged = compose.merge_models(first, second, io_map=[("one_y", "x")])
    assert function_difference(merged) is None
    (got,) = InferenceSession(merged.SerializeToString(), kernels=kernels).run(None, {"one_x": X})
    np.testing.assert_allclose(got, np.tanh(linear(linear(X))), rtol=1e-6)


def mixed_second() -> onnx.ModelProto:
    return model_of([node("x w b", "z", activation="tanh")], "z", version=2)


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_definition_of_an_older_version_is_no_definition_of_a_newer_one(kernels: str) -> None:
    """Such a file comes of a merge; without a check the activation would be lost in silence."""
    old = model_of([node("x w b", "z")], "z", version=1)
    attach_functions(old)
    model = mixed_second()
    model.functions.extend(old.functions)
    difference = function_difference(model)
    assert difference is not None
    assert "attributes" in difference
    (got,) = InferenceSession(model.SerializeToString(), kernels=kernels).run(None, {"x": X})
    np.testing.assert_allclose(got, np.tanh(linear(X)), rtol=1e-6)


def test_options_of_an_older_version_do_not_run_a_newer_one() -> None:
    options = onnxruntime.SessionOptions()
    register(options, "python", versions={DOMAIN: 1})
    with pytest.raises(KernelError, match=r"kernel of version 1, and the model needs version 2; make new"):
        InferenceSession(mixed_second().SerializeToString(), options)
    options = onnxruntime.SessionOptions()
    register(options, "python", versions={DOMAIN: 2})
    for model in (mixed_second(), model_of([node("x w b", "y")], "y", version=1)):
        InferenceSession(model.SerializeToString(), options).run(None, {"x": X})


def test_both_are_one_operator_to_onnxruntime() -> None:
    assert (MYLINEAR.op_type, MYLINEAR.oldest_served) == (MYLINEAR_2.op_type, MYLINEAR_2.oldest_served)
    assert [kit.operator for kit in registry.kits() if kit.operator.op_type == MYLINEAR.op_type] == [
        MYLINEAR,
        MYLINEAR_2,
    ]
