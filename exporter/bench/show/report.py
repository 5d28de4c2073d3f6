"""Write a benchmark's report: files beside the result, and a summary for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TextIO

from markupsafe import Markup

from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import OURS, runs_on
from exporter.bench.measure.goals import NOISE, Judged, judge
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.quiet import AGREEMENT
from exporter.bench.measure.runner import RESULT_NAME, Bench
from exporter.bench.show import tables
from ort_ops.console.html_report import Section, write_report
from ort_ops.console.table import print_table
from ort_ops.files.atomic import write_atomically

CSV_NAME, HTML_NAME = "bench.csv", "bench.html"
_FEW_CELLS = 40
Value = Callable[[CellResult], float | None]
_NOISE_TEXT = f"The worst single value counts, or the mean; times from {NOISE:g} of a goal on are met within noise."
_TABLES = {
    "load": ("Load time", "Making a session, with the options made before.", tables.load_table),
    "memory": ("Resident memory", "By how much a process of its own grew, in MiB.", tables.memory_table),
    "chain": ("Tiny nodes", "What a node of a chain of 100 takes.", tables.chain_table),
    "bits": ("Same bits", "Of our results, with other numbers of threads and in other batches.", tables.bits_table),
}


def write_files(bench: Bench, folder: str | Path, *, with_goals: bool = False) -> list[Path]:
    """Write the files of the report, and return the paths of all. Raises: OutputError.

    Pictures and drawings need matplotlib; without it the page has tables in their place.
    """
    folder = Path(folder)
    results = list(bench.cells.values())
    judged = judge(bench) if with_goals else []
    bench.save(folder, {"goals": [asdict(j) for j in judged]} if with_goals else {})
    write_atomically(folder / CSV_NAME, tables.to_csv(results).encode())
    write_page(bench, judged, folder / HTML_NAME)
    written = [folder / name for name in (RESULT_NAME, CSV_NAME, HTML_NAME)]
    drawings = _drawings()
    return written if drawings is None else [*written, *drawings.write_pictures(bench, folder)]


def _drawings() -> ModuleType | None:
    """Return the module that draws; None without matplotlib."""
    try:
        from exporter.bench.show import drawings
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        return None
    return drawings


def show(bench: Bench, stream: TextIO, *, with_goals: bool = False) -> None:
    """Print the summary."""
    results = list(bench.cells.values())
    print(f"{headline(bench)}\n", file=stream)

    def print_part(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if title:
            print(title, file=stream)
        print_table(header, rows, stream)
        print(file=stream)

    if bench.ceilings is not None:
        print_part("", *tables.ceiling_table(bench.ceilings))
    if results:
        print("time of the best peer / ours (above 1 ours is faster)\n", file=stream)
        for group, table in tables.heat_tables(results, lambda r: r.ratio(r.best_peer)).items():
            print_part(group, *table)
        if len(results) <= _FEW_CELLS:
            print_part("", *tables.cell_table(results))
    for title, lines in _notes(bench):
        print("\n".join([f"{title}:", *lines, ""]), file=stream)
    missing = tables.untimed(results)
    if missing:
        print_part("", ["not timed", "cells", "why"], [[name, str(count), reason] for name, reason, count in missing])
    for name, (title, text, table_of) in _TABLES.items():
        if name in bench.parts:
            print_part(f"{title}. {text}", *table_of(bench.parts[name]))
    if with_goals:
        print_part(f"Goals. {_NOISE_TEXT}", *tables.goal_table(judge(bench)))


def _notes(bench: Bench) -> list[tuple[str, list[str]]]:
    """Return what there is to say about how cells were measured: a title, and lines."""
    results = list(bench.cells.values())
    cache = bench.identity["machine"].get("last_cache_mib", 0)
    size = f"{cache} MiB" if cache else "of unknown size"
    notes = [
        (f"Weights from memory (the largest cache is {size})", tables.cold_notes(results)),
        (f"Timed until two medians agreed within {AGREEMENT:.0%}", tables.quiet_notes(results)),
        ("What onnxruntime makes of a product and its activation", tables.node_notes(results)),
    ]
    return [(title, lines) for title, lines in notes if lines]


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
    write_report(path, f"{subject().operator.name} beside its peers", headline(bench), sections)


def _grid_sections(bench: Bench, results: list[CellResult]) -> list[Section]:
    drawings = _drawings()
    if drawings is not None:
        sections = _drawn_sections(drawings, bench, results)
    else:
        text = "Time of the best peer with a right result / ours: above 1 ours is faster. Drawings need matplotlib."
        sections = [
            Section(f"Beside the best peer, {group}", text, *table)
            for group, table in tables.heat_tables(results, lambda r: r.ratio(r.best_peer)).items()
        ]
    for title, lines in _notes(bench):
        sections.append(Section(title, "", [""], [[line] for line in lines]))
    missing = tables.untimed(results)
    if missing:
        rows = [[name, str(count), reason] for name, reason, count in missing]
        sections.append(Section("Not timed", "", ["backend", "cells", "why"], rows))
    text = "The spread is the interquartile range in units of the median."
    return [*sections, Section("Every cell", text, *tables.cell_table(results), fold=f"{len(results)} cells")]


def _drawn_sections(drawings: ModuleType, bench: Bench, results: list[CellResult]) -> list[Section]:
    """Draw the cells beside the best peer, beside each peer, and beside the ceilings."""

    def drawn(value: Value, color: Callable[[float], str], title: str) -> Markup:
        markup: Markup = drawings.as_svg(drawings.heat_maps(results, value, color, title), title)
        return markup

    text = (
        "Time of the best peer with a right result / ours: above 1, in green, ours is faster. Point at a cell for all."
    )
    best = drawn(lambda r: r.ratio(r.best_peer), drawings.ratio_color, "best peer / ours")
    sections = [Section("Beside the best peer", text, markup=best)]
    peers = dict.fromkeys(name for r in results for name in r.backends if name != OURS)
    folded = [
        _folded(peer, drawn(lambda r, peer=peer: r.ratio(peer), drawings.ratio_color, f"{peer} / ours"))  # type: ignore[misc]
        for peer in peers
        if any(r.ratio(peer) is not None for r in results)
    ]
    sections.append(Section("Beside each peer", "The same for one peer at a time.", markup=Markup("\n").join(folded)))
    if bench.ceilings is None:
        return sections
    plots = []
    for threads in sorted({r.cell.threads for r in results}):
        drawing = drawings.roofline(results, bench.ceilings, threads)
        if drawing is not None:
            plots.append(drawings.as_svg(drawing, f"Roofline, {runs_on(threads)}"))
    text = (
        "A point is one of our cells. Bytes are those of x, weight, bias and result, once each; they come at the speed "
        "of the level that the weight fits in."
    )
    fractions = drawn(lambda r: r.fraction, drawings.fraction_color, "fraction of the ceiling")
    plots.append(_folded("fraction of the ceiling by cell", fractions))
    return [*sections, Section("Beside the ceiling", text, markup=Markup("\n").join(plots))]


def _folded(title: str, markup: Markup) -> Markup:
    return Markup("<details><summary>{}</summary>{}</details>").format(title, markup)
