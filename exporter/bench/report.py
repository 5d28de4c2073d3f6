"""What a finished benchmark leaves: files, and a summary for the terminal."""

from __future__ import annotations

from pathlib import Path

from exporter.bench.runner import RESULT_NAME, Bench
from exporter.bench.tables import ceiling_table, cell_table, heat_tables, to_csv, untimed
from ort_ops.files import write_atomically
from ort_ops.table import format_table

CSV_NAME = "bench.csv"
_FEW_CELLS = 40


def write_files(bench: Bench, folder: str | Path) -> list[Path]:
    """Write what follows from the result file, and return the paths of all. Raises: OutputError."""
    folder = Path(folder)
    write_atomically(folder / CSV_NAME, to_csv(bench.cells.values()).encode())
    return [folder / RESULT_NAME, folder / CSV_NAME]


def show(bench: Bench) -> str:
    """Return the summary that the command prints."""
    results = list(bench.cells.values())
    machine, library = bench.identity["machine"], bench.identity["library"]
    parts = [f"{machine['cpu']}, {machine['cores']} cores; C++ kernels for {library['isa']}; {bench.started}"]
    if bench.ceilings is not None:
        parts.append(format_table(*ceiling_table(bench.ceilings)))
    if results:
        parts.append("time of the best peer / ours (above 1 ours is faster)")
        for (dtype, threads), table in heat_tables(results, lambda r: r.ratio(r.best_peer)).items():
            parts.append(f"{dtype}, {threads} thread{'s' * (threads > 1)}\n{format_table(*table)}")
        if len(results) <= _FEW_CELLS:
            parts.append(format_table(*cell_table(results)))
    missing = untimed(results)
    if missing:
        rows = [[name, str(count), reason] for name, reason, count in missing]
        parts.append(format_table(["not timed", "cells", "why"], rows))
    return "\n\n".join(parts) + "\n"
