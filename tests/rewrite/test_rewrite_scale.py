"""adopt and lower take twice the work for twice the layers."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ort_ops.models.files import load_model
from ort_ops.rewrite.rewrite import adopt, lower
from tests.rewrite.small_models import model_of, node


def chain(num_layers: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, stored, value = [], {}, "x"
    for i in range(num_layers):
        stored[f"W{i}"] = (rng.standard_normal((4, 4)) / 2).astype(np.float32)
        stored[f"B{i}"] = rng.standard_normal(4).astype(np.float32)
        result = "y" if i == num_layers - 1 else f"h{i}"
        nodes += [node("MatMul", f"{value} W{i}", f"p{i}"), node("Add", f"p{i} B{i}", result)]
        value = result
    return model_of(nodes, stored, ("batch", 4), ("batch", 4))


def num_calls(change: Callable[[Path, Path], Any], source: Path, target: Path) -> int:
    profile = cProfile.Profile()
    profile.runcall(change, source, target)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def test_work_grows_with_the_number_of_layers_and_not_with_its_square(tmp_path: Path) -> None:
    source, adopted, lowered = (tmp_path / f"{letter}.onnx" for letter in "mal")
    counts: dict[str, list[int]] = {"adopt": [], "lower": []}
    for size in (2, 60, 120):  # the first round imports what later ones have
        onnx.save(chain(size), source)
        counts["adopt"].append(num_calls(adopt, source, adopted))
        counts["lower"].append(num_calls(lower, adopted, lowered))
    for _, fewer, more in counts.values():
        assert fewer < more < 2.1 * fewer, counts


def test_the_calls_are_counted_as_they_must_be(tmp_path: Path) -> None:
    """The test above would see one walk over the graph for each layer."""

    def quadratic(source: Path, _: Path) -> None:
        graph = load_model(source).graph
        for _ in graph.node:
            assert sum(1 for _ in graph.node) > 0

    counts = []
    for size in (60, 120):
        onnx.save(chain(size), tmp_path / "m.onnx")
        counts.append(num_calls(quadratic, tmp_path / "m.onnx", tmp_path))
    assert counts[1] > 2.1 * counts[0], counts
