"""Make the inputs for the whole model: examples from files, drawn numbers, and edge values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporter.verification.row import EDGES
from ort_ops.analysis.float64.local_error import HAVE_AGREED_EDGES
from ort_ops.analysis.rows import MAX_ROWS
from ort_ops.models.graphs import all_nodes
from ort_ops.models.inputs.draw import InputDrawer, model_inputs, read_examples
from ort_ops.opdef import registry
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType

if TYPE_CHECKING:
    from exporter.verification.training.in_a_row import InARow

Array = NDArray[Any]
Feed = Mapping[str, Array]
_FEWEST_ROWS = 16
_CALLS_NBYTES = 2**28  # that what all nodes received may take in memory
_LARGER = 64  # of dynamic dimensions that are not the first, where a model does not run on small ones


@dataclass(frozen=True)
class Case:
    """One input of the whole model.

    Attributes:
        label: its name in words.
        attempts: functions that each make a feed; the next one is tried if the model does not run on the first.
        num_rows: a rough measure of the work.
        in_a_row: for several steps of a training file; the feed is then that of all of them.
    """

    label: str
    attempts: Sequence[Callable[[], Feed]]
    num_rows: int
    in_a_row: InARow | None = None

    @property
    def is_edge(self) -> bool:
        return self.label == EDGES

    def first(self, feed: Feed) -> Feed:
        """Return the feed of the first run."""
        return feed if self.in_a_row is None else self.in_a_row.first(feed)


def make_cases(
    model: onnx.ModelProto,
    drawer: InputDrawer,
    batch_sizes: Sequence[int] | None,
    files: Sequence[str | Path],
    seed: int,
) -> list[Case]:
    """Return the inputs to try: the files' examples, or drawn ones of these sizes; and edge values where they fit.

    Raises: ExampleError for a file that the model cannot take.
    """
    cases = []
    for file in files:
        feed = read_examples(file, model)
        rows = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
        cases.append(Case(Path(file).name, [lambda feed=feed: feed], rows))  # type: ignore[misc]
    if batch_sizes is None:
        batch_sizes = () if files else default_batch_sizes(drawer)
    inner = any(not isinstance(dim, int) for value in drawer.inputs for dim in (value.dims or ())[1:])
    for size in batch_sizes:
        others = [None, _LARGER] if inner and size < _LARGER else [None]
        attempts = [
            lambda o=o, size=size: drawer.draw(size, np.random.default_rng([seed, size]), others=o) for o in others
        ]
        cases.append(Case(f"batch {size}", attempts, size))
    if all(value.is_floating for value in drawer.inputs) and all(map(_takes_edges, all_nodes(model))):
        cases.append(Case(EDGES, [lambda: edge_inputs(model)], 9))
    return cases


def _takes_edges(node: onnx.NodeProto) -> bool:
    is_ours = (node.domain, node.op_type) in registry.names()
    return is_ours or (node.domain in ("", "ai.onnx") and node.op_type in HAVE_AGREED_EDGES)


def default_batch_sizes(drawer: InputDrawer) -> tuple[int, ...]:
    """A transformer on 64 sequences of 64 takes minutes, most of them in other operators than ours."""
    return (1, 2, 7, 32) if drawer.num_dynamic > 1 else (1, 2, 7, 64)


def rows_that_fit(nbytes_of_rows: Sequence[int], num_cases: int) -> int:
    """Return how many rows to keep of each call, so that those of all nodes fit into `_CALLS_NBYTES`.

    >>> rows_that_fit([8 * 1024] * 10, 5), rows_that_fit([8 * 1024] * 400, 5)
    (256, 16)
    """
    nbytes = sum(nbytes_of_rows) * max(1, num_cases)
    return max(_FEWEST_ROWS, min(MAX_ROWS, _CALLS_NBYTES // max(1, nbytes)))


def edge_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Edge values row by row, for every input; all of them take floating-point numbers."""
    feed = {}
    for value in model_inputs(model):
        if not value.is_required:
            continue
        assert value.dtype is not None
        patterns = edge_patterns(ELEMENT_TYPES[value.dtype.name])
        shape = value.shape({}, 9)
        flat = np.zeros(shape).reshape(shape[0] if len(shape) > 1 else 1, -1)
        for row, numbers in zip(flat, patterns * (len(flat) // len(patterns) + 1), strict=False):
            row[:] = np.resize(numbers, row.shape)
        feed[value.name] = flat.reshape(shape).astype(value.dtype)
    return feed


def edge_patterns(element_type: ElementType) -> list[list[float]]:
    """Return the numbers that each row repeats: zeros of both signs, small, large, cancelling, infinite and NaN."""
    tiny, large = element_type.smallest, element_type.largest**0.25
    patterns = [[0.0], [-0.0], [tiny, -tiny], [large, -large], [1.0, -1.0, 1.0 + 2 * element_type.unit_roundoff]]
    return [*patterns, [np.inf, 1.0], [-np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0]]
