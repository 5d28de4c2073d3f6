"""Watch the machine while a cell is timed, and time it again until two medians agree."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.bench.measure.timing import Timing

AGREEMENT = 0.03
"""Two medians of every backend must be within this share of each other."""
MOST_TRIES = 6

_STAT, _OWN_STAT = Path("/proc/stat"), Path("/proc/self/stat")


@dataclass(frozen=True)
class Quiet:
    """How a cell became quiet, or did not.

    Attributes:
        tries: how often it was timed.
        has_agreed: whether two tries agree.
        stolen: the largest share of a processor's time that the host gave to others, over the tries that count; None
            where the system does not say.
        others: the same of what other processes used.
    """

    tries: int
    has_agreed: bool
    stolen: float | None = None
    others: float | None = None

    def __str__(self) -> str:
        tries = f"{self.tries} tries" if self.has_agreed else f"never agreed in {self.tries} tries"
        if self.stolen is None or self.others is None:
            return f"{tries}; the system does not say what else ran"
        return f"{tries}; stolen {self.stolen:.0%}, others {self.others:.0%} of a processor"


@dataclass(frozen=True)
class Load:
    """Processor time in seconds since the machine started: stolen by the host, used by all, and by this process."""

    stolen: float
    used: float
    own: float


def read_load(stat: Path = _STAT, own_stat: Path = _OWN_STAT) -> Load | None:
    """Return what Linux says of the load; None on another system."""
    try:
        # user nice system idle iowait irq softirq steal ...
        numbers = [int(word) for word in stat.read_text().splitlines()[0].split()[1:9]]
        user, system = own_stat.read_text().rpartition(")")[2].split()[11:13]
        tick = 1 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    used = sum(numbers[:3]) + sum(numbers[5:7])
    return Load(numbers[7] * tick, used * tick, (int(user) + int(system)) * tick)


def shares(before: Load | None, after: Load | None, seconds: float) -> tuple[float, float] | None:
    """Return the shares of one processor that were stolen, and that other processes used; None where not known.

    >>> shares(Load(1, 10, 5), Load(1.5, 14, 8), 2.0)
    (0.25, 0.5)
    """
    if before is None or after is None or seconds <= 0:
        return None
    others = (after.used - before.used) - (after.own - before.own)
    return max(0.0, (after.stolen - before.stolen) / seconds), max(0.0, others / seconds)


def until_quiet(
    time_once: Callable[[], Mapping[str, Timing]],
    *,
    clock: Callable[[], float] = time.perf_counter,
    load: Callable[[], Load | None] = read_load,
) -> tuple[dict[str, Timing], Quiet]:
    """Time a cell until two tries agree, `MOST_TRIES` times at most, and return the later one of the two.

    Every try is compared with every one before. Where none agree, each backend has its fastest try.
    """
    tries: list[tuple[dict[str, Timing], tuple[float, float] | None]] = []
    for number in range(1, MOST_TRIES + 1):
        before, start = load(), clock()
        found = dict(time_once())
        tries.append((found, shares(before, load(), clock() - start)))
        for earlier, found_shares in tries[:-1]:
            if all(_agree(earlier[name], found[name]) for name in found):
                return found, _quiet(number, True, [found_shares, tries[-1][1]])
    fastest = {name: min((t[name] for t, _ in tries), key=lambda timing: timing.median) for name in tries[0][0]}
    return fastest, _quiet(MOST_TRIES, False, [found_shares for _, found_shares in tries])


def _agree(a: Timing, b: Timing) -> bool:
    return abs(a.median - b.median) <= AGREEMENT * min(a.median, b.median)


def _quiet(tries: int, has_agreed: bool, found: list[tuple[float, float] | None]) -> Quiet:
    known = [pair for pair in found if pair is not None]
    quiet = Quiet(tries, has_agreed)
    if not known:
        return quiet
    return replace(quiet, stolen=max(s for s, _ in known), others=max(o for _, o in known))
