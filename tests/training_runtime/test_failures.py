"""A failure, Ctrl-C, a kill or another thread never leaves a state that is none of a whole step, unless it is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import ort_ops
from ort_ops import Float64, Trainer, TrainingError
from ort_ops.exclusive import BusyError
from ort_ops.training.errors import UnusableError
from tests.training_runtime.accumulating import accumulating_models
from tests.training_runtime.hand_made import (
    Array,
    draw_batches,
    plain_steps,
    save_step,
    step_model,
)
from tests.training_runtime.random_steps import draw_states, training_model
from tests.training_runtime.test_trainer import assert_same_state

node = helper.make_node
GOOD, BAD = np.full((4, 4), 2.0), np.full((4, 4), 9.0)


@pytest.fixture
def step_file(tmp_path: Path) -> Path:
    return save_step(tmp_path)


def _model_that_fails() -> onnx.ModelProto:
    """A step that looks up rows of a table by ``x``, and fails inside onnxruntime where there is no such row."""
    nodes = [
        node("Sub", ["s0", "half"], ["s0/next"]),
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Cast", ["most"], ["index"], to=onnx.TensorProto.INT64),
        node("Gather", ["s1", "index"], ["row"], axis=0),
        node("ReduceMean", ["row"], ["loss"], keepdims=0),
        node("Sub", ["s1", "row"], ["s1/next"]),
    ]
    return training_model(nodes, draw_states(2, 0), {"half": np.array(0.5)})


def test_a_failure_inside_onnxruntime_keeps_the_state_of_two_buffers(tmp_path: Path) -> None:
    onnx.save(_model_that_fails(), tmp_path / "step.onnx")
    trainer = Trainer(tmp_path / "step.onnx", in_place=False)
    expected = Trainer(tmp_path / "step.onnx", in_place=False)
    for x in (GOOD, GOOD, GOOD):
        expected.step(x)
        with pytest.raises(
            TrainingError, match=r"failed in onnxruntime: .*; the state is that of the step before$"
        ) as e:
            trainer.step(BAD)
        assert "\n" not in str(e.value)
        trainer.step(x)
        assert_same_state(trainer.state(), expected.state())


def test_a_failure_may_leave_a_half_of_a_step_in_place_and_is_not_gone_on_from(tmp_path: Path) -> None:
    onnx.save(_model_that_fails(), tmp_path / "step.onnx")
    trainer = Trainer(tmp_path / "step.onnx")
    trainer.step(GOOD)
    state = trainer.state()
    with pytest.raises(UnusableError, match=r"failed in onnxruntime: .*; the state may be half updated: load_state"):
        trainer.step(BAD)
    for call in (trainer.state, trainer.parameters, lambda: trainer.step(GOOD), lambda: trainer.run([(GOOD,)])):
        with pytest.raises(UnusableError, match="may be half updated: load_state"):
            call()
    for call in (lambda: trainer.save(tmp_path / "saved.onnx"), lambda: trainer.steps_done):
        with pytest.raises(UnusableError, match="in_place=False keeps the state"):
            call()
    assert not (tmp_path / "saved.onnx").exists()
    trainer.load_state(state)
    assert_same_state(trainer.state(), state)
    other = Trainer(tmp_path / "step.onnx")
    other.step(GOOD)
    assert trainer.step(GOOD) == other.step(GOOD)


def test_a_failure_in_a_loop_keeps_the_state(tmp_path: Path) -> None:
    onnx.save(_model_that_fails(), tmp_path / "step.onnx")
    trainer = Trainer(tmp_path / "step.onnx")
    trainer.step(GOOD)
    state = trainer.state()
    with pytest.raises(TrainingError, match=r"the steps failed in onnxruntime: .*; the state is that of before them$"):
        trainer.run_loop(np.stack([GOOD, BAD]))
    assert_same_state(trainer.state(), state)


@pytest.mark.native
def test_what_a_kernel_in_python_raises_comes_out_and_the_state_is_kept(tmp_path: Path) -> None:
    should_fail = should_look = False

    @ort_ops.python_kernel("tests.training::Twice")
    def twice(x: Float64) -> Float64:
        if should_fail:
            raise ArithmeticError("not today")
        if should_look:
            trainer.state()
        return 2 * x

    nodes = [
        node("Twice", ["x"], ["y"], domain="tests.training"),
        node("Sub", ["s0", "y"], ["s0/next"]),
        node("ReduceMean", ["y"], ["loss"], keepdims=0),
    ]
    model = training_model(nodes, draw_states(1, 0))
    model.opset_import.append(helper.make_opsetid("tests.training", 1))
    onnx.save(model, tmp_path / "step.onnx")
    trainer = Trainer(tmp_path / "step.onnx")
    assert set(trainer.two_buffers.values()) == {"a kernel in Python may fail half-way"}
    assert trainer.step(GOOD) == 4.0
    state = trainer.state()
    should_fail = True
    with pytest.raises(ArithmeticError, match="not today"):
        trainer.step(GOOD)
    should_fail, should_look = False, True
    with pytest.raises(BusyError, match=r"^state was called while this thread is within another call"):
        trainer.step(GOOD)
    assert_same_state(trainer.state(), state)
    np.testing.assert_array_equal(trainer.state()["s0"], draw_states(1, 0)["s0"] - 4)
    twice.remove()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of POSIX")
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("kind", ["step", "grad"])
def test_ctrl_c_at_any_moment_leaves_a_whole_step(tmp_path: Path, in_place: bool, kind: str) -> None:
    batch = draw_batches(1)[0]
    if kind == "step":
        onnx.save(step_model(lr=1e-4), tmp_path / "step.onnx")
        path = tmp_path / "step.onnx"
    else:
        grad, apply = accumulating_models()
        onnx.save(grad, tmp_path / "step.grad.onnx")
        onnx.save(apply, tmp_path / "step.apply.onnx")
        path = tmp_path / "step.grad.onnx"
    trainer = Trainer(path, threads=1, in_place=in_place)
    witness = Trainer(path, threads=1, in_place=in_place)
    rng = np.random.default_rng(0)
    interrupts = 0

    def where(trainer: Trainer) -> tuple[int, int]:
        return trainer.steps_done, trainer.accumulated

    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in range(150):
        try:
            signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-5, 1.5e-3)))
            while True:
                trainer.step(*batch, lr=1e-4)
        except KeyboardInterrupt:
            interrupts += 1
        if trainer.accumulated == 3:  # the last batch was added, and its step was not done yet
            trainer.step(*batch, lr=1e-4)
        while where(witness) < where(trainer):
            witness.step(*batch, lr=1e-4)
        assert_same_state(trainer.state(), witness.state())
    signal.signal(signal.SIGALRM, previous)
    assert interrupts == 150
    assert trainer.steps_done > 150


def test_threads_wait_for_each_other(step_file: Path) -> None:
    batch = draw_batches(1)[0]
    trainer = Trainer(step_file, threads=1)
    losses: list[float] = []
    threads = [
        threading.Thread(target=lambda: losses.extend(trainer.run([batch] * 50, on_step=lambda *_: trainer.state())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected, state = plain_steps(step_model(), [batch] * 200)
    assert sorted(losses) == sorted(expected)
    assert_same_state(trainer.state(), state)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_must_open_its_own(step_file: Path) -> None:
    code = f"""
