"""An operator that takes some combinations of element types: every part that walks over them takes these alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exporter.promises.check import check_operator
from exporter.promises.result import Outcome
from exporter.verification.nodes.drawn import in_type
from ort_ops import ContractError, InferenceSession
from ort_ops.models.make import make_model
from ort_ops.opdef import registry
from ort_ops.opdef.call import make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.onnx_objects import make_node, register_schema
from ort_ops.opdef.operator import DefinitionError
from ort_ops.python_kernels.decorator import Slot
from ort_ops.python_kernels.overloads import make_overloads
from tests.every_operator import combinations, complaints, run_call, sample_calls
from tests.opdef.pair_operator import ALLOWED, KIT, SCALED


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    registry.add(KIT)
    yield
    registry.remove(KIT)


def test_the_overloads_are_the_allowed_combinations() -> None:
    assert [tuple(bound.values()) for bound in SCALED.overloads()] == list(ALLOWED)
    assert SCALED.num_overloads == 3
    kernel = KIT.python_kernel()  # type: ignore[misc]  # it has one
    made = [(o.input_types, o.output_types) for o in make_overloads(kernel, Slot(kernel))]
    assert made == [((11, 6), (11,)), ((1, 1), (1,)), ((1, 10), (1,))]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["float32", "int32"], "Scaled: scale must be float32 or float16 (x is float32), got int32"),
        (["float64", "float32"], "Scaled: scale must be int32 (x is float64), got float32"),
        (["float64", "uint8"], "Scaled: scale must be float32, float16 or int32, got uint8"),
    ],
)
def test_another_combination_is_one_clear_error(names: list[str], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        SCALED.bind(names)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        ((("float64",),), "one type for each of T, S"),
        ((("float64", "int64"),), "one type for each of T, S"),
        (ALLOWED[:2], "each type of S must be in an allowed combination, got no float16"),
        ((*ALLOWED, ALLOWED[0]), "must differ, got one twice"),
    ],
)
def test_combinations_that_cannot_be_are_refused(allowed: tuple[tuple[str, ...], ...], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        replace(SCALED, allowed=allowed)


def test_models_and_sessions_refuse_another_combination() -> None:
    with pytest.raises(ContractError, match=r"scale must be int32 \(x is float64\), got float32"):
        make_model(SCALED, [[2], [2]], types={"T": "float64", "S": "float32"})
    model = make_model(SCALED, [[2], [2]], types={"T": "float32", "S": "float32"})
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT32
    for kernels in ("python", "body"):
        with pytest.raises(ContractError, match=r"scale must be float32 or float16 .* got int32 \(node 'node'\)"):
            InferenceSession(model.SerializeToString(), kernels=kernels)
    register_schema(SCALED)
    with pytest.raises(Exception, match=r"scale must be float32 or float16"):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_every_combination_runs_by_every_kernel() -> None:
    for types in combinations(KIT):
        for call in sample_calls(KIT, types):
            for kernels in ("python", "body"):
                assert complaints(KIT, call, run_call(call, kernels)) == []


def test_one_body_serves_several_combinations() -> None:
    pairs = [("float32", "float32"), ("float32", "float16"), ("float64", "int32")]
    nodes, values, results, feed = [], [], [], {}
    for number, (wide, narrow) in enumerate(pairs):
        names = [f"{name}{number}" for name in "xsy"]
        nodes.append(make_node(SCALED, names[:2], names[2:], f"node{number}"))
        for name, dtype in zip(names, (wide, narrow, wide), strict=True):
            value = helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype].onnx_type, [3])
            (results if name[0] == "y" else values).append(value)
            if name[0] != "y":
                feed[name] = np.array([1, 2, 3], dtype)
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid(SCALED.domain, 1)]
    graph = helper.make_graph(nodes, "pairs", values, results)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    for kernels in ("python", "body"):
        for result in InferenceSession(model.SerializeToString(), kernels=kernels).run(None, feed):
            np.testing.assert_array_equal(result, [1, 4, 9])


def test_an_attribute_has_one_of_its_values() -> None:
    words = "Scaled: attribute mode must be plain or same, got other"
    arrays = [np.ones(2, np.float32), np.ones(2, np.float32)]
    with pytest.raises(ContractError, match=words):
        make_call(SCALED, arrays, {"mode": "other"})
    with pytest.raises(ContractError, match=words):
        make_node(SCALED, ["x", "s"], ["y"], mode="other")
    with pytest.raises(ContractError, match=words):
        SCALED.check_arguments([[2], [2]], ["float32", "float32"], {"mode": "other"})
    model = make_model(SCALED, arrays, {"mode": "same"})
    model.graph.node[0].attribute[0].s = b"other"
    with pytest.raises(ContractError, match=words):
        InferenceSession(model.SerializeToString())


def test_verification_draws_no_other_combination() -> None:
    call = sample_calls(KIT, combinations(KIT)[0])[0]  # float64 and int32
    assert in_type(call, ELEMENT_TYPES["float32"]) is None
    found = in_type(call, ELEMENT_TYPES["float64"])
    assert found is not None
    assert found["T"].name == "float64"


def test_mylinear_check_keeps_every_promise() -> None:
    found = check_operator(KIT)
    assert [promise for promise in found.promises if promise.outcome is Outcome.BROKEN] == []
