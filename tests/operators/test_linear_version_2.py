"""MYLINEAR of version 2: its contract, its bound, its body, and what shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # makes NumPy know bfloat16
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ort_ops import ContractError, InferenceSession
from ort_ops.inspection.model import inspect_model
from ort_ops.inspection.nodes import table
from ort_ops.models.make import make_model
from ort_ops.models.nodes import attach_functions
from ort_ops.numerics.bound import ROUNDED
from ort_ops.opdef.call import Call, make_call
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.version_2 import activations, error_bound
from ort_ops.operators.mylinear.version_2.activations import activated
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, MYLINEAR_2, check_arguments
from ort_ops.operators.mylinear.version_2.kit import KIT
from ort_ops.operators.mylinear.version_2.numpy_kernel import compute
from ort_ops.operators.mylinear.version_2.reference import MylinearReference
from tests.every_operator import complaints

Array = NDArray[Any]
Kernel = Callable[[Call], Array]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["float32", "float64", None], "weight must be float32, float16 or bfloat16 (x is float32), got float64"),
        (["float64", "float32", None], "weight must be float64 (x is float64), got float32"),
        (["float16", "bfloat16", None], "weight must be float16 (x is float16), got bfloat16"),
        (["int32", "int32", None], "x must be float64, float32, float16 or bfloat16, got int32"),
        (["float32", "int8", None], "weight must be float64, float32, float16 or bfloat16, got int8"),
        (["float32", "bfloat16", "bfloat16"], "bias must be float32 (the dtype of x), got bfloat16"),
    ],
)
def test_a_wrong_element_type_is_one_clear_error(names: list[str | None], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_arguments([[2, 3], [4, 3], [4]], names)
    assert str(caught.value) == f"MYLINEAR: {words}"


def test_an_unknown_activation_is_one_clear_error() -> None:
    with pytest.raises(ContractError) as caught:
        check_arguments([[2, 3], [4, 3], None], ["float32", "float32", None], "swish")
    listed = "none, relu, gelu, gelu_tanh, silu, sigmoid or tanh"
    assert str(caught.value) == f"MYLINEAR: attribute activation must be {listed}, got swish"


def test_it_is_version_1_and_more() -> None:
    assert (MYLINEAR_2.domain, MYLINEAR_2.name) == (MYLINEAR.domain, MYLINEAR.name)
    assert [(p.name, p.argument, p.is_optional, p.absent) for p in (*MYLINEAR_2.inputs, *MYLINEAR_2.outputs)] == [
        (p.name, p.argument, p.is_optional, p.absent) for p in (*MYLINEAR.inputs, *MYLINEAR.outputs)
    ]
    for dtype in MYLINEAR.inputs[0].type.dtypes:  # every call of version 1 is one of version 2
        assert (dtype, dtype) in MYLINEAR_2.allowed
    assert MYLINEAR_2.defaults == {"activation": ACTIVATIONS[0]}
    assert check_arguments([[2, 3], [4, 3], [4]], ["float32", "bfloat16", "float32"], "gelu") == [2, 4]
    with pytest.raises(ContractError, match=r"weight must be .* is it transposed"):
        check_arguments([[2, 3], [3, 4], None], ["float32", "float32", None])


def call_of(activation: str, *, real: str = "float32", narrow: str = "float32", rows: int = 8) -> Call:
    """Draw a call of usual numbers: 8 x 64 with 64 features, and a bias."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal((rows, 64)).astype(real)
    weight = (generator.standard_normal((64, 64)) / 4).astype(narrow)
    return make_call(MYLINEAR_2, [x, weight, generator.standard_normal(64).astype(real)], {"activation": activation})


def float64_parts(call: Call) -> tuple[Array, Array, Array]:
    x, weight, bias = (array.astype(np.float64) for array in call.arrays if array is not None)
    return x, weight, bias


def as_another(name: str) -> Kernel:
    """Return a kernel that takes another activation."""

    def compute(call: Call) -> Array:
        x, weight, bias = float64_parts(call)
        return activated(x @ weight.T + bias, name)

    return compute


def without_bias(call: Call) -> Array:
    x, weight, _ = float64_parts(call)
    return activated(x @ weight.T, call.attributes["activation"])


def bias_last(call: Call) -> Array:
    x, weight, bias = float64_parts(call)
    return activated(x @ weight.T, call.attributes["activation"]) + bias


def rounded_twice(call: Call) -> Array:
    x, weight, bias = float64_parts(call)
    total = (x @ weight.T + bias).astype(call.element_type.name).astype(np.float64)
    return activated(total, call.attributes["activation"])


def rounded_weights(call: Call) -> Array:
    """Round products' factors to float16, as a kernel would that converts X to the type of W."""
    x, weight, bias = float64_parts(call)
    narrow = x.astype(call.types["TW"].name).astype(np.float64)
    return activated(narrow @ weight.T + bias, call.attributes["activation"])


