"""States are overwritten in place only where that is right: shown on graphs where it is not, and on random ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from packaging.version import Version

from ort_ops import Trainer
from ort_ops.training import runner
from ort_ops.training.graph import in_place
from ort_ops.training.graph.in_place import unsafe_states
from tests.training_runtime.hand_made import Array, draw_batches, plain_steps, save_step, step_model
from tests.training_runtime.random_steps import draw_states, random_model, training_model
from tests.training_runtime.test_trainer import assert_same_state

node = helper.make_node
BATCHES = [(np.random.default_rng(i).uniform(-1, 1, (4, 4)),) for i in range(4)]


@pytest.fixture
def step_file(tmp_path: Path) -> Path:
    return save_step(tmp_path)


def train(path: Path, batches: Any = BATCHES, **options: Any) -> tuple[Trainer, dict[str, Array]]:
    trainer = Trainer(path, threads=1, **options)
    for batch in batches:
        trainer.step(*batch)
    return trainer, trainer.state()


def is_same(got: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    return all(np.array_equal(got[name], array, equal_nan=True) for name, array in expected.items())


def test_without_the_check_weights_are_wrong_and_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = (30, 20, 10)
    onnx.save(step_model(sizes, lr=0.05), tmp_path / "step.onnx")
    batches = draw_batches(100, 8, sizes)
    _, expected = plain_steps(step_model(sizes, lr=0.05), batches)
    trainer, state = train(tmp_path / "step.onnx", batches)
    assert list(trainer.two_buffers) == ["second.weight"]
    assert_same_state(state, expected)
    monkeypatch.setattr(runner, "unsafe_states", lambda *_: {})
    trainer, wrong = train(tmp_path / "step.onnx", batches)
    assert not trainer.two_buffers
    assert np.abs(wrong["first.weight"] - expected["first.weight"]).max() > 1e-3


@pytest.mark.parametrize("seed", [*range(40), 330, 352, 381])
def test_random_graphs_have_the_bits_of_a_plain_loop(tmp_path: Path, seed: int) -> None:
    model = random_model(seed)
    onnx.save(model, tmp_path / "step.onnx")
    _, expected = plain_steps(model, BATCHES)
    assert_same_state(train(tmp_path / "step.onnx")[1], expected)
    assert_same_state(train(tmp_path / "step.onnx", in_place=False)[1], expected)


@pytest.mark.slow  # 1500 random graphs: pytest -m slow tests/training_runtime/test_in_place.py
def test_many_random_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = in_place_states = 0
    for seed in range(1000, 2500):
        model = random_model(seed)
        onnx.save(model, tmp_path / "step.onnx")
        _, expected = plain_steps(model, BATCHES)
        trainer, state = train(tmp_path / "step.onnx")
        assert is_same(state, expected), seed
        in_place_states += len(state) - 1 - len(trainer.two_buffers)
        with monkeypatch.context() as patch:
            patch.setattr(runner, "unsafe_states", lambda *_: {})
            wrong += not is_same(train(tmp_path / "step.onnx")[1], expected)
    assert wrong > 500  # the check is needed
    assert in_place_states > 2000  # and does not refuse all


def _read_late(reader: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """A state that is updated at once, and read late: ``reader`` makes ``late`` of ``s0`` and ``busy``."""
    return [
        node("MatMul", ["x", "x"], ["p0"]),
        *(node("MatMul", [f"p{i}", "x"], [f"p{i + 1}"]) for i in range(3)),
        node("Tanh", ["p3"], ["busy"]),
        *reader,
        node("Sub", ["s0", "x"], ["s0/next"]),
        node("Add", ["s1", "late"], ["s1/next"]),
        node("ReduceMean", ["late"], ["loss"], keepdims=0),
    ]


def _branches() -> dict[str, onnx.GraphProto]:
    value = helper.make_tensor_value_info("o", onnx.TensorProto.DOUBLE, [4, 4])
    return {
        "then_branch": helper.make_graph([node("Mul", ["s0", "busy"], ["o"])], "then", [], [value]),
        "else_branch": helper.make_graph([node("Identity", ["busy"], ["o"])], "else", [], [value]),
    }


READERS = {
    "directly": [node("Mul", ["s0", "busy"], ["late"])],
    "by its name in a body": [
        node("ReduceMax", ["busy"], ["most"], keepdims=0),
        node("Less", ["most", "ten"], ["is_small"]),
        node("If", ["is_small"], ["late"], **_branches()),
    ],
    # The optimizer lets the product read the state itself.
    "as a transposed copy": [
        node("Transpose", ["s0"], ["turned"], perm=[1, 0]),
        node("MatMul", ["busy", "turned"], ["late"]),
        node("MatMul", ["x", "turned"], ["soon"]),
    ],
    # onnxruntime reshapes without a copy.
    "as a view": [
        node("Reshape", ["s0", "flat"], ["line"]),
        node("Reshape", ["busy", "flat"], ["busy_line"]),
        node("Mul", ["line", "busy_line"], ["late_line"]),
        node("Reshape", ["late_line", "square"], ["late"]),
    ],
}


@pytest.mark.parametrize("how", READERS)
def test_a_state_that_is_read_late_has_two_buffers(tmp_path: Path, how: str) -> None:
    nodes = _read_late(READERS[how])
    if how == "as a transposed copy":  # in the file, the only reader of the state comes before its update
        nodes = [n for n in nodes if "s0/next" not in n.output]
        nodes.insert(-2, node("Sub", ["s0", "soon"], ["s0/next"]))
    model = training_model(nodes, draw_states(2, 0), {"ten": np.array(10.0)})
    onnx.save(model, tmp_path / "step.onnx")
    feeds = {f"s{i}/next": f"s{i}" for i in range(2)}
    if how == "as a transposed copy":
        assert "s0" not in unsafe_states(model.graph, feeds, {})
    trainer, state = train(tmp_path / "step.onnx")
    if how != "as a transposed copy" or Version(onnxruntime.__version__) >= Version("1.32"):
        # Older ones have no kernel for a product that transposes float64, so that the copy is made.
        assert "may read it after the next value is written" in trainer.two_buffers["s0"]
    assert "s1" not in trainer.two_buffers
    assert_same_state(state, plain_steps(model, BATCHES)[1])


def test_states_that_go_round_or_stay(tmp_path: Path) -> None:
    """A next value may be another state, the state itself, a constant, or a value that another state has too."""
    nodes = [
        node("Identity", ["s1"], ["s0/next"]),
        node("Identity", ["s0"], ["s1/next"]),
        node("Identity", ["s2"], ["s2/next"]),
        node("Add", ["c", "c"], ["s3/next"]),
        node("Tanh", ["x"], ["t"]),
        node("Identity", ["t"], ["s4/next"]),
        node("Identity", ["t"], ["s5/next"]),
        node("Transpose", ["s6"], ["s6/next"], perm=[1, 0]),
        node("Identity", ["c"], ["s7/next"]),
        node("ReduceMean", ["s0"], ["loss"], keepdims=0),
    ]
    model = training_model(nodes, draw_states(8, 0), {"c": np.arange(16.0).reshape(4, 4)})
    onnx.save(model, tmp_path / "step.onnx")
    for count in (1, 2, 3):
        trainer, state = train(tmp_path / "step.onnx", BATCHES[:count])
        assert_same_state(state, plain_steps(model, BATCHES[:count])[1])
        assert {"s0", "s1", "s6"} <= set(trainer.two_buffers)
        trainer.save(tmp_path / "saved.onnx")
        assert_same_state(Trainer(tmp_path / "saved.onnx").state(), state)


def test_nodes_that_run_in_parallel_overwrite_nothing(step_file: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    batches = draw_batches(5)
    trainer = Trainer(step_file, options)
    assert set(trainer.two_buffers.values()) == {"nodes run in parallel"}
    trainer.run(batches)
    assert_same_state(trainer.state(), plain_steps(step_model(), batches)[1])


def test_options_are_as_they_were(step_file: Path) -> None:
    options = onnxruntime.SessionOptions()
    before = options.optimized_model_filepath, options.log_severity_level
    assert Trainer(step_file, options).two_buffers
    assert (options.optimized_model_filepath, options.log_severity_level) == before


@pytest.mark.parametrize("is_safe", [True, False])
def test_the_check_takes_little_for_a_large_graph(is_safe: bool) -> None:
    """10,000 nodes and 1,000 states, in a chain so that every set of ancestors is as large as it can be."""
    count = 1000
    nodes = []
    last = "x"
    for i in range(count):
        nodes += [node("Add", [f"h{i}_{k}" if k else last, f"s{i}"], [f"h{i}_{k + 1}"]) for k in range(9)]
        last = f"h{i}_9"
    nodes += [node("Sub", [f"s{i}", last if is_safe else f"h{i}_1"], [f"s{i}/next"]) for i in range(count)]
    graph = helper.make_graph(nodes, "g", [], [])
    begin = time.process_time()
    found = unsafe_states(graph, {f"s{i}/next": f"s{i}" for i in range(count)}, {})
    assert len(found) == (0 if is_safe else count)
    assert time.process_time() - begin < 5


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int]] = {
    "views are forgotten": (lambda patch: patch.setattr(in_place, "_VIEWS", frozenset()), 352),
    "bodies are forgotten": (lambda patch: patch.setattr(in_place, "names_taken", lambda n: set(n.input)), 381),
    "a transpose in place": (
        lambda patch: patch.setattr(in_place, "_ELEMENTWISE", frozenset({"Sub", "Add", "Mul", "Transpose"})),
        351,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_random_graphs_find_a_check_that_is_too_lax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, seed = MUTANTS[name]
    model = random_model(seed)
    onnx.save(model, tmp_path / "step.onnx")
    _, expected = plain_steps(model, BATCHES)
    assert is_same(train(tmp_path / "step.onnx")[1], expected)
    change(monkeypatch)
    assert not is_same(train(tmp_path / "step.onnx")[1], expected)
