"""How `mylinear bench` times backends, on a made-up clock."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.bench.measure import timing
from exporter.bench.measure.cells import OURS, Cell
from tests.bench.support import result


class FakeClock:
    """A clock that only backends move, and what they did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def backend(self, name: str, seconds: Callable[[int], float]) -> Callable[[], None]:
        count = 0

        def run() -> None:
            nonlocal count
            self.now += seconds(count)
            count += 1
            self.log.append(name)

        return run


def measured(budget_s: float, **seconds: float) -> tuple[dict[str, timing.Timing], FakeClock]:
    clock = FakeClock()
    runs = {name: clock.backend(name, lambda _, s=s: s) for name, s in seconds.items()}  # type: ignore[misc]
    found = timing.measure(runs, budget_s, rng=random.Random(0), clock=clock, settle=lambda: clock.log.append("settle"))
    return found, clock


def test_times_are_per_call_and_sides_take_turns() -> None:
    found, clock = measured(1.0, a=0.0001, b=0.0002)
    assert found["a"].median == pytest.approx(0.0001)
    assert found["b"].median == pytest.approx(0.0002)
    assert found["a"].calls > 1
    turns = [block.split() for block in " ".join(clock.log).split("settle") if block.strip()]
    names = [block[0] for block in turns]
    assert all(set(block) == {name} for block, name in zip(turns, names, strict=True)), "one backend in each slot"
    assert len(names) == 2 + found["a"].slots + found["b"].slots
    pairs = [set(names[i : i + 2]) for i in range(2, len(names), 2)]
    assert all(pair == {"a", "b"} for pair in pairs), "each round has every backend once"
    orders = {tuple(names[i : i + 2]) for i in range(2, len(names), 2)}
    assert len(orders) == 2, "and in either order"


def test_a_cell_ends_with_its_budget_but_not_before_three_slots() -> None:
    found, clock = measured(1.0, a=0.0001, b=0.0002)
    assert 3 < found["a"].slots <= 30
    assert clock.now < 2
    found, _ = measured(0.001, a=1.0, b=1.0)
    assert found["a"].slots == found["b"].slots == 3
    assert found["a"].calls == 1


def test_a_side_that_is_far_behind_is_timed_three_times_and_no_more() -> None:
    found, _ = measured(10.0, fast=0.1, near=0.2, slow=2.0)
    assert found["slow"].slots == 3
    assert found["fast"].slots == found["near"].slots > 3


def test_a_short_call_is_warmed_up_and_a_long_one_is_not() -> None:
    clock = FakeClock()
    cold = {"short": True, "long": True}

    def backend(name: str, warm: float) -> Callable[[], None]:
        def run() -> None:
            clock.now += 10 * warm if cold[name] else warm
            cold[name] = False

        return run

    def settle() -> None:
        cold.update(short=True, long=True)

    runs = {"short": backend("short", 0.0011), "long": backend("long", 0.05)}
    found = timing.measure(runs, 1.0, rng=random.Random(0), clock=clock, settle=settle)
    assert found["short"].median == pytest.approx(0.0011)
    assert found["long"].median == pytest.approx(0.5)


def test_quartiles() -> None:
    found = timing.summarize([5.0, 1.0, 3.0, 2.0, 4.0], 7)
    assert (found.q1, found.median, found.q3, found.slots, found.calls) == (2, 3, 4, 5, 7)
    assert timing.summarize([2.0], 1) == timing.Timing(2, 2, 2, 1, 1)
    assert result(Cell(1, 2, 1, "float32", 1), 2.0).backends[OURS].spread == pytest.approx(0.2)


def test_settling_waits_for_threads_that_run_and_ends_however_long_they_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for task, state in (("1", "S"), ("2", "R"), (str(threading.get_native_id()), "R")):
        (tmp_path / task).mkdir()
        (tmp_path / task / "stat").write_text(f"{task} (a thread) R) {state} 1 1")
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == stops_after:
            (tmp_path / "2" / "stat").write_text("2 (a thread) S 1 1")

    monkeypatch.setattr(timing, "_TASKS", tmp_path)
    monkeypatch.setattr(timing.time, "sleep", sleep)
    stops_after = 0
    timing.settle()
    assert len(naps) == 200
    naps.clear()
    stops_after = 5
    timing.settle()
    assert len(naps) == 5
    naps.clear()
    timing.settle()
    assert not naps
    monkeypatch.setattr(timing, "_TASKS", tmp_path / "no such system")
    timing.settle()
    assert naps == [0.06]
