"""Write results as text: tables for the terminal, and CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from exporter.bench.measure.ceilings import Ceilings
from exporter.bench.measure.cells import OURS, Kind, runs_on
from exporter.bench.measure.goals import Judged, growth
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.outcome import Outcome
from exporter.bench.measure.quiet import Quiet
from ort_ops.console.tone import Tone, Toned
from ort_ops.opdef.element_types import ELEMENT_TYPES

CSV_HEADER = (
    "M", "K", "N", "dtype", "device", "threads", "side", "median_us", "q1_us", "q3_us", "slots", "calls",
    "error_in_bounds", "ratio_to_ours", "is_best_peer", "gflops", "ceiling_us", "fraction_of_ceiling", "bound_by",
    "reason", "weight_dtype", "activation", "layers", "nodes", "tries", "has_agreed",
)  # fmt: skip


def to_csv(results: Iterable[CellResult]) -> str:
    """Return one row for each backend of each cell; ``ratio_to_ours`` is the backend's time in units of ours."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for result in results:
        cell = result.cell
        for name, backend in result.backends.items():
            median = backend.median
            fraction = result.ceiling_s / median if result.ceiling_s is not None and median is not None else None
            writer.writerow(
                [cell.M, cell.K, cell.N, cell.dtype, cell.device, cell.threads or "", name]
                + [_number(None if seconds is None else seconds * 1e6) for seconds in (median, backend.q1, backend.q3)]
                + [backend.slots, backend.calls, _number(backend.error_in_bounds), _number(result.ratio(name))]
                + [int(name == result.best_peer), _number(result.flops / median / 1e9 if median else None)]
                + [_number(None if result.ceiling_s is None else result.ceiling_s * 1e6), _number(fraction)]
                + [result.bound_by, backend.reason, cell.weight or cell.dtype, cell.activation]
                + [result.num_layers, backend.nodes]
                + (["", ""] if result.quiet is None else [result.quiet.tries, int(result.quiet.has_agreed)])
            )
    return buffer.getvalue()


def ceiling_table(ceilings: Ceilings) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: the rates per second, by number of threads."""
    threads = sorted(next(iter(ceilings.flops.values())))
    header = ["ceiling", *map(runs_on, threads), "ISA"]
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
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return for each `Cell.group` a table of M (rows) by K x N (columns)."""
    tables = {}
    for group, members in by_group(results).items():
        found = {(r.cell.M, r.cell.K, r.cell.N): value(r) for r in members}
        shapes = list(dict.fromkeys((k, n) for _, k, n in found))
        rows = []
        for size in sorted({m for m, _, _ in found}):
            rows.append([str(size), *(format_number(found.get((size, *shape))) for shape in shapes)])
        tables[group] = (["M", *(f"{k}x{n}" for k, n in shapes)], rows)
    return tables


def cell_table(results: Iterable[CellResult]) -> tuple[list[str], list[list[str]]]:
    """Return a row for each cell: our time and spread, every peer's ratio, and the fraction of the ceiling."""
    results = list(results)
    peers = list(dict.fromkeys(name for result in results for name in result.backends if name != OURS))
    header = ["cell", "ours", "spread", *(f"{peer} / ours" for peer in peers), "best peer", "of ceiling", "bound by"]
    is_quiet = any(result.quiet is not None for result in results)
    header += ["timed until two agreed"] * is_quiet
    rows = []
    for result in results:
        ours = result.backends[OURS]
        rows.append(
            [
                str(result.cell),
                "-" if ours.median is None else format_time(ours.median),
                "-" if ours.spread is None else f"{ours.spread:.1%}",
                *(format_number(result.ratio(peer)) for peer in peers),
                result.best_peer or "-",
                format_number(result.fraction),
                result.bound_by or "-",
                *([_quiet_words(result.quiet)] * is_quiet),
            ]
        )
    return header, rows


def _quiet_words(quiet: Quiet | None) -> str:
    if quiet is None:
        return "-"
    return str(quiet) if quiet.has_agreed else Toned(str(quiet), Tone.BAD)


def quiet_notes(results: Iterable[CellResult]) -> list[str]:
    """Return how often cells were timed until two tries agreed, and the cells where none did."""
    watched = [(result.cell, result.quiet) for result in results if result.quiet is not None]
    counts = Counter(quiet.tries for _, quiet in watched if quiet.has_agreed)
    lines = [f"{counts[tries]} cells agreed after {tries} tries" for tries in sorted(counts)]
    return lines + [f"{cell}: {quiet}" for cell, quiet in watched if not quiet.has_agreed]


def goal_table(judged: Iterable[Judged]) -> tuple[list[str], list[list[str]]]:
    """Return a row for each goal."""
    rows = [
        [
            j.group,
            j.goal,
            f"{j.threshold:g}",
            format_number(j.measured),
            j.where or "-",
            str(j.count),
            Toned(j.verdict, j.verdict.tone),
        ]
        for j in judged
    ]
    return ["goal for", "what", "goal", "measured", "where", "values", "verdict"], rows


def load_table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return load times, ours beside Gemm's."""
    header = ["model", "weights", "ours", "gemm", "ours / gemm"]
    return header, [[_model_name(row), row["storage"], *_pair(row["sides"], "median", format_time)] for row in rows]


