"""The proof of training files: it passes right ones on later states and in a row, and finds what is wrong in others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from exporter.operators.mylinear.module import MyLinear
from exporter.training_step.export import export_training
from exporter.verification.training.in_a_row import InARow, batch_name
from exporter.verification.training.prepare import prepared_training
from exporter.verification.verify import Verification, VerificationError, verify
from ort_ops.cli import main as cli
from ort_ops.errors import ModelError
from ort_ops.operators.mylineargrad.contract import NAME
from ort_ops.training import runner
from ort_ops.training.file_format import find_metadata, put_metadata
from tests.training_runtime.hand_made import draw_batches, plain_steps, step_model

SIZES = [3]


def _prove(path: Path, **options: Any) -> Verification:
    return verify(path, batch_sizes=SIZES, compile_backend=None, device="cpu", **options)


def _inputs(result: Verification, backend: str) -> set[str]:
    return {row.inputs for row in result.rows if row.backend == backend and row.comparison is not None}


def _wrong(result: Verification) -> set[str]:
    return {row.backend for row in result.rows if row.is_violated}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of two layers in float32 with AdamW and cross entropy."""
    torch.manual_seed(0)
    model = nn.Sequential(MyLinear(4, 8), nn.ReLU(), MyLinear(8, 3))
    path = tmp_path_factory.mktemp("step") / "step.onnx"
    example = (torch.rand(5, 4), torch.randint(0, 3, (5,)))
    export_training(model, nn.CrossEntropyLoss(), torch.optim.AdamW(model.parameters()), example, path)
    return path


@pytest.fixture
def hand_made(tmp_path: Path) -> Path:
    onnx.save(step_model(), tmp_path / "hand.onnx")
    return tmp_path / "hand.onnx"


@pytest.mark.long
def test_every_backend_runs_later_states_and_steps_in_a_row(network: Path) -> None:
    result = _prove(network)
    assert result.is_ok, result.table()
    assert result.conclusion() == "parity holds"
    assert "that this is torch's step, only the comparison at its export says" in result.training
    alone = {"batch 3", "batch 3, a later state", "batch 3, 3 steps in a row", "each node alone"}
    for backend in ("torch eager", "reference", "python", "body"):
        assert _inputs(result, backend) >= alone | {"eval mode, batch 3", "eval mode, each node alone"}
    for backend in ("python", "body"):
        assert "batch 3, 3 steps in a row, by Trainer" in _inputs(result, backend)
    assert [node.op_type for node in result.nodes].count(NAME) == 2


def test_steps_in_a_row_are_what_a_loop_computes(hand_made: Path) -> None:
    batches = draw_batches(4)
    with prepared_training(hand_made) as training:
        row = InARow(training, 4)
        named = {
            batch_name(i, name): value
            for i, batch in enumerate(batches)
            for name, value in zip(("x", "target"), batch, strict=True)
        }
        found = row.evaluate({**training.state, **named})
    losses, state = plain_steps(onnx.load(hand_made), batches)
    results = [np.asarray(loss) for loss in losses] + [state[name] for name in training.metadata.feeds.values()]
    for value, got in zip(found.outputs.values(), results, strict=True):
        comparison = value.compare(got)
        assert comparison.is_within_bound, comparison.text
        assert not comparison.num_unbounded


def test_a_step_without_registered_operators_is_proved_too(hand_made: Path) -> None:
    result = _prove(hand_made)
    assert result.is_ok, result.table()
    assert (result.num_nodes, result.step_not_proved) == (0, None)
    assert "batch 3, 3 steps in a row, by Trainer" in _inputs(result, "body")


