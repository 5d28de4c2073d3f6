"""Time backends against each other: in turn, in slots, until a budget is used up."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

Run = Callable[[], Any]

_ROUNDS = 12  # a budget should be enough for so many, if calls are short
_MOST_ROUNDS, _FEWEST_ROUNDS = 101, 3
_SHORT_CALL_S = 0.02  # shorter calls come after one that is not timed, which warms caches and threads
_SLOWER = 3.0  # a backend that is so much slower than the fastest is timed `_FEWEST_ROUNDS` times and no more
_QUIET_STEP_S, _QUIET_STEPS, _SPIN_S = 0.001, 200, 0.06
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Timing:
    """The times of one backend in one cell, in seconds a call.

    Attributes:
        median, q1, q3: over slots; each slot's time is the mean of its calls.
        slots: number of slots.
        calls: number of calls in a slot.
    """

    median: float
    q1: float
    q3: float
    slots: int
    calls: int


def summarize(times: Sequence[float], calls: int) -> Timing:
    """Return median and quartiles of ``times``.

    >>> summarize([4.0, 1.0, 2.0, 3.0, 100.0], 1)
    Timing(median=3.0, q1=2.0, q3=4.0, slots=5, calls=1)
    """
    if len(times) == 1:
        return Timing(times[0], times[0], times[0], 1, calls)
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, q1, q3, len(times), calls)


def settle() -> None:
    """Wait until no other thread of this process runs, 0.2 s at most.

    Thread pools spin for a while after a call, onnxruntime's for some 50 ms, and would take a core from the
    backend that is timed next. So every backend keeps its own default, spinning included, as it would be served, and
    none is timed while another still spins. The state of each thread is asked for: its processor time is brought up to
    date only every few milliseconds.
    """
    if not _TASKS.exists():  # on another system, wait as long as they are known to spin
        time.sleep(_SPIN_S)
        return
    for _ in range(_QUIET_STEPS):
        if not _others_run():
            return
        time.sleep(_QUIET_STEP_S)


def _others_run() -> bool:
    """Return whether a thread of this process other than the calling one is running or ready to."""
    own = str(threading.get_native_id())
    try:
        return any(
            (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
            for task in _TASKS.iterdir()
            if task.name != own
        )
    except OSError:  # a thread that ended meanwhile: look again
        return True


def measure(
    backends: Mapping[str, Run],
    budget_s: float,
    *,
    rng: random.Random,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], None] = settle,
    finish: Callable[[], Any] = lambda: None,
) -> dict[str, Timing]:
    """Time the backends in turn, in a new random order each round, for about ``budget_s`` seconds.

    A slot is one backend's turn: wait for quiet, warm up if a call is short, then time a loop of calls that takes the
    slot's share of the budget. Every backend gets at least three slots, however long they take. Where calls only queue
    work for a GPU, ``finish`` waits for it, once for all calls of a loop and before the clock is read.
    """
    slot_s = budget_s / (_ROUNDS * max(1, len(backends)))
    calls, estimates = {}, {}
    for name, run in backends.items():
        settle()
        estimates[name] = _estimate(run, clock, finish)
        calls[name] = max(1, round(slot_s / estimates[name]))
    fastest = min(estimates.values(), default=0.0)
    times: dict[str, list[float]] = {name: [] for name in backends}
    started = clock()
    for done in range(_MOST_ROUNDS):
        is_over = clock() - started >= budget_s
        if done >= _FEWEST_ROUNDS and is_over:
            break
        order = [n for n in backends if done < _FEWEST_ROUNDS or estimates[n] <= _SLOWER * fastest or calls[n] > 1]
        rng.shuffle(order)
        for name in order:
            settle()
            times[name].append(_slot(backends[name], calls[name], estimates[name], clock, finish))
    return {name: summarize(found, calls[name]) for name, found in times.items()}


def _estimate(run: Run, clock: Callable[[], float], finish: Run) -> float:
    """Return the time of a call, measured over more and more calls until a millisecond has passed."""
    number = 1
    while True:
        start = clock()
        for _ in repeat(None, number):
            run()
        finish()
        elapsed = clock() - start
        if elapsed >= 0.001 or number >= 4096:
            return max(elapsed / number, 1e-9)
        number *= 4


def _slot(run: Run, calls: int, estimate: float, clock: Callable[[], float], finish: Run) -> float:
    if estimate < _SHORT_CALL_S:
        for _ in repeat(None, max(1, calls // 8)):
            run()
        finish()
    start = clock()
    for _ in repeat(None, calls):
        run()
    finish()
    return (clock() - start) / calls
