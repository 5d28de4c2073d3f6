"""A Trainer computes what a plain loop of onnxruntime computes, to the bit, and refuses what does not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from ort_ops import Trainer, TrainingError
from ort_ops.errors import ModelError
from tests.training_runtime.hand_made import Array, draw_batches, plain_steps, save_step, step_model


@pytest.fixture
def step_file(tmp_path: Path) -> Path:
    return save_step(tmp_path)


def assert_same_state(got: dict[str, Array], expected: dict[str, Array]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("sizes", [(3, 4, 2), (40, 33, 17)])
def test_steps_are_those_of_a_plain_loop(tmp_path: Path, dtype: str, in_place: bool, sizes: tuple[int, ...]) -> None:
    model = step_model(sizes, dtype)
    onnx.save(model, tmp_path / "step.onnx")
    batches = draw_batches(20, 6, sizes, dtype)
    trainer = Trainer(tmp_path / "step.onnx", threads=1, in_place=in_place)
    losses = [trainer.step(*batch) for batch in batches]
    expected, state = plain_steps(model, batches)
    assert losses == expected
    assert losses[-1] != losses[0]
    assert_same_state(trainer.state(), state)
    assert trainer.steps_done == 20
    # Its own update need not wait for the product with this weight; those of the others wait for all readers.
    assert set(trainer.two_buffers) == ({"second.weight"} if in_place else {*state} - {"lr"})


def test_batches_of_every_size_and_inputs_by_name(step_file: Path) -> None:
    batches = [draw_batches(1, rows, seed=rows)[0] for rows in (1, 7, 2, 7, 3)]
    expected, _ = plain_steps(step_model(), batches)
    trainer = Trainer(step_file, threads=1)
    assert trainer.inputs == ("x", "target")
    got = [trainer.step(x, target=y) for x, y in batches[:3]]
    got += [trainer.step(target=y, x=np.asfortranarray(x)) for x, y in batches[3:]]
    assert got == expected


def test_run_takes_tuples_and_dictionaries_and_tells_of_each_step(step_file: Path) -> None:
    batches = draw_batches(6)
    expected, _ = plain_steps(step_model(), batches)
    told: list[tuple[int, float]] = []
    trainer = Trainer(step_file, threads=1)
    first = trainer.run(batches, steps=2, on_step=lambda step, loss: told.append((step, loss)))
    rest = trainer.run(({"x": x, "target": y} for x, y in batches[2:]), on_step=lambda *pair: told.append(pair))
    assert first + rest == expected
    assert told == [*enumerate(expected, 1)]
    assert trainer.run(batches, steps=0) == []


def test_learning_rates(step_file: Path, tmp_path: Path) -> None:
    batches = draw_batches(4)
    trainer = Trainer(step_file, threads=1)
    assert trainer.lr == 0.1
    seen: list[int] = []
    rates = [0.5, 0.25, 0.125, 0.0]

    def schedule(step: int) -> float:
        seen.append(step)
        return rates[step]

    losses = trainer.run(batches, lr=schedule)
    assert seen == [0, 1, 2, 3]
    assert trainer.lr == 0.1  # the file's, for steps that are given none
    again = Trainer(step_file, threads=1)
    for batch, rate, loss in zip(batches, rates, losses, strict=True):
        again.lr = rate
        assert again.step(*batch) == loss
    assert_same_state(again.state() | {"lr": np.array(0.1)}, trainer.state())
    again.save(tmp_path / "saved.onnx")
    assert Trainer(tmp_path / "saved.onnx").lr == 0.0
    for wrong in (-1.0, float("nan"), float("inf"), [0.1], [0.1, 0.1], "0.1", None):
        with pytest.raises(TrainingError, match="the learning rate must be a number, finite and not negative, got"):
            again.lr = wrong  # type: ignore[assignment]


def test_groups_have_their_own_learning_rates(tmp_path: Path) -> None:
    model = step_model(groups=2)
    onnx.save(model, tmp_path / "step.onnx")
    batches = draw_batches(5)
    trainer = Trainer(tmp_path / "step.onnx", threads=1)
    losses = trainer.run(batches, lr=[0.2, 0.05])
    expected, state = plain_steps(model, batches, [0.2, 0.05])
    assert losses == expected
    assert_same_state(trainer.state() | {"lr": np.array([0.2, 0.05])}, state)
    assert losses[-1] != Trainer(tmp_path / "step.onnx", threads=1).run(batches, lr=0.2)[-1]
    with pytest.raises(TrainingError, match="must be a number or 2 numbers, one for each group of parameters"):
        trainer.step(*batches[0], lr=[0.1, 0.2, 0.3])


X, Y = draw_batches(1)[0]


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        ((X.astype(np.float32), Y), {}, r"^'x' must be float64, got float32; convert it, .* \.astype\('float64'\)$"),
        ((X.astype(int), Y), {}, "'x' must be float64, got int64"),
        ((X[0], Y), {}, r"'x' must have shape \[batch, 3\], got \[3\]"),
        ((X[:, :2], Y), {}, r"'x' must have shape \[batch, 3\], got \[5, 2\]"),
        ((X, Y[:1]), {}, r"'target' must have shape \[batch, 2\] with batch = 5 as 'x' has, got \[1, 2\]"),
        ((X[:0], Y[:0]), {}, r"'x' is empty: it has shape \[0, 3\]"),
        ((X,), {}, "a step takes x, target; 'target' is missing"),
        ((X, Y, Y), {}, "a step takes x, target; got 3 arrays"),
        ((X, Y), {"x": X}, "'x' is given twice"),
        ((X,), {"y": Y}, "the step has no input 'y'; it takes x, target"),
        (([[1.0, 2.0], [3.0]], Y), {}, "'x' must be an array, got list"),
        (("text", Y), {}, "'x' must be float64, got <U4"),
    ],
)
def test_wrong_inputs_are_refused_and_change_nothing(
    step_file: Path, given: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    trainer = Trainer(step_file, threads=1)
    trainer.step(X, Y)
    before = trainer.state()
    with pytest.raises(TrainingError, match=message) as caught:
        trainer.step(*given, **named)
    assert "\n" not in str(caught.value)
    assert_same_state(trainer.state(), before)
    trainer.step(X.tolist(), Y)  # lists of numbers are arrays of float64


def test_a_loss_that_is_not_finite_stops_a_run(step_file: Path) -> None:
    batches = draw_batches(4)
    batches[2][0][0, 0] = np.nan
    trainer = Trainer(step_file)
    with pytest.raises(TrainingError, match=r"the loss of step 3 is nan; .* smaller learning rate$"):
        trainer.run(batches)
    assert trainer.steps_done == 3
    assert len(Trainer(step_file).run(batches, check_finite=False)) == 4


def test_state_is_a_copy_and_load_state_is_strict(step_file: Path) -> None:
    batches = draw_batches(6)
    trainer = Trainer(step_file, threads=1)
    trainer.run(batches[:3])
    state = trainer.state()
    kept = {name: array.copy() for name, array in state.items()}
    losses = trainer.run(batches[3:])
    assert_same_state(state, kept)
    for array in trainer.parameters().values():
        array[...] = 0
    trainer.load_state(state)
    assert trainer.run(batches[3:]) == losses
    before = trainer.state()
    for change, message in (
        (lambda s: s.pop("first.bias"), "'first.bias' is missing"),
        (lambda s: s.update(more=np.zeros(1)), "'more' is unknown"),
        (
            lambda s: s.update({"first.bias": np.zeros(3)}),
            r"'first.bias' of the state must be float64 \[4\], got .*\[3",
        ),
        (lambda s: s.update({"step": np.array(1.0)}), r"'step' of the state must be int64 \[\], got float64"),
        (lambda s: s.update({"lr": np.array(np.nan)}), "the learning rate must be"),
    ):
        wrong = dict(state)
        change(wrong)
        with pytest.raises(TrainingError, match=message):
            trainer.load_state(wrong)
        assert_same_state(trainer.state(), before)


def test_a_saved_file_goes_on_with_the_same_bits(step_file: Path, tmp_path: Path) -> None:
    batches = draw_batches(9)
    trainer = Trainer(step_file, threads=1)
    trainer.run(batches[:4])
    trainer.save(step_file)
    onnx.checker.check_model(onnx.load(step_file), full_check=True)
    again = Trainer(step_file, threads=1)
    assert again.steps_done == 4
    assert_same_state(again.state(), trainer.state())
    assert again.run(batches[4:]) == trainer.run(batches[4:])
    assert_same_state(again.state(), trainer.state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b"no model at all"), "is not an ONNX model"),
        (lambda path: path.write_bytes(step_model().SerializeToString()[:-40]), "is not an ONNX model, or is damaged"),
        (lambda path: path.write_bytes(Path("models/linear.onnx").read_bytes()), "is no training file"),
    ],
)
def test_what_is_no_training_file_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "it.onnx")
    with pytest.raises(ModelError, match=message) as caught:
        Trainer(tmp_path / "it.onnx")
    assert "\n" not in str(caught.value)


def test_a_step_imports_nothing(step_file: Path) -> None:
    code = f"""
import sys
import numpy as np
import ort_ops
trainer = ort_ops.Trainer({str(step_file)!r}, threads=1)
trainer.step(np.ones((2, 3)), np.ones((2, 2)))
class Refuse:
    def find_spec(self, name, path, target=None):
        raise AssertionError(f"a step imports {{name}}")
sys.meta_path.insert(0, Refuse())
onnx = [sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in ("onnx", "google")]
trainer.step(np.ones((2, 3)), np.ones((2, 2)), lr=0.5)
trainer.run([(np.ones((4, 3)), np.ones((4, 2)))], lr=lambda step: 0.1)
trainer.load_state(trainer.state())
trainer.save({str(step_file)!r})
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_face_has_it() -> None:
    assert ort_ops.Trainer is Trainer
    assert issubclass(TrainingError, ValueError)
    assert onnxruntime.__version__
