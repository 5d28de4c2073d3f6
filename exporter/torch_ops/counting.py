"""Count the calls of operators in a model, to check that each is a node of the exported graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

counters: list[Counter[str]] = []
"""Those of the blocks of `count_calls` that are open. An operator's function adds 1 under ``domain::NAME`` to each."""


@contextmanager
def count_calls() -> Iterator[Counter[str]]:
    """Count the eager calls of every operator within the block, by ``domain::NAME``.

    >>> with count_calls() as calls:
    ...     for counter in counters:
    ...         counter["my.domain::Op"] += 1
    >>> calls["my.domain::Op"], calls["my.domain::Other"]
    (1, 0)
    """
    calls: Counter[str] = Counter()
    counters.append(calls)
    try:
        yield calls
    finally:
        counters[:] = [other for other in counters if other is not calls]
