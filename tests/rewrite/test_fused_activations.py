"""`adopt --fuse-activations`: every spelling, what is left, and what the check finds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from ort_ops.operators.mylinear.patterns.version_2 import fuse
from ort_ops.operators.mylinear.patterns.version_2.forms import Form, Lookalike
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, MYLINEAR_2
from ort_ops.rewrite.reasons import RewriteError
from ort_ops.rewrite.rewrite import adopt, lower
from tests.rewrite.activation_models import (
    SPELLINGS,
    K,
    gelu_by_division,
    gelu_of,
    make,
    model_with,
    plain,
    quick_gelu,
    silu,
)
from tests.rewrite.small_models import operators, run

X = np.random.default_rng(0).standard_normal((7, K)).astype(np.float32) * 3


def fuse_file(model: onnx.ModelProto, tmp_path: Path, **options: Any) -> tuple[onnx.ModelProto, Any]:
    onnx.save(model, tmp_path / "in.onnx")
    result = adopt(tmp_path / "in.onnx", tmp_path / "out.onnx", fuse_activations=True, **options)
    return onnx.load(tmp_path / "out.onnx"), result


def activations(model: onnx.ModelProto) -> list[str]:
    return [a.s.decode() for node in model.graph.node for a in node.attribute if a.name == "activation"]


@pytest.mark.parametrize("layer", ["MatMul", "Gemm"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling(spelling: str, layer: str, tmp_path: Path) -> None:
    activation, nodes = SPELLINGS[spelling]
    model, result = fuse_file(model_with(nodes(), layer=layer), tmp_path)
    assert operators(model) == ["MYLINEAR"]
    assert activations(model) == [activation]
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain] == [("mylinear", 2)]
    assert result.checks[-1].count >= 1
    expected = run(tmp_path / "in.onnx", X)
    np.testing.assert_allclose(run(tmp_path / "out.onnx", X), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "none"])
def test_lower_takes_it_back(activation: str, tmp_path: Path) -> None:
    nodes = next(nodes for name, nodes in SPELLINGS.values() if name == activation)
    for opset in (20, 17):
        if opset == 17 and activation in ("gelu", "gelu_tanh"):
            nodes = SPELLINGS["Erf, Div" if activation == "gelu" else "Tanh, Pow"][1]
        fuse_file(model_with(nodes(), opset=opset), tmp_path)
        lower(tmp_path / "out.onnx", tmp_path / "back.onnx")
        back = onnx.load(tmp_path / "back.onnx")
        assert not back.functions
        assert {node.domain for node in back.graph.node} == {""}
        np.testing.assert_allclose(run(tmp_path / "back.onnx", X), run(tmp_path / "in.onnx", X), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types(dtype: type[np.generic], tmp_path: Path) -> None:
    model, _ = fuse_file(model_with(SPELLINGS["Sigmoid+Mul"][1](), dtype=dtype), tmp_path)
    assert operators(model) == ["MYLINEAR"]


def test_constants_that_are_rounded_to_float16_still_mean_gelu(tmp_path: Path) -> None:
    model, _ = fuse_file(model_with(gelu_by_division(), dtype=np.float16), tmp_path)
    assert activations(model) == ["gelu"]


@pytest.mark.parametrize("root", [1.414, 1.41421, math.nextafter(np.float32(math.sqrt(2)), 2) + 2e-7])
def test_other_constants_are_another_function(root: float, tmp_path: Path) -> None:
    model, result = fuse_file(model_with(gelu_of(root)), tmp_path)
    assert not activations(model)
    assert [str(left.reason) for left in result.left] == [
        "it is written like gelu, but its constants give another function"
    ]


def test_without_the_flag_nothing_is_fused(tmp_path: Path) -> None:
    onnx.save(model_with(plain("Relu")()), tmp_path / "in.onnx")
    adopt(tmp_path / "in.onnx", tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    assert operators(model) == ["MYLINEAR", "Relu"]
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain] == [("mylinear", 1)]


def test_an_activation_that_mylinear_lacks_is_left_with_the_reason(tmp_path: Path) -> None:
    for nodes, told in (
        (plain("Elu")(), "MYLINEAR has no activation Elu"),
        (plain("LeakyRelu")(), "MYLINEAR has no activation LeakyRelu"),
    ):
        model, result = fuse_file(model_with(nodes), tmp_path)
        assert operators(model)[0] == "MYLINEAR"
        assert not activations(model)
        assert told in [str(left.reason) for left in result.left]


def test_the_slope_of_quick_gelu_is_not_silu(tmp_path: Path) -> None:
    model, _ = fuse_file(model_with(quick_gelu()), tmp_path)
    assert not activations(model)


def test_a_sum_that_others_take_stays(tmp_path: Path) -> None:
    for nodes in (plain("Relu")(), silu(), gelu_by_division()):
        model, result = fuse_file(model_with(nodes, outputs=("y", "s")), tmp_path)
        assert not activations(model)
        assert "the sum before the activation" in str(result.left[-1].reason)


def test_an_inner_value_that_others_take_stays(tmp_path: Path) -> None:
    model, result = fuse_file(model_with(gelu_by_division(), outputs=("y", "e")), tmp_path)
    assert not activations(model)
    assert "other nodes take 'e'" in str(result.left[-1].reason)


def test_two_activations_in_a_row_fuse_the_first(tmp_path: Path) -> None:
    nodes = [make("Relu", "s", "r"), make("Tanh", "r", "y")]
    model, _ = fuse_file(model_with((nodes, {})), tmp_path)
    assert operators(model) == ["MYLINEAR", "Tanh"]
    assert activations(model) == ["relu"]


def test_what_only_moves_numbers_may_stand_between(tmp_path: Path) -> None:
    between = [make("Transpose", "sum", "s", perm=[1, 0])]
    model, _ = fuse_file(model_with(plain("Relu")(), between=between), tmp_path)
    assert operators(model) == ["MYLINEAR", "Transpose"]
    assert activations(model) == ["relu"]
    np.testing.assert_allclose(run(tmp_path / "out.onnx", X), run(tmp_path / "in.onnx", X), rtol=1e-5, atol=1e-6)


def test_layers_with_and_without_an_activation_share_one_definition(tmp_path: Path) -> None:
    model = model_with(plain("Relu")())
    model.graph.node[-1].output[0] = "r"
    model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.eye(5, dtype=np.float32), "w2"))
    model.graph.node.append(helper.make_node("MatMul", ["r", "w2"], ["y"]))
    fused, _ = fuse_file(model, tmp_path)
    assert operators(fused) == ["MYLINEAR", "MYLINEAR"]
    assert activations(fused) == ["relu"]
    assert len(fused.functions) == 1
    np.testing.assert_allclose(run(tmp_path / "out.onnx", X), run(tmp_path / "in.onnx", X), rtol=1e-5, atol=1e-6)


def test_a_wrong_activation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fuse.find_form

    def wrong(node: Any) -> Form | Lookalike | None:
        found = right(node)
        return replace(found, activation="gelu_tanh") if isinstance(found, Form) else found

    monkeypatch.setattr(fuse, "find_form", wrong)
    with pytest.raises(RewriteError, match="would change"):
        fuse_file(model_with(plain("Gelu")()), tmp_path)
    assert not (tmp_path / "out.onnx").exists()


def test_a_lost_activation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fuse.put_in_place
    monkeypatch.setattr(fuse, "put_in_place", lambda node, graph, activation: right(node, graph, activation="none"))
    with pytest.raises(RewriteError, match="would change"):
        fuse_file(model_with(plain("Relu")()), tmp_path)


def test_nodes_of_version_1_are_fused_too(tmp_path: Path) -> None:
    onnx.save(model_with(plain("Tanh")()), tmp_path / "plain.onnx")
    adopt(tmp_path / "plain.onnx", tmp_path / "ours.onnx")
    fused, result = fuse_file(onnx.load(tmp_path / "ours.onnx"), tmp_path)
    assert activations(fused) == ["tanh"]
    assert "nothing was rewritten" not in map(str, result.checks)
    assert {entry.domain: entry.version for entry in fused.opset_import}["mylinear"] == MYLINEAR_2.since_version
