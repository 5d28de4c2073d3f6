"""Check that our results have the same bits for every number of threads, and in every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from exporter.bench.backends.arrays import Array, Arrays, UnavailableError, aligned, draw
from exporter.bench.backends.contestants import bind, open_session
from exporter.bench.backends.models import one_node_model
from exporter.bench.measure.cells import Plan, usable_cores

_MOST_ROWS = 17  # of a batch that also run alone
_QUICK_NUMBERS = 1 << 22  # elements of a weight; a quick run leaves out larger ones


def check_bits(plan: Plan, on_note: Callable[[str], None] = lambda note: None) -> list[dict[str, Any]]:
    """Compare every batch with one thread's result, and its rows with the same rows alone; a row for each weight."""
    found = []
    for columns, outputs in plan.shapes:
        if plan.is_quick and columns * outputs > _QUICK_NUMBERS:
            continue
        for dtype in plan.dtypes:
            on_note(f"same bits: {columns}x{outputs} {dtype}")
            row: dict[str, Any] = {"K": columns, "N": outputs, "dtype": dtype, "batches": sorted(plan.rows)}
            try:
                row |= _compare(draw(max(plan.rows), columns, outputs, dtype), row["batches"])
            except UnavailableError as error:
                row["reason"] = str(error)
            found.append(row)
    return found


def thread_counts(cores: int) -> list[int]:
    """Return the numbers of threads to compare: also more than there are cores, which changes how work is split.

    >>> thread_counts(2), thread_counts(64)
    ([1, 2, 3, 4], [1, 2, 3, 4, 32, 64])
    """
    return sorted({1, 2, 3, 4, max(1, cores // 2), cores})


def _compare(arrays: Arrays, batches: list[int]) -> dict[str, Any]:
    """Return what was compared, and the batches in which something differs."""
    counts = thread_counts(usable_cores())
    serial = _results(arrays, batches, 1)
    differing = {
        threads: [rows for rows, y in _results(arrays, batches, threads).items() if not same(y, serial[rows])]
        for threads in counts[1:]
    }
    return {
        "threads": counts,
        "batches_that_differ_by_threads": {str(threads): rows for threads, rows in differing.items() if rows},
        "batches_whose_rows_differ": _batches_that_differ(arrays, serial),
    }


def same(a: Array, b: Array) -> bool:
    """Whether two results of one shape and dtype have the same bits."""
    return a.tobytes() == b.tobytes()


def _session(arrays: Arrays, threads: int) -> Any:
    model = one_node_model(arrays.weight, arrays.bias)
    return open_session(model.SerializeToString(), threads, with_ours=True)


def _results(arrays: Arrays, batches: list[int], threads: int) -> dict[int, Array]:
    """Run the first rows of x, so many at a time, in one session."""
    session = _session(arrays, threads)
    found = {}
    for rows in batches:
        run, y = bind(session, aligned(arrays.x[:rows]), arrays.weight.shape[0])
        run()
        found[rows] = y
    return found


def _batches_that_differ(arrays: Arrays, serial: dict[int, Array]) -> list[int]:
    """Return the batches with a row that differs from the same row alone; try a few rows of a large one, evenly."""
    session = _session(arrays, 1)
    alone: dict[int, Array] = {}
    differing = []
    for rows, y in serial.items():
        for row in sorted({int(i) for i in np.linspace(0, rows - 1, _MOST_ROWS)}):
            if row not in alone:
                run, alone[row] = bind(session, aligned(arrays.x[row : row + 1]), arrays.weight.shape[0])
                run()
            if not same(y[row], alone[row][0]):
                differing.append(rows)
                break
    return differing
