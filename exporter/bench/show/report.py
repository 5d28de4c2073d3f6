"""Write a benchmark's report: files beside the result, and a summary for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from exporter.bench.measure.cells import OURS, runs_on
from exporter.bench.measure.goals import NOISE, Judged, judge
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.runner import RESULT_NAME, Bench
from exporter.bench.show import tables
from exporter.bench.show.svg import by_dtype_and_threads, fraction_color, heat_map, ratio_color, roofline_plot
from ort_ops.console.html_report import Section, write_report
from ort_ops.console.table import format_table
from ort_ops.files.atomic import write_atomically

CSV_NAME, HTML_NAME = "bench.csv", "bench.html"
_FEW_CELLS = 40
_NOISE_TEXT = f"The worst single value counts, or the mean; times from {NOISE:g} of a goal on are met within noise."
_TABLES = {
    "load": ("Load time", "Making a session, with the options made before.", tables.load_table),
    "memory": ("Resident memory", "By how much a process of its own grew, in MiB.", tables.memory_table),
    "chain": ("Tiny nodes", "What a node of a chain of 100 takes.", tables.chain_table),
    "bits": ("Same bits", "Of our results, with other numbers of threads and in other batches.", tables.bits_table),
}


def write_files(bench: Bench, folder: str | Path, *, with_goals: bool = False) -> list[Path]:
    """Write the files of the report, and return the paths of all. Raises: OutputError.

    The PNG pictures need matplotlib; without it there are none, and the page has its drawings all the same.
    """
    folder = Path(folder)
    results = list(bench.cells.values())
    judged = judge(bench) if with_goals else []
    bench.save(folder, {"goals": [asdict(j) for j in judged]} if with_goals else {})
    write_atomically(folder / CSV_NAME, tables.to_csv(results).encode())
    write_page(bench, judged, folder / HTML_NAME)
    written = [folder / name for name in (RESULT_NAME, CSV_NAME, HTML_NAME)]
    try:
        from exporter.bench.show.pictures import write_pictures
    except ModuleNotFoundError:
        return written
    return [*written, *write_pictures(bench, folder)]


def show(bench: Bench, *, with_goals: bool = False) -> str:
    """Return the summary that the command prints."""
    results = list(bench.cells.values())
    parts = [headline(bench)]
    if bench.ceilings is not None:
        parts.append(format_table(*tables.ceiling_table(bench.ceilings)))
    if results:
        parts.append("time of the best peer / ours (above 1 ours is faster)")
        for (dtype, threads), table in tables.heat_tables(results, lambda r: r.ratio(r.best_peer)).items():
            parts.append(f"{dtype}, {runs_on(threads)}\n{format_table(*table)}")
        if len(results) <= _FEW_CELLS:
            parts.append(format_table(*tables.cell_table(results)))
    missing = tables.untimed(results)
    if missing:
        rows = [[name, str(count), reason] for name, reason, count in missing]
        parts.append(format_table(["not timed", "cells", "why"], rows))
    for name, (title, text, table_of) in _TABLES.items():
        if name in bench.parts:
            parts.append(f"{title}. {text}\n{format_table(*table_of(bench.parts[name]))}")
    if with_goals:
        parts.append(f"Goals. {_NOISE_TEXT}\n{format_table(*tables.goal_table(judge(bench)))}")
    return "\n\n".join(parts) + "\n"


def headline(bench: Bench) -> str:
    """Return machine, kernels, versions and time in one line."""
    machine, library = bench.identity["machine"], bench.identity["library"]
    gpu = bench.identity.get("gpu")
    kernels = f"C++ kernels for {library['isa']}"
    if gpu is not None:
        kernels = f"{gpu['name']}, CUDA kernel built with CUDA {gpu['toolkit']}, driver for CUDA {gpu['driver']}"
    versions = ", ".join(f"{name} {v}" for name, v in bench.identity["versions"].items() if v)
    when = f"{bench.started} to {bench.finished}" if bench.finished else f"{bench.started}, not finished"
    return f"{machine['cpu']}, {machine['cores']} cores; {kernels}; {versions}; {when}"


def write_page(bench: Bench, judged: list[Judged], path: Path) -> None:
    """Write the page, which opens offline. Raises: OutputError."""
    results = list(bench.cells.values())
    sections = [Section("Goals", _NOISE_TEXT, *tables.goal_table(judged))] if judged else []
    if bench.ceilings is not None:
        text = "What this machine can do at best, as measured: the best of several runs."
        sections.append(Section("Ceilings", text, *tables.ceiling_table(bench.ceilings)))
    if results:
        sections += _grid_sections(bench, results)
    for name, (title, text, table_of) in _TABLES.items():
        if name in bench.parts:
            sections.append(Section(title, text, *table_of(bench.parts[name])))
    write_report(path, "MYLINEAR beside its peers", headline(bench), sections)


def _grid_sections(bench: Bench, results: list[CellResult]) -> list[Section]:
    groups = by_dtype_and_threads(results)
    names = {key: f"{key[0]}, {runs_on(key[1])}" for key in groups}
    text = (
        "Time of the best peer with a right result / ours: above 1, in green, ours is faster. Point at a cell for all."
    )
    maps = [heat_map(r, lambda c: c.ratio(c.best_peer), ratio_color, names[key]) for key, r in groups.items()]
    sections = [Section("Beside the best peer", text, markup=Markup("\n".join(maps)))]
    peers = list(dict.fromkeys(name for r in results for name in r.sides if name != OURS))
    folded = []
    for peer in peers:
        drawn = [
            heat_map(r, lambda c, peer=peer: c.ratio(peer), ratio_color, names[key])  # type: ignore[misc]
            for key, r in groups.items()
            if any(c.ratio(peer) is not None for c in r)
        ]
        if drawn:
            folded.append(f"<details><summary>{peer}</summary>{''.join(drawn)}</details>")
    sections.append(Section("Beside each peer", "The same for one peer at a time.", markup=Markup("\n".join(folded))))
    if bench.ceilings is not None:
        plots = [
            roofline_plot(results, bench.ceilings, threads) for threads in sorted({r.cell.threads for r in results})
        ]
        maps = [heat_map(r, lambda c: c.fraction, fraction_color, names[key]) for key, r in groups.items()]
        text = (
            "A point is one of our cells. Bytes are those of x, weight, bias and result, once each; they come at the "
            "speed of the level that the weight fits in."
        )
        fold = f"<details><summary>fraction of the ceiling by cell</summary>{''.join(maps)}</details>"
        sections.append(Section("Beside the ceiling", text, markup=Markup("\n".join([*plots, fold]))))
    missing = tables.untimed(results)
    if missing:
        rows = [[name, str(count), reason] for name, reason, count in missing]
        sections.append(Section("Not timed", "", ["side", "cells", "why"], rows))
    text = "The spread is the interquartile range in units of the median."
    return [*sections, Section("Every cell", text, *tables.cell_table(results), fold=f"{len(results)} cells")]