import os
import numpy as np
import ort_ops
trainer = ort_ops.Trainer({str(step_file)!r}, threads=1)
x, y = np.ones((2, 3)), np.ones((2, 2))
trainer.step(x, y)
child = os.fork()
if child == 0:
    save = lambda: trainer.save("no.onnx")
    for call in (lambda: trainer.step(x, y), trainer.state, save, lambda: trainer.run([(x, y)])):
        try:
            call()
        except ort_ops.TrainingError as error:
            assert "before the process was forked; open the file" in str(error)
        else:
            os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
trainer.step(x, y)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


SAVING = """
import sys
import numpy as np
import ort_ops
trainer = ort_ops.Trainer(sys.argv[1], threads=1)
while True:
    trainer.step(np.ones((2, 3)), np.ones((2, 2)))
    trainer.save(sys.argv[1])
    print("saved", flush=True)
"""


@pytest.mark.parametrize("kind", ["step", "external", "grad"])
def test_a_kill_while_it_saves_leaves_a_whole_file(tmp_path: Path, kind: str) -> None:
    """The child saves after each step, and is killed at some moment; what is there goes on from a whole step."""
    grad, apply = accumulating_models(accumulate=1)
    onnx.save(apply, tmp_path / "step.apply.onnx")
    path = tmp_path / "step.grad.onnx" if kind == "grad" else tmp_path / "step.onnx"
    model = grad if kind == "grad" else step_model()
    onnx.save(model, path)
    witness = Trainer(path, threads=1)
    states: dict[int, dict[str, Array]] = {0: witness.state()}
    code = SAVING
    if kind == "external":  # as if the state were too large for one file
        code = "import ort_ops.training.storage.write as w; w.MAX_NBYTES_INSIDE = 100\n" + code
    rng = np.random.default_rng(0)
    reached = 0
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(float(rng.uniform(0.0, 0.06)))
        child.kill()
        child.wait()
        child.stdout.close()
        trainer = Trainer(path, threads=1)
        reached = trainer.steps_done
        while witness.steps_done < reached:
            witness.step(np.ones((2, 3)), np.ones((2, 2)))
            states[witness.steps_done] = witness.state()
        assert_same_state(trainer.state(), states[reached])
    assert reached >= 2
    if kind == "external":
        trainer.save(path)  # inside again: what lay beside is removed
        assert not [file for file in tmp_path.iterdir() if ".data" in file.name and not file.name.startswith(".")]
        assert_same_state(Trainer(path).state(), states[reached])
