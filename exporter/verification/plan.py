"""Estimate how far a verification has come, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

OnProgress = Callable[[int, int, str], None]
_SILENT_S = 3.0  # before it no estimate is shown: the first steps say little


@dataclass
class Plan:
    """Steps with estimates of their cost, in any unit that is the same for all.

    The time left is the remaining cost at the speed so far, by kinds of steps; a kind that has not begun counts as fast
    as all others together.
    """

    on_progress: OnProgress | None
    clock: Callable[[], float] = time.monotonic
    costs: dict[str, list[float]] = field(default_factory=dict)
    """The costs of the steps of each kind, in their order."""
    _done: int = 0
    _spent: dict[str, tuple[float, float]] = field(default_factory=dict)
    _running: tuple[str, float] | None = None
    _started_at: float = 0.0
    _sums: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self._started_at = self.clock()

    @property
    def total(self) -> int:
        return sum(map(len, self.costs.values()))

    def start(self, kind: str, what: str) -> None:
        """Say that the next step of a kind begins."""
        self._finish()
        index = self._counts.get(kind, 0)
        self._counts[kind] = index + 1
        self._running = kind, self.costs[kind][index]
        self._started_at = self.clock()
        if self.on_progress is not None:
            left = self.seconds_left()
            self.on_progress(self._done, self.total, what if left is None else f"{what}; {in_words(left)} left")
        self._done += 1

    def _finish(self) -> None:
        if self._running is not None:
            kind, cost = self._running
            seconds, known = self._spent.get(kind, (0.0, 0.0))
            self._spent[kind] = seconds + self.clock() - self._started_at, known + cost

    _counts: dict[str, int] = field(default_factory=dict)

    def seconds_left(self) -> float | None:
        """Return how long this step and the later ones will take; None while that is unknown."""
        seconds, cost = (sum(pair[i] for pair in self._spent.values()) for i in (0, 1))
        if self.clock() - self._began < _SILENT_S or not cost:
            return None
        if not self._sums:
            self._sums = {kind: sum(costs) for kind, costs in self.costs.items()}
        left = 0.0
        for kind, sum_of_costs in self._sums.items():
            own_seconds, own_cost = self._spent.get(kind, (0.0, 0.0))
            speed = own_seconds / own_cost if own_cost else seconds / cost
            left += speed * max(0.0, sum_of_costs - own_cost)
        return left


def in_words(seconds: float) -> str:
    """Return a time, roughly.

    >>> in_words(0.3), in_words(42), in_words(64), in_words(400), in_words(9000)
    ('a second', 'about 40 s', 'about a minute', 'about 7 min', 'about 2.5 h')
    """
    if seconds < 1.5:
        return "a second"
    if seconds < 10:
        return f"about {seconds:.0f} s"
    if seconds < 55:
        return f"about {round(seconds / 5) * 5} s"
    if seconds < 90:
        return "about a minute"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