@pytest.mark.long
def test_all_backends_get_the_same_random_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(MyLinear(4, 8), nn.Dropout(0.4), MyLinear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    export_training(model, nn.MSELoss(), optimizer, (torch.rand(5, 4), torch.rand(5, 3)), tmp_path / "step.onnx")
    with prepared_training(tmp_path / "step.onnx") as training:
        (name,) = training.given_numbers_inputs
        assert training.metadata.ranges[name] == (0.0, 1.0)
        assert training.model.graph.input[-1].name == name
    result = _prove(tmp_path / "step.onnx")
    assert result.is_ok, result.table()
    assert "draws random numbers, was given numbers: the same on all backends" in "; ".join(result.notes)
    assert "batch 3, 3 steps in a row, by Trainer" in _inputs(result, "body")


def test_a_step_that_draws_other_numbers_in_each_run_is_not_proved(hand_made: Path) -> None:
    model = onnx.load(hand_made)
    (product,) = [node for node in model.graph.node if list(node.output) == ["gh"]]
    product.input[1] = "drawn"
    index = list(model.graph.node).index(product)
    model.graph.node.insert(index, helper.make_node("Bernoulli", ["mask"], ["drawn"], name="coin"))
    onnx.save(model, hand_made)
    result = _prove(hand_made)
    assert not result.is_ok
    expected = "parity is NOT PROVED: the whole step was not run: each run draws other numbers at 'coin' (Bernoulli)"
    assert result.conclusion() == expected


def test_a_loss_that_is_no_number_proves_nothing(hand_made: Path) -> None:
    model = onnx.load(hand_made)
    index = [list(node.output) for node in model.graph.node].index(["loss"])
    model.graph.node[index].output[0] = "plain"
    model.graph.node.insert(index + 1, helper.make_node("Sub", ["zero", "plain"], ["negative"]))
    model.graph.node.insert(index + 2, helper.make_node("Sqrt", ["negative"], ["loss"]))
    onnx.save(model, hand_made)
    result = _prove(hand_made)
    assert not result.is_ok
    assert "the loss is nan" in "; ".join(result.notes)
    assert "NOT PROVED" in result.conclusion()


@pytest.mark.long
def test_a_wrong_kernel_of_a_gradient_is_found_at_its_node(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = np.matmul

    def wrong(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result = matmul(a, b)
        # Of the kernel's products, only G^T X has rows of the layer's outputs, and those of the batch in common.
        return result * np.float32(1.0001) if a.dtype == np.float32 and a.shape == (3, 3) else result

    monkeypatch.setattr(np, "matmul", wrong)
    result = _prove(network)
    assert _wrong(result) == {"python"}
    node = next(n.name for n in result.nodes if n.op_type == NAME and n.inputs[2] == "2.weight")
    assert any(node in row.diverges_at for row in result.rows if row.is_violated)


def _other_sum(model: onnx.ModelProto) -> None:
    function = next(f for f in model.functions if len(f.output) == 3)
    next(node for node in function.node if node.op_type == "ReduceSum").op_type = "ReduceMean"


def _scaled_update(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.output[0] == "first.weight.change")
    model.graph.node.insert(
        list(model.graph.node).index(node) + 1, helper.make_node("Mul", ["c", "two"], list(node.output))
    )
    node.output[0] = "c"


def _swapped_wires(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            swap = {"first.weight/grad": "first.weight", "first.weight": "first.weight/grad"}
            if node.output[0] in ("first.weight/momentum_buffer/next",) and name in swap:
                node.input[i] = swap[name]


@pytest.mark.long
def test_a_body_that_differs_is_found(network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    _other_sum(model)
    onnx.save(model, tmp_path / "step.onnx")
    assert _wrong(_prove(tmp_path / "step.onnx")) == {"body"}


@pytest.mark.parametrize("change", [_scaled_update, _swapped_wires], ids=["scaled", "swapped"])
def test_another_step_than_torch_s_is_consistent_with_itself(
    change: Callable[[onnx.ModelProto], None], hand_made: Path
) -> None:
    """No backend can see it: `verify` proves the step of the file, and export that it is torch's."""
    model = onnx.load(hand_made)
    before = model.SerializeToString(deterministic=True)
    change(model)
    assert model.SerializeToString(deterministic=True) != before
    onnx.save(model, hand_made)
    result = _prove(hand_made)
    assert result.is_ok
    assert "only the comparison at its export says" in result.training


def test_swapped_feeds_are_refused(hand_made: Path) -> None:
    model = onnx.load(hand_made)
    metadata = find_metadata(model)
    assert metadata is not None
    feeds: dict[str, str] = dict(metadata.feeds)
    first, second = "first.weight/next", "first.weight/momentum_buffer/next"
    feeds[first], feeds[second] = feeds[second], feeds[first]
    put_metadata(model, metadata.__class__(**{**vars(metadata), "feeds": feeds}))
    onnx.save(model, hand_made)
    with pytest.raises(ModelError, match=r"damaged: output 'first\.weight/next' feeds 'first\.weight/momentum_buffer'"):
        _prove(hand_made)


def test_a_state_that_is_overwritten_too_early_is_found(hand_made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second weight is read after its update could be done; a trainer that overwrites it is wrong."""
    monkeypatch.setattr(runner, "unsafe_states", lambda *_: {})
    result = _prove(hand_made)
    assert {row.inputs for row in result.rows if row.is_violated} == {"batch 3, 3 steps in a row, by Trainer"}


def test_examples_are_batches_of_the_step(network: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", x=np.ones((2, 4), np.float32), target=np.array([0, 2]))
    result = verify(network, inputs=[tmp_path / "batch.npz"], compile_backend=None, device="cpu")
    assert result.is_ok, result.table()
    assert {"batch.npz", "batch.npz, a later state", "batch.npz, 3 steps in a row"} <= _inputs(result, "body")


def test_the_command_tells_what_it_does_not_prove(hand_made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: Sequence[str] = ["verify", str(hand_made), "--batch-size", "2", "--compile", "none"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "a training file: every backend was compared with the step that the file states" in out
    assert out.splitlines()[-1] == "parity holds"


def test_a_checkpoint_is_refused(hand_made: Path) -> None:
    with pytest.raises(VerificationError, match="not with a training file"):
        _prove(hand_made, checkpoint="it.pt")
