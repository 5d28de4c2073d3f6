"""Version 2 of MYLINEAR in C++: activations, and 16-bit weights under float32, beside models of version 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, MYLINEAR_2, NARROW_WEIGHTS, check_arguments
from tests.native_support import (
    DTYPES,
    Array,
    Case,
    make_model,
    node,
    one_node_model,
    run,
    session,
    session_options,
    value,
)

pytestmark = pytest.mark.native

ISA = pytest.mark.parametrize("isa", native.status().usable_isas)


def _version_2(model: onnx.ModelProto, **attributes: Any) -> onnx.ModelProto:
    for opset in model.opset_import:
        if opset.domain == MYLINEAR_2.domain:
            opset.version = MYLINEAR_2.since_version
    for one in model.graph.node:
        if one.domain == MYLINEAR_2.domain:
            one.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    return model


def _formula(activation: str, x: Array) -> Array:
    import math

    with np.errstate(all="ignore"):
        if activation == "relu":
            return np.where(x < 0, 0, x)
        if activation == "gelu":
            return x / 2 * np.vectorize(lambda a: math.erfc(-a / math.sqrt(2)), otypes=[np.float64])(x)
        if activation == "gelu_tanh":
            return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        if activation == "silu":
            return x / (1 + np.exp(-x))
        if activation == "sigmoid":
            return 1 / (1 + np.exp(-x))
        return np.tanh(x) if activation == "tanh" else x


@ISA
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])  # onnxruntime's Python takes no bfloat16
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_the_sum(activation: str, dtype: str, isa: str) -> None:
    for leading, out_features, in_features in [((3,), 20, 40), ((40,), 33, 17), ((2, 50), 70, 800), ((9,), 1, 5)]:
        x, weight, bias = Case(leading, out_features, in_features, dtype).sample()
        constants = {"W": weight, "B": bias}
        model = _version_2(one_node_model(dtype, x.ndim, constants), activation=activation)
        (y,) = session(model, session_options(isa)).run(None, {"X": x})
        if dtype == "float16":  # rounded after the activation: that of float32 has the sum
            wide = {name: array.astype(np.float32) for name, array in constants.items()}
            model = _version_2(one_node_model("float32", x.ndim, wide), activation=activation)
            (expected,) = session(model, session_options(isa)).run(None, {"X": x.astype(np.float32)})
            assert y.tobytes() == expected.astype(np.float16).tobytes()
            continue
        total = run(x, weight, bias, True, session_options(isa))
        expected = _formula(activation, total.astype(np.float64))
        step = np.finfo(DTYPES[dtype]).eps
        assert np.all(np.abs(y - expected) <= 8 * step * np.abs(expected) + 2 * step * np.minimum(np.abs(total), 1))


@ISA
@pytest.mark.parametrize("narrow", NARROW_WEIGHTS)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "computed"])
def test_16_bit_weights_give_the_bits_of_their_float32_copies(constant: bool, narrow: str, isa: str) -> None:
    for leading, out_features, in_features in [((1,), 37, 129), ((4,), 70, 900), ((100,), 130, 1500), ((9,), 1, 30)]:
        x, weight, bias = Case(leading, out_features, in_features).sample()
        small = weight.astype(DTYPES[narrow])
        # float32 comes in, because onnxruntime's Python takes no bfloat16 arrays
        cast = helper.make_node("Cast", ["W32"], ["W"], to=MYLINEAR.element_type(narrow).onnx_type)
        fed = {"W32": small.astype(np.float32), "B": bias}
        shapes = {"X": [None] * x.ndim, "W32": [None, None], "B": [None]}
        inputs = [value(name, "float32", shapes[name]) for name in shapes if not constant or name == "X"]
        model = make_model(
            [cast, node("X", "W", "B")], inputs, [value("Y", "float32", [None] * x.ndim)], fed if constant else {}
        )
        feeds = {"X": x} | ({} if constant else fed)
        (y,) = session(_version_2(model), session_options(isa)).run(None, feeds)
        expected = run(x, small.astype(np.float32), bias, constant, session_options(isa))
        assert y.tobytes() == expected.tobytes()


def test_nan_and_infinities_pass_as_in_ieee_arithmetic() -> None:
    x = np.array([[np.inf], [-np.inf], [np.nan], [0.0]], np.float32)
    inf, nan = np.inf, np.nan
    rows = {
        "relu": [inf, 0, nan, 0],
        "gelu": [inf, nan, nan, 0],
        "gelu_tanh": [inf, nan, nan, 0],
        "silu": [inf, nan, nan, 0],
        "sigmoid": [1, 0, nan, 0.5],
        "tanh": [1, -1, nan, 0],
    }
    for activation, expected in rows.items():
        model = _version_2(
            one_node_model("float32", 2, {"W": np.ones((20, 1), np.float32)}, False), activation=activation
        )
        (y,) = session(model).run(None, {"X": x})
        np.testing.assert_array_equal(y, np.tile(np.array(expected, np.float32)[:, None], (1, 20)))


def test_an_unknown_activation_is_refused_in_the_words_of_the_contract() -> None:
    model = _version_2(one_node_model("float32", 2, {"W": np.ones((2, 2), np.float32)}, False), activation="swish")
    with pytest.raises(ValueError, match="activation") as expected:
        check_arguments([(1, 2), (2, 2)], ["float32", "float32"], "swish")
    with pytest.raises(Exception, match="activation") as caught:
        session(model)
    assert str(expected.value) in str(caught.value)


def test_an_activation_of_another_kind_is_refused() -> None:
    model = _version_2(one_node_model("float32", 2, {"W": np.ones((2, 2), np.float32)}, False), activation=1)
    with pytest.raises(Exception, match="attribute activation must be a string, got an int"):
        session(model)


@pytest.mark.parametrize("types", [("float32", "float64"), ("float16", "float32"), ("float64", "float32")])
def test_other_types_of_weights_are_refused_by_onnxruntime(types: tuple[str, str]) -> None:
    inputs = [value("X", types[0], [2, 2]), value("W", types[1], [2, 2])]
    model = _version_2(make_model([node("X", "W")], inputs, [value("Y", types[0], [2, 2])]))
    with pytest.raises(Exception, match=r"Could not find an implementation|no kernel def matches|does not match|Type"):
        session(model)


def test_shapes_are_inferred_with_an_activation() -> None:
    x, weight, bias = Case((2, 3), 7, 5).sample()
    model = _version_2(one_node_model("float32", 3, {"W": weight, "B": bias}), activation="gelu")
    assert session(model).run(None, {"X": x})[0].shape == (2, 3, 7)