def memory_table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return by how many MiB a process grew: in all, in anonymous and in file-backed pages."""
    header = ["model", "weights", "MiB", "backend", "loaded: all", "anonymous", "file"]
    header += ["called once: all", "anonymous", "file", "ours / gemm"]
    found = []
    for row in rows:
        ours, gemm = (growth(row["sides"].get(backend, {})) for backend in (OURS, "gemm"))
        for backend, measured in row["sides"].items():
            cells = [
                f"{(measured[moment][kind] - measured['before'][kind]) / 2**20:.1f}" if moment in measured else "-"
                for moment in ("loaded", "called")
                for kind in ("rss", "anonymous", "file")
            ]
            ratio = f"{ours / gemm:.2f}" if backend == OURS and ours and gemm else "-"
            name = [_model_name(row), row["storage"], f"{row['weights_nbytes'] / 2**20:.0f}"]
            found.append([*name, backend, *cells, ratio])
    return header, found


def chain_table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the time of a tiny node, ours beside Gemm's."""
    header = ["node of (1, 2, 2)", "ours", "gemm", "ours / gemm"]
    return header, [
        [f"{row['dtype']}, {runs_on(row['threads'])}", *_pair(row["sides"], "node", format_time)] for row in rows
    ]


def bits_table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return where results have other bits with another number of threads, or in another batch."""
    header = ["(K, N)", "dtype", "batches", "same on threads", "rows same as alone"]
    found = []
    for row in rows:
        name = [f"({row['K']}, {row['N']})", row["dtype"], ", ".join(map(str, row["batches"]))]
        if "reason" in row:
            found.append([*name, Toned(f"not run: {row['reason']}", Tone.QUIET), "-"])
            continue
        threads = ", ".join(map(str, row["threads"]))
        by_threads = row["batches_that_differ_by_threads"]
        by_batch = row["batches_whose_rows_differ"]
        found.append(
            [
                *name,
                Toned(f"not on {', '.join(by_threads)}", Tone.BAD) if by_threads else threads,
                Toned(f"not in {', '.join(map(str, by_batch))}", Tone.BAD) if by_batch else "in all",
            ]
        )
    return header, found


def untimed(results: Iterable[CellResult]) -> list[tuple[str, str, int]]:
    """Return (backend, why it was not timed, in how many cells), for each backend and dtype's distinct reasons."""
    counts: dict[tuple[str, str], int] = {}
    for result in results:
        for name, backend in result.backends.items():
            if backend.outcome in (Outcome.WRONG, Outcome.UNAVAILABLE):
                # What is wrong has other numbers in every cell; why it does not run is the same in many.
                reason = backend.outcome if backend.outcome is Outcome.WRONG else backend.detail
                key = (name, f"{result.cell.kind}: {reason}")
                counts[key] = counts.get(key, 0) + 1
    return [(name, reason, count) for (name, reason), count in counts.items()]


def by_group(results: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    """Group results by `Cell.group`, as tables and heat maps show them."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        groups.setdefault(result.cell.group, []).append(result)
    return groups


def cold_notes(results: Iterable[CellResult]) -> list[str]:
    """Return a line for each weight that was measured from memory: how many of them a call went through."""
    found: dict[str, None] = {}
    for r in results:
        if r.cell.is_cold:
            nbytes = r.cell.K * r.cell.N * ELEMENT_TYPES[r.cell.dtype].nbytes * r.num_layers
            found[f"{r.cell.K}x{r.cell.N}: {r.num_layers} weights in turn, {nbytes >> 20} MiB in {r.cell.dtype}"] = None
    return list(found)


def node_notes(results: Iterable[CellResult]) -> list[str]:
    """Return a line for each peer and activation: the nodes that onnxruntime made of them, and how far they are off."""
    found: dict[str, float] = {}
    for r in results:
        for name, backend in r.backends.items():
            if backend.nodes:
                line = f"{name}, {r.cell.dtype}, {r.cell.activation}: {backend.nodes}"
                found[line] = max(found.get(line, 0.0), backend.error_in_our_bounds or 0.0)
    further = "; right for these nodes, and off by up to {:.1f} times what our kernel may be"
    return [line + (further.format(error) if error > 1 else "") for line, error in found.items()]


def format_number(value: float | None) -> str:
    """Write a ratio with two digits after the point, fewer where it is large; a dash for None.

    >>> format_number(0.954), format_number(12.345), format_number(2052.4), format_number(None)
    ('0.95', '12.3', '2052', '-')
    """
    return "-" if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def format_time(seconds: float) -> str:
    """Write a time with three digits and a unit.

    >>> format_time(0.0000123456), format_time(0.0987)
    ('12.3 us', '98.7 ms')
    """
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def _model_name(row: dict[str, Any]) -> str:
    return f"{row['layers']} x {row['size']}x{row['size']} {Kind(row['dtype'], row.get('weight', ''))}"


def _pair(backends: dict[str, dict[str, Any]], key: str, write: Callable[[float], str]) -> list[str]:
    """Return our number, Gemm's, and the quotient."""
    ours, gemm = (backends.get(backend, {}).get(key) for backend in (OURS, "gemm"))
    both = f"{ours / gemm:.2f}" if ours and gemm else "-"
    return [*("-" if value is None else write(value) for value in (ours, gemm)), both]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
