"""Mistakes of a rewriter, put into the last of 60 layers on purpose: each check finds each of them by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ort_ops.operators.mylinear import patterns
from ort_ops.rewrite import adopt, lower
from ort_ops.rewrite.graph import editor as rewrite_editor
from ort_ops.rewrite.graph import scaling
from ort_ops.rewrite.proof import whole as rewrite_whole
from ort_ops.rewrite.proof.witnesses import WITNESSES
from ort_ops.rewrite.reasons import RewriteError
from ort_ops.rewrite.report import Extent
from tests.rewrite.small_models import model_of, node

Array = NDArray[Any]
DEPTH, WIDTH = 60, 16


def deep_model() -> onnx.ModelProto:
    """Gemm and Tanh in turn; the last Gemm is the only one that scales its weight."""
    rng = np.random.default_rng(60)
    nodes, stored, value = [], {}, "x"
    for i in range(DEPTH):
        weight = rng.standard_normal((WIDTH, WIDTH)) * 1.5 / WIDTH**0.5
        stored[f"W{i}"], stored[f"B{i}"] = weight.astype(np.float32), rng.standard_normal(WIDTH).astype(np.float32)
        is_last = i == DEPTH - 1
        options = {"alpha": 0.5} if is_last else {}
        nodes.append(node("Gemm", f"{value} W{i} B{i}", "y" if is_last else f"g{i}", **options))
        if not is_last:
            nodes.append(node("Tanh", f"g{i}", f"h{i}"))
        value = f"h{i}"
    return model_of(nodes, stored, ("batch", WIDTH), ("batch", WIDTH))


def transposed(array: Array, factor: float) -> Array:
    return scaling.scale(array.T, factor)


def alpha_dropped(array: Array, factor: float) -> Array:
    return array


def one_number(array: Array, factor: float) -> Array:
    changed = scaling.scale(array, factor).copy()
    changed[3, 5] += np.float32(1e-4)
    return changed


MISTAKES = (transposed, alpha_dropped, one_number)


def make_mistake(mistake: Callable[[Array, float], Array], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it where the last layer's weight is stored, which is the only one with a factor."""

    def scale(array: Array, factor: float) -> Array:
        return scaling.scale(array, factor) if factor == 1 else mistake(array, factor)

    monkeypatch.setattr(rewrite_editor, "scale", scale)


def test_the_model_is_adopted_and_lowered_without_mistakes(tmp_path: Path) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "a.onnx"
    onnx.save(deep_model(), source)
    for result in (adopt(source, target), lower(target, tmp_path / "l.onnx")):
        layers, whole = result.checks
        assert (layers.extent, layers.count) == (Extent.NODES, DEPTH)
        assert (whole.extent, whole.count) == (Extent.WHOLE, 2 * DEPTH - 1)
        assert (whole.num_undecided, whole.num_unbounded, len(whole.by)) == (0, 0, 2)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found_in_the_layer(
    mistake: Callable[[Array, float], Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(deep_model(), tmp_path / "m.onnx")
    make_mistake(mistake, monkeypatch)
    monkeypatch.setattr(rewrite_whole, "_MAX_NBYTES", 0)
    with pytest.raises(RewriteError, match="the output of 'node_y' would change"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize("witness", WITNESSES, ids=lambda witness: witness.name)
def test_a_mistake_is_found_in_the_whole_model(
    witness: Any, mistake: Callable[[Array, float], Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(deep_model(), tmp_path / "m.onnx")
    make_mistake(mistake, monkeypatch)
    monkeypatch.setattr(patterns, "check_layer", lambda *arguments: True)
    monkeypatch.setattr(rewrite_whole, "WITNESSES", [witness])
    with pytest.raises(RewriteError, match=f"tensor 'y' would change, says {witness.name}"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")


@pytest.mark.parametrize("change", [1e-4, 1e-6, 1e-10])
def test_a_bound_is_far_below_the_change_of_one_number(change: float, tmp_path: Path) -> None:
    """The two runs may differ by what float64 rounds, through all layers, and by no more."""
    before = rewrite_whole.WideModel.of_proto(deep_model(), tmp_path)
    feed = {"x": np.random.default_rng(0).standard_normal((2, WIDTH))}
    expected = WITNESSES[0].load(before.proto)({**feed, **before.weights()})["y"]
    bound = rewrite_whole._Bounds(before).of("y", 0, feed)
    assert bound is not None
    for sign in (-1, 1):
        changed = expected.copy()
        changed[1, 2] += sign * change
        found = rewrite_whole._compare_tensor(expected, changed, lambda: bound)
        assert found.complaint is not None
    nearly = expected * (1 + 2.0**-52)
    assert (nearly != expected).any()
    assert rewrite_whole._compare_tensor(expected, nearly, lambda: bound).complaint is None


def test_what_differs_and_has_no_bound_is_unbounded_and_never_ok() -> None:
    before, after = np.ones((2, 3)), np.ones((2, 3)) * 1.5
    found = rewrite_whole._compare_tensor(before, after, lambda: None)
    assert (found.verdict.value, found.num_unbounded) == ("unbounded", 6)
    assert rewrite_whole._compare_tensor(before, before.copy(), lambda: None).verdict.value == "ok"
