"""Gradients of several batches make one step, saved at any moment, and on several devices."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops import Trainer, TrainingError
from ort_ops.errors import ModelError
from tests.training_runtime.accumulating import accumulating_models
from tests.training_runtime.hand_made import draw_batches, save_step, step_model
from tests.training_runtime.test_trainer import assert_same_state


@pytest.fixture
def step_file(tmp_path: Path) -> Path:
    return save_step(tmp_path)


@pytest.fixture
def grad_file(tmp_path: Path) -> Path:
    grad, apply = accumulating_models()
    onnx.save(grad, tmp_path / "step.grad.onnx")
    onnx.save(apply, tmp_path / "step.apply.onnx")
    return tmp_path / "step.grad.onnx"


@pytest.mark.parametrize("in_place", [False, True])
def test_it_is_a_step_with_the_mean_gradient(grad_file: Path, step_file: Path, in_place: bool) -> None:
    batches = draw_batches(12)
    trainer = Trainer(grad_file, threads=1, in_place=in_place)
    whole = Trainer(step_file, threads=1)
    for i in range(4):
        three = batches[3 * i : 3 * i + 3]
        losses = trainer.run(three)
        loss = whole.step(np.concatenate([x for x, _ in three]), np.concatenate([y for _, y in three]))
        assert abs(np.mean(losses) - loss) < 1e-14 * abs(loss) * 8
        for name, array in whole.state().items():
            np.testing.assert_allclose(trainer.state()[name], array, rtol=1e-12, atol=1e-15)
    assert trainer.steps_done == 4
    assert trainer.accumulated == 0


def test_one_batch_a_step_has_the_bits_of_whole_steps(tmp_path: Path, step_file: Path) -> None:
    grad, apply = accumulating_models(accumulate=1)
    onnx.save(grad, tmp_path / "step.grad.onnx")
    onnx.save(apply, tmp_path / "step.apply.onnx")
    trainer, whole = Trainer(tmp_path / "step.grad.onnx", threads=1), Trainer(step_file, threads=1)
    batches = draw_batches(9)
    assert trainer.run(batches, lr=0.25) == whole.run(batches, lr=0.25)
    state = trainer.state()
    assert_same_state({name: state[name] for name in whole.state()}, whole.state())


@pytest.mark.parametrize("done", range(7))
def test_saved_in_the_middle_it_goes_on_with_the_same_bits(grad_file: Path, tmp_path: Path, done: int) -> None:
    batches = draw_batches(11)
    trainer = Trainer(grad_file, threads=1)
    expected = Trainer(grad_file, threads=1)
    losses = expected.run(batches)
    got = trainer.run(batches[:done])
    (tmp_path / "new").mkdir()
    for path in (tmp_path / "new" / "other.grad.onnx", grad_file, grad_file):
        trainer.save(path)
        again = Trainer(path, threads=1)
        assert again.accumulated == done % 3
        assert_same_state(again.state(), trainer.state())
        assert got + again.run(batches[done:]) == losses
        assert_same_state(again.state(), expected.state())
    # One apply file each, besides that which was there first.
    assert len(list((tmp_path / "new").iterdir())) == 2
    assert len(list(tmp_path.glob("*.onnx"))) == 2
    state = trainer.state()
    trainer.run(batches[done:])
    trainer.load_state(state)
    assert got + trainer.run(batches[done:]) == losses


def test_several_devices_add_up_what_one_would(grad_file: Path, tmp_path: Path) -> None:
    """Federated: each device sums its batches, the server adds the sums, and all apply them."""
    batches = draw_batches(6)
    shutil.copytree(tmp_path, tmp_path / "server")
    devices = [Trainer(grad_file, threads=1) for _ in range(3)]
    for device, start in zip(devices, (0, 2, 4), strict=True):
        device.run(batches[start : start + 2])
        assert device.accumulated == 2
    sums = {name: sum(d.gradients()[name] for d in devices) for name in devices[0].parameters()}
    server = Trainer(tmp_path / "server" / "step.grad.onnx", threads=1)
    server.apply(sums, count=6, lr=0.05)
    grad, apply = accumulating_models(accumulate=6)
    onnx.save(grad, tmp_path / "one.grad.onnx")
    onnx.save(apply, tmp_path / "step.apply.onnx")
    alone = Trainer(tmp_path / "one.grad.onnx", threads=1)
    alone.run(batches, lr=0.05)
    for name, array in alone.parameters().items():
        np.testing.assert_allclose(server.parameters()[name], array, rtol=1e-13, atol=1e-16)
    for device in devices:
        device.apply(sums, 6, lr=0.05)
        assert device.accumulated == 0
        assert_same_state(device.parameters(), server.parameters())


def test_a_part_of_the_batches_may_make_a_step(grad_file: Path) -> None:
    batches = draw_batches(4)
    trainer, other = Trainer(grad_file, threads=1), Trainer(grad_file, threads=1)
    trainer.run(batches[:2])
    trainer.apply()
    other.run(batches[:2])
    other.apply(other.gradients(), 2)
    assert_same_state(trainer.state(), other.state())
    assert trainer.steps_done == 1
    assert trainer.run(batches[2:]) == other.run(batches[2:])


def test_what_does_not_fit_is_refused(grad_file: Path, step_file: Path) -> None:
    trainer = Trainer(grad_file, threads=1)
    before = trainer.state()
    sums = trainer.gradients()
    assert not any(array.any() for array in sums.values())
    for gradients, count, message in (
        (None, None, r"no gradients were added up; run step\(\) first, or give some"),
        (sums, None, "gradients need a count"),
        (sums, 0, "must be positive; got 0"),
        (sums, float("nan"), "must be positive; got nan"),
        ({}, 1, "'first.weight' is missing"),
        (sums | {"more": sums["first.bias"]}, 1, "'more' is unknown"),
        (
            sums | {"first.bias": np.zeros(3)},
            1,
            r"'first.bias' of the gradients must be float64 \[4\], got float64 \[3",
        ),
    ):
        with pytest.raises(TrainingError, match=message):
            trainer.apply(gradients, count)
        assert_same_state(trainer.state(), before)
    with pytest.raises(TrainingError, match="'accumulated' must be from 0 to 3, got 4"):
        trainer.load_state(before | {"accumulated": np.array(4)})
    assert_same_state(trainer.state(), before)
    for call in (Trainer(step_file).gradients, Trainer(step_file).apply):
        with pytest.raises(TrainingError, match="this file has whole steps; export it with accumulate=N"):
            call()


def test_two_files_of_different_moments_are_refused(grad_file: Path, tmp_path: Path) -> None:
    kept = (tmp_path / "step.apply.onnx").read_bytes()
    trainer = Trainer(grad_file, threads=1)
    trainer.run(draw_batches(3))
    trainer.save(grad_file)
    (tmp_path / "step.apply2.onnx").write_bytes(kept)
    with pytest.raises(ModelError, match=r"has another 'first.weight' than .*: they are not of one moment"):
        Trainer(grad_file)
    (tmp_path / "step.apply2.onnx").unlink()
    with pytest.raises(ModelError, match=r"step.apply2.onnx': there is no such file"):
        Trainer(grad_file)
    onnx.save(step_model(), tmp_path / "step.apply2.onnx")
    with pytest.raises(ModelError, match="is not the apply file of"):
        Trainer(grad_file)
    onnx.save(accumulating_models()[1], tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="of kind 'apply', which has no whole step; open the grad file that names it"):
        Trainer(tmp_path / "a.onnx")
