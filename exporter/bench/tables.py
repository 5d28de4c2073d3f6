"""Results as text: tables for the terminal, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable

from exporter.bench.ceilings import Ceilings
from exporter.bench.cells import OURS, Cell
from exporter.bench.grid import CellResult

CSV_HEADER = (
    "M", "K", "N", "dtype", "threads", "side", "median_us", "q1_us", "q3_us", "slots", "calls", "error_in_bounds",
    "ratio_to_ours", "is_best_peer", "gflops", "ceiling_us", "fraction_of_ceiling", "bound_by", "reason",
)  # fmt: skip


def to_csv(results: Iterable[CellResult]) -> str:
    """Return one line for each side of each cell; ``ratio_to_ours`` is the side's time in units of ours."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for result in results:
        cell = result.cell
        for name, side in result.sides.items():
            median = side.median
            fraction = result.ceiling_s / median if result.ceiling_s is not None and median is not None else None
            writer.writerow(
                [cell.M, cell.K, cell.N, cell.dtype, cell.threads, name]
                + [_number(None if seconds is None else seconds * 1e6) for seconds in (median, side.q1, side.q3)]
                + [side.slots, side.calls, _number(side.error_in_bounds), _number(result.ratio(name))]
                + [int(name == result.best_peer), _number(result.flops / median / 1e9 if median else None)]
                + [_number(None if result.ceiling_s is None else result.ceiling_s * 1e6), _number(fraction)]
                + [result.bound_by, side.reason]
            )
    return buffer.getvalue()


def ceiling_table(ceilings: Ceilings) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: what is done a second, by number of threads."""
    threads = sorted(next(iter(ceilings.flops.values())))
    header = ["ceiling", *(f"{n} thread{'s' * (n > 1)}" for n in threads), "ISA"]
    rows = [
        [f"{dtype} multiply-add", *(f"{rates[n] / 1e9:.0f} GFLOP/s" for n in threads), ceilings.isa[dtype]]
        for dtype, rates in ceilings.flops.items()
    ]
    rows += [
        [f"reading from {level}", *(f"{rates[n] / 1e9:.0f} GB/s" for n in threads), ceilings.isa[level]]
        for level, rates in ceilings.bandwidth.items()
    ]
    return header, rows


def heat_tables(
    results: Iterable[CellResult], value: Callable[[CellResult], float | None]
) -> dict[tuple[str, int], tuple[list[str], list[list[str]]]]:
    """Return for each dtype and number of threads a table of M (rows) by K x N (columns)."""
    found = {result.cell: value(result) for result in results}
    tables = {}
    for dtype, threads in dict.fromkeys((c.dtype, c.threads) for c in found):
        cells = [c for c in found if (c.dtype, c.threads) == (dtype, threads)]
        shapes = list(dict.fromkeys((c.K, c.N) for c in cells))
        rows = []
        for size in dict.fromkeys(c.M for c in cells):
            values = [found.get(Cell(size, *shape, dtype, threads)) for shape in shapes]
            rows.append([str(size), *("-" if v is None else f"{v:.2f}" for v in values)])
        tables[dtype, threads] = (["M", *(f"{k}x{n}" for k, n in shapes)], rows)
    return tables


def cell_table(results: Iterable[CellResult]) -> tuple[list[str], list[list[str]]]:
    """Return a row for each cell: our time and spread, every peer's ratio, and the fraction of the ceiling."""
    results = list(results)
    peers = list(dict.fromkeys(name for result in results for name in result.sides if name != OURS))
    header = ["cell", "ours", "spread", *(f"{peer} / ours" for peer in peers), "best peer", "of ceiling", "bound by"]
    rows = []
    for result in results:
        ours = result.sides[OURS]
        rows.append(
            [
                str(result.cell),
                "-" if ours.median is None else format_time(ours.median),
                "-" if ours.spread is None else f"{ours.spread:.1%}",
                *(_short(result.ratio(peer)) for peer in peers),
                result.best_peer or "-",
                _short(result.fraction),
                result.bound_by or "-",
            ]
        )
    return header, rows


def untimed(results: Iterable[CellResult]) -> list[tuple[str, str, int]]:
    """Return (side, why it was not timed, in how many cells), for each side and dtype's distinct reasons."""
    counts: dict[tuple[str, str], int] = {}
    for result in results:
        for name, side in result.sides.items():
            if side.reason:
                reason = side.reason.split(":")[0] if side.reason.startswith("wrong result") else side.reason
                key = (name, f"{result.cell.dtype}: {reason}")
                counts[key] = counts.get(key, 0) + 1
    return [(name, reason, count) for (name, reason), count in counts.items()]


def format_time(seconds: float) -> str:
    """Write a time with three digits and a unit.

    >>> format_time(0.0000123456), format_time(0.0987)
    ('12.3 us', '98.7 ms')
    """
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
