"""Every registered operator by every kernel: within its bound, over its samples and all its element types."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ort_ops.models.checks import function_difference
from ort_ops.models.nodes import check_operator_nodes
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.onnx_objects import register_schema
from ort_ops.session import InferenceSession
from tests.every_operator import (
    combinations,
    complaints,
    feed_of,
    in_place,
    in_words,
    kernels_of,
    one_node,
    run_call,
    sample_calls,
)

OPERATORS = [
    pytest.param(kit, types, id=f"{kit.operator.name}-{in_words(types)}")
    for kit in registry.kits()
    for types in combinations(kit)
]


RUNS = [
    pytest.param(*p.values, kernels, id=f"{kernels}-{p.id}") for p in OPERATORS for kernels in kernels_of(p.values[0])
]


@pytest.mark.parametrize(("kit", "types", "kernels"), RUNS)
def test_each_kernel_is_within_the_bound(kit: OperatorKit, types: Any, kernels: str) -> None:
    for call in sample_calls(kit, types):
        assert complaints(kit, call, run_call(call, kernels)) == []


@pytest.mark.parametrize(("kit", "types"), OPERATORS)
def test_constants_of_the_model_give_the_same(kit: OperatorKit, types: Any) -> None:
    for call in sample_calls(kit, types):
        stored = range(1, len(kit.operator.inputs))
        assert complaints(kit, call, run_call(call, "auto", stored=stored)) == []


@pytest.mark.parametrize(("kit", "types"), OPERATORS)
def test_the_schema_infers_what_the_model_states(kit: OperatorKit, types: Any) -> None:
    register_schema(kit.operator)
    for call in sample_calls(kit, types):
        model = one_node(call)
        onnx.checker.check_model(model, full_check=True)
        stated = [value.SerializeToString() for value in model.graph.output]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        assert [value.SerializeToString() for value in inferred.graph.output] == stated
        assert len(check_operator_nodes(model)) == 1


@pytest.mark.parametrize("opset", [13, 15, 17, 20])
@pytest.mark.parametrize(("kit", "types"), [p for p in OPERATORS if p.values[0].operator.make_body is not None])
def test_the_function_body_is_right_in_plain_onnxruntime(kit: OperatorKit, types: Any, opset: int) -> None:
    for call in sample_calls(kit, types):
        # What stands for an absent input is stored where the model knows its shape, else computed, from opset 15 on.
        has_all = all(array is not None for array in call.arrays)
        stored = range(len(call.arrays)) if opset < 15 and not has_all else ()
        model = one_node(call, opset=opset, stored=stored, with_function=True)
        assert function_difference(model) is None
        if "bfloat16" in in_words(types):  # plain onnxruntime takes no such arrays from Python
            session = InferenceSession(model.SerializeToString(), kernels="body")
        else:
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        assert complaints(kit, call, in_place(model, session.run(None, feed_of(call, model)))) == []


@pytest.mark.parametrize(("kit", "types"), OPERATORS)
def test_an_output_that_is_optional_may_be_absent(kit: OperatorKit, types: Any) -> None:
    choices = [(True, False) if output.is_optional else (True,) for output in kit.operator.outputs]
    call = sample_calls(kit, types)[0]
    for has_output in filter(any, itertools.product(*choices)):
        shortest = has_output[: max(i for i, is_there in enumerate(has_output) if is_there) + 1]
        for kernels in kernels_of(kit):
            for listed in (has_output, shortest):  # with empty names at the end, and without
                results = run_call(call, kernels, outputs=listed)
                assert [result is not None for result in results] == list(has_output)
                assert complaints(kit, call, results) == []


@pytest.mark.parametrize("kit", registry.kits(), ids=lambda kit: kit.operator.name)
def test_the_samples_are_worth_trying(kit: OperatorKit) -> None:
    for types in combinations(kit):
        found = sample_calls(kit, types)
        assert any(0 in array.shape for call in found for array in call.arrays if array is not None)
        for index, parameter in enumerate(kit.operator.inputs):
            if parameter.is_optional:
                assert {call.arrays[index] is None for call in found} == {True, False}
        for attribute in kit.operator.attributes:
            assert len({str(call.attributes[attribute.name]) for call in found}) > 1
        again = sample_calls(kit, types)
        for one, other in zip(found, again, strict=True):
            for a, b in zip(one.arrays, other.arrays, strict=True):
                assert (a is None and b is None) or np.asarray(a).tobytes() == np.asarray(b).tobytes()
