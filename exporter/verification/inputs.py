"""What the proof runs a model, and a node of it, on: examples from files, drawn numbers, and edge values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from exporter.verification.result import EDGES
from ort_ops.analysis.evaluation import LinearCall
from ort_ops.analysis.local_error import HAVE_AGREED_EDGES
from ort_ops.models.graphs import all_nodes
from ort_ops.models.inputs.draw import InputDrawer, model_inputs, read_examples
from ort_ops.models.inputs.skeleton import Dims
from ort_ops.models.nodes import OperatorNode
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME

Array = NDArray[Any]
Feed = Mapping[str, Array]
MAX_ROWS, MAX_ROWS_BACKWARD, _FEWEST_ROWS = 256, 64, 16
"""Of x at a node alone."""
_CALLS_NBYTES = 2**28  # that what all nodes received may take in memory
_LARGER = 64  # of dynamic dimensions that are not the first, where a model does not run on small ones


@dataclass(frozen=True)
class Case:
    """One input of the whole model.

    Attributes:
        label: which, in words.
        attempts: functions that make a feed each; the next is tried where the model does not run on one.
        num_rows: about how much work it is.
    """

    label: str
    attempts: Sequence[Callable[[], Feed]]
    num_rows: int

    @property
    def is_edge(self) -> bool:
        return self.label == EDGES


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
    return (node.domain, node.op_type) == (DOMAIN, NAME) or (
        node.domain in ("", "ai.onnx") and node.op_type in HAVE_AGREED_EDGES
    )


def default_batch_sizes(drawer: InputDrawer) -> tuple[int, ...]:
    """A transformer on 64 sequences of 64 takes minutes, most of them in other operators than ours."""
    return (1, 2, 7, 32) if drawer.num_dynamic > 1 else (1, 2, 7, 64)


def thinned(call: LinearCall, most: int = MAX_ROWS) -> LinearCall:
    """Return the call with at most so many rows of x, evenly spaced: each row is a sum of its own."""
    rows = call.x.reshape(-1, call.x.shape[-1]) if call.x.size else call.x
    if not call.x.size or len(rows) <= most:
        return call
    return replace(call, x=rows[np.linspace(0, len(rows) - 1, most).astype(int)])


def rows_that_fit(num_features: Sequence[int], num_cases: int) -> int:
    """Return how many rows of x to keep of each call, so that those of all nodes fit into `_CALLS_NBYTES`.

    >>> rows_that_fit([1024] * 10, 5), rows_that_fit([1024] * 400, 5)
    (256, 16)
    """
    nbytes_a_row = 8 * sum(num_features) * max(1, num_cases)
    return max(_FEWEST_ROWS, min(MAX_ROWS, _CALLS_NBYTES // max(1, nbytes_a_row)))


def edge_call(call: LinearCall) -> LinearCall:
    """Return the call with edge values for x, where none come to it through the model."""
    patterns = _edge_patterns(call.element_type)
    return replace(call, x=np.array([np.resize(pattern, call.x.shape[-1]) for pattern in patterns]))


def edge_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Edge values row by row, for every input; all of them take floating-point numbers."""
    feed = {}
    for value in model_inputs(model):
        if not value.is_required:
            continue
        assert value.dtype is not None
        patterns = _edge_patterns(MYLINEAR.element_type(value.dtype.name))
        shape = value.shape({}, 9)
        flat = np.zeros(shape).reshape(shape[0] if len(shape) > 1 else 1, -1)
        for row, numbers in zip(flat, patterns * (len(flat) // len(patterns) + 1), strict=False):
            row[:] = np.resize(numbers, row.shape)
        feed[value.name] = flat.reshape(shape).astype(value.dtype)
    return feed


def _edge_patterns(element_type: ElementType) -> list[list[float]]:
    """Return what each row repeats: zeros of both signs, small, large, near cancellation, infinities and NaN."""
    tiny, large = element_type.smallest, element_type.largest**0.25
    patterns = [[0.0], [-0.0], [tiny, -tiny], [large, -large], [1.0, -1.0, 1.0 + 2 * element_type.unit_roundoff]]
    return [*patterns, [np.inf, 1.0], [-np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0]]


class NodeDrawer:
    """Draws what a MYLINEAR node may receive, where the model was not run or did not reach it."""

    def __init__(self, model: onnx.ModelProto, dims: Mapping[str, Dims], seed: int) -> None:
        self._dims = dims
        self._seed = seed
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in all_nodes(model):
            for attribute in node.attribute:
                self._stored.update((tensor.name, tensor) for tensor in attribute.g.initializer)
                for graph in attribute.graphs:
                    self._stored.update((tensor.name, tensor) for tensor in graph.initializer)
                if node.op_type == "Constant" and attribute.name == "value":
                    self._stored[node.output[0]] = attribute.t

    def draw(self, linear: OperatorNode, element_type: ElementType, sizes: Sequence[int]) -> list[LinearCall]:
        """Return calls with normal numbers for x, and for a weight or bias that is computed; none if its shape is not
        known.
        """
        weight_name, bias_name = (*linear.node.input[1:], "")[:2]
        rng = np.random.default_rng(self._seed)
        weight = self._tensor(weight_name, rng, linear)
        if weight is None:
            return []
        out_features, in_features = weight.shape
        bias = None
        if bias_name:
            bias = self._tensor(bias_name, rng, linear)
            bias = rng.standard_normal((out_features,)) if bias is None else bias
        return [
            LinearCall(linear.path, rng.standard_normal((size, in_features)), weight, bias, element_type)
            for size in sizes
        ]

    def _tensor(self, name: str, rng: np.random.Generator, linear: OperatorNode) -> Array | None:
        is_formal = isinstance(linear.container, onnx.FunctionProto) and name in linear.container.input
        if is_formal:
            return None
        if name in self._stored:
            return numpy_helper.to_array(self._stored[name])
        dims = self._dims.get(name)
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            return None
        return rng.standard_normal([int(dim or 0) for dim in dims])


def rounded(array: Array, element_type: ElementType) -> Array:
    """Return the numbers in an element type."""
    with np.errstate(all="ignore"):
        return array.astype(helper.tensor_dtype_to_np_dtype(element_type.onnx_type))
