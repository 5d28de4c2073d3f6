"""adopt and lower over models that nobody wrote for them: seeded random graphs, and all node tests of onnx."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ort_ops.errors import MylinearError
from ort_ops.rewrite.report import Rewrite
from ort_ops.rewrite.rewrite import adopt, lower

Array = NDArray[Any]


class RandomGraph:
    """A chain of random operators, most of them such as stand around linear layers, on a tensor whose shape is known.

    Weights are small whole numbers and halves, so that float32 computes without rounding: results must be equal.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = [int(size) for size in self.rng.integers(1, 5, self.rng.integers(1, 4))]
        self.opset = int(self.rng.integers(7, 22))
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, Array] = {}
        self.x_shape, self.value = list(self.shape), "x"
        self.outputs: dict[str, list[int]] = {}
        steps = [self.matmul, self.gemm, self.matmul_add, self.add, self.transpose, self.reshape, self.from_left]
        for _ in range(self.rng.integers(2, 7)):
            steps[self.rng.integers(len(steps))]()
            if self.rng.random() < 0.15:
                self.outputs[self.value] = list(self.shape)
        self.outputs[self.value] = list(self.shape)

    def model(self) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.outputs.items() if n != "x"]
        graph = helper.make_graph(
            self.nodes, "random", [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.x_shape)], outputs,
            [numpy_helper.from_array(array, name) for name, array in self.stored.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def numbers(self, *shape: int) -> Array:
        return (self.rng.integers(-2, 3, shape) / 2).astype(np.float32)

    def store(self, array: Array) -> str:
        """Store a tensor, or take one that is stored already; at times behind an operator that is folded."""
        name = f"c{len(self.stored)}"
        if array.dtype != np.float32:
            self.stored[name] = array
            return name
        alike = [n for n, stored in self.stored.items() if (stored.shape, stored.dtype) == (array.shape, array.dtype)]
        if alike and self.rng.random() < 0.3:
            return alike[0]
        self.stored[name] = array
        if self.rng.random() < 0.6:
            return name
        if array.ndim == 2 and self.rng.random() < 0.5:
            self.stored[name] = np.ascontiguousarray(array.T)
            return self.emit("Transpose", name, perm=[1, 0])
        return self.emit("Identity", name)

    def emit(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def matmul(self) -> None:
        width = int(self.rng.integers(1, 5))
        weight = self.numbers(self.shape[-1], width)
        if len(self.shape) > 2 and self.rng.random() < 0.3:
            weight = weight[None]
        self.value = self.emit("MatMul", self.value, self.store(weight))
        self.shape[-1] = width

    def add(self) -> None:
        """Add something that broadcasts to the value, in whichever order: a bias, a number, a column or more."""
        rank = int(self.rng.integers(0, len(self.shape) + 1))
        shape = [size if self.rng.random() < 0.6 else 1 for size in self.shape[len(self.shape) - rank :]]
        pair = [self.value, self.store(self.numbers(*shape))]
        self.value = self.emit("Add", *pair[:: int(self.rng.choice([1, -1]))])

    def matmul_add(self) -> None:
        self.matmul()
        self.add()

    def gemm(self) -> None:
        if len(self.shape) != 2:
            return self.reshape()
        width, turned = int(self.rng.integers(1, 5)), int(self.rng.integers(2))
        inner = self.shape[-1]
        inputs = [self.value, self.store(self.numbers(*((width, inner) if turned else (inner, width))))]
        shapes: list[tuple[int, ...]] = [(), (1,), (width,), (1, width), (self.shape[0], 1)]
        inputs.append(self.store(self.numbers(*shapes[self.rng.integers(5)])))
        alpha, beta = (float(self.rng.choice([1, 1, 0.5, -2, 0])) for _ in range(2))
        self.value = self.emit("Gemm", *inputs, transB=turned, alpha=alpha, beta=beta)
        self.shape[-1] = width

    def transpose(self) -> None:
        perm = [int(axis) for axis in self.rng.permutation(len(self.shape))]
        self.value = self.emit("Transpose", self.value, perm=perm)
        self.shape = [self.shape[axis] for axis in perm]

    def reshape(self) -> None:
        size = int(np.prod(self.shape))
        last = self.shape[-1]
        choices = [[size], [size // last, last], [1, size // last, last], [last, size // last], [-1, last]]
        target = choices[self.rng.integers(len(choices))]
        self.value = self.emit("Reshape", self.value, self.store(np.array(target)))
        self.shape = [size // last if dim == -1 else dim for dim in target]

    def from_left(self) -> None:
        if len(self.shape) < 2:
            return self.matmul()
        turn = [*range(len(self.shape) - 2), len(self.shape) - 1, len(self.shape) - 2]
        self.value = self.emit("Transpose", self.value, perm=turn)
        rows = int(self.rng.integers(1, 5))
        self.value = self.emit("MatMul", self.store(self.numbers(rows, self.shape[-1])), self.value)
        self.shape[-1] = rows
        if self.rng.random() < 0.5:
            self.value = self.emit("Add", self.value, self.store(self.numbers(rows, 1)))
        self.value = self.emit("Transpose", self.value, perm=turn)


def outputs_of(path: Path, feed: Mapping[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    found: list[Any] = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]).run(None, dict(feed))
    return found


def check_random_graph(seed: int, folder: Path) -> Rewrite:
    graph = RandomGraph(seed)
    model = graph.model()
    source, adopted, lowered = (folder / f"{name}.onnx" for name in "mal")
    onnx.save(model, source)
    result = adopt(source, adopted)
    assert all(check.has_compared for check in result.checks[:1] if result.rewritten)
    lower(adopted, lowered)
    feed = {"x": (np.random.default_rng(seed).integers(-4, 5, graph.x_shape) / 2).astype(np.float32)}
    expected = outputs_of(source, feed)
    for path in (adopted, lowered):
        onnx.checker.check_model(onnx.load(path), full_check=True)
        for got, wanted in zip(outputs_of(path, feed), expected, strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=f"seed {seed}, {path.name}")
    return result


def test_random_graphs_give_the_same_bits_before_and_after(tmp_path: Path) -> None:
    results = [check_random_graph(seed, tmp_path) for seed in range(40)]
    assert sum(len(result.rewritten) for result in results) > 40


@pytest.mark.slow
def test_many_random_graphs(tmp_path: Path) -> None:
    for seed in range(40, 3000):
        check_random_graph(seed, tmp_path)


def with_constants(model: onnx.ModelProto, arrays: list[Any], kept: int) -> onnx.ModelProto:
    """Return a copy in which every input that is a tensor is a constant, but for one."""
    baked = onnx.ModelProto.FromString(model.SerializeToString())
    for value, array in zip(model.graph.input, arrays, strict=False):
        if value.name != model.graph.input[kept].name and isinstance(array, np.ndarray):
            baked.graph.initializer.append(numpy_helper.from_array(array, value.name))
            baked.graph.input.remove(next(i for i in baked.graph.input if i.name == value.name))
    return baked


@pytest.mark.slow
def test_the_node_tests_of_onnx_are_rewritten_or_left_and_compute_the_same(tmp_path: Path) -> None:
    """Each as it is, and with all inputs but one as constants, as weights are."""
    import onnx.backend.test.case.node as node_cases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in node_cases.collect_testcases() if case.model is not None and case.data_sets]
    assert len(cases) > 1000
    num_compared = 0
    for case in cases:
        arrays = list(case.data_sets[0][0])
        feed = dict(zip((value.name for value in case.model.graph.input), arrays, strict=False))
        models = [case.model]
        if any(node.op_type in ("MatMul", "Gemm", "Einsum", "Conv", "If", "Loop") for node in case.model.graph.node):
            models += [with_constants(case.model, arrays, kept) for kept in range(len(case.model.graph.input))]
        for model in models:
            num_compared += compare_both_ways(model, feed, case.name, tmp_path)
    assert num_compared >= 10


def compare_both_ways(model: onnx.ModelProto, feed: Mapping[str, Any], name: str, folder: Path) -> bool:
    """Rewrite a model and back, and return whether onnxruntime could compare it."""
    source, adopted, lowered = (folder / f"{letter}.onnx" for letter in "mal")
    onnx.save(model, source)
    try:
        result = adopt(source, adopted)
        lower(adopted, lowered)
    except MylinearError:  # such as opsets below 7
        return False
    wanted_inputs = {value.name for value in model.graph.input}
    feed = {key: array for key, array in feed.items() if key in wanted_inputs}
    try:
        expected = outputs_of(source, feed) if result.rewritten else None
    except Exception:  # onnxruntime has no kernel for it
        expected = None
    if expected is None:
        return False
    for path in (adopted, lowered):
        for got, wanted in zip(outputs_of(path, feed), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{name}, {path.name}")
    return True