@pytest.mark.parametrize(
    ("kernel", "activation", "types"),
    [
        (as_another("gelu_tanh"), "gelu", ("float32", "float32")),
        (as_another("gelu"), "gelu_tanh", ("float32", "bfloat16")),
        (as_another("gelu_tanh"), "gelu", ("float16", "float16")),
        (as_another("silu"), "relu", ("bfloat16", "bfloat16")),
        (as_another("none"), "relu", ("float32", "float32")),
        (as_another("sigmoid"), "tanh", ("float32", "float32")),
        *((without_bias, name, ("float32", "float16")) for name in ACTIVATIONS),
        *((bias_last, name, ("float32", "float32")) for name in ACTIVATIONS[1:]),
        *((rounded_twice, name, ("float16", "float16")) for name in ACTIVATIONS[2:]),
        *((rounded_twice, name, ("bfloat16", "bfloat16")) for name in ACTIVATIONS[2:]),
        *((rounded_weights, name, ("float32", "bfloat16")) for name in ACTIVATIONS),
    ],
)
def test_a_wrong_kernel_is_outside_the_bound(kernel: Kernel, activation: str, types: tuple[str, str]) -> None:
    call = call_of(activation, real=types[0], narrow=types[1])
    dtype = call.element_type.name
    assert complaints(KIT, call, [as_another(activation)(call).astype(dtype)]) == []
    assert complaints(KIT, call, [kernel(call).astype(dtype)]) != []


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_a_bound_without_the_error_of_the_sum_refuses_right_kernels(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 a sum of many terms errs more than an activation, so the constant of Lipschitz is what holds it."""
    generator = np.random.default_rng(4)
    x = (generator.standard_normal((4, 2048)) * 8).astype(np.float32)
    weight = (generator.standard_normal((64, 2048)) / 32).astype(np.float32)
    call = make_call(MYLINEAR_2, [x, weight, None], {"activation": activation})
    got = compute(x, weight, None, activation)
    assert complaints(KIT, call, [got]) == []
    described = {**activations.ACTIVATIONS, activation: replace(activations.ACTIVATIONS[activation], lipschitz=0.0)}
    monkeypatch.setattr(error_bound, "ACTIVATIONS", described)
    assert complaints(KIT, call, [got]) != []


def test_the_bound_is_narrow_where_an_activation_is_flat() -> None:
    x = np.array([[40.0, 30.0], [-40.0, -30.0]], np.float32)
    weight = np.ones((1, 2), np.float32)
    for activation in ("tanh", "sigmoid"):
        bound = KIT.bound(make_call(MYLINEAR_2, [x, weight, None], {"activation": activation}), ROUNDED)[0]
        assert bound is not None
        assert (bound.error < 1e-6).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("real", "narrow"), MYLINEAR_2.allowed)
def test_the_kernel_in_numpy_and_onnx_s_evaluator_agree(activation: str, real: str, narrow: str) -> None:
    call = call_of(activation, real=real, narrow=narrow, rows=2)
    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    got = compute(x, weight, bias, activation)
    assert complaints(KIT, call, [got]) == []
    if "bfloat16" in (real, narrow):  # which the evaluator holds in another way
        return
    model = make_model(MYLINEAR_2, [[2, 64], weight, bias], {"activation": activation}, types={"T": real})
    results = ReferenceEvaluator(model, new_ops=[MylinearReference]).run(None, {"x": x})  # type: ignore[list-item]
    assert complaints(KIT, call, [results[0]]) == []


@pytest.mark.parametrize("opset", [11, 12, 13, 18, 19, 20])
def test_the_body_runs_in_every_opset_and_folds(opset: int, tmp_path: Path) -> None:
    """In opset 11 the conditions stay, as `ort_ops.operators.mylinear.version_2.body` says."""
    for activation in (None, *ACTIVATIONS):
        call = call_of(activation or "none", rows=2)
        given = {} if activation is None else {"activation": activation}
        model = make_model(MYLINEAR_2, [[2, 64], *call.arrays[1:]], given, types={"T": "float32"}, with_function=False)
        model.opset_import[0].version = opset
        attach_functions(model)
        onnx.checker.check_model(model, full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        assert complaints(KIT, call, session.run(None, {"x": call.arrays[0]})) == []
        kept = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
        assert ("If" in kept) == (opset == 11)
        if opset > 11 and activation in ("relu", "sigmoid", "tanh"):
            assert kept == ["FusedGemm"]


def test_an_unknown_activation_is_no_number_in_the_body_and_an_error_in_a_session() -> None:
    call = call_of("relu", rows=2)
    model = make_model(MYLINEAR_2, [[2, 64], *call.arrays[1:]], {"activation": "relu"}, types={"T": "float32"})
    model.graph.node[0].attribute[0].s = b"swish"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isnan(session.run(None, {"x": call.arrays[0]})[0]).all()
    for kernels in ("auto", "body"):
        with pytest.raises(ContractError, match=r"attribute activation must be none, .* or tanh, got swish"):
            InferenceSession(model.SerializeToString(), kernels=kernels)


def test_inspect_shows_the_activation_and_the_type_of_the_weight(tmp_path: Path) -> None:
    call = call_of("gelu", narrow="bfloat16")
    model = make_model(MYLINEAR_2, [["n", 64], *call.arrays[1:]], {"activation": "gelu"}, types={"T": "float32"})
    onnx.save(model, tmp_path / "model.onnx")
    found = inspect_model(tmp_path / "model.onnx")
    (listed,) = found.listed["linear"]
    assert (listed.activation, listed.dtype, listed.weight_dtype) == ("gelu", "float32", "bfloat16")
    assert listed.nbytes == 64 * 64 * 2 + 64 * 4
    ((header, (row,)),) = table(found.nodes, {})
    assert row[header.index("activation")] == "gelu"
    assert row[header.index("dtype")] == "float32, bfloat16"
