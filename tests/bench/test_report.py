"""What `mylinear bench` leaves: drawings, CSV, page, and one tiny run. No time is asserted."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from exporter.bench.measure.cells import Cell
from exporter.bench.show import tables
from exporter.bench.show.drawings import as_svg, heat_maps, ratio_color, roofline
from exporter.bench.show.report import write_files
from ort_ops.cli import main as cli
from tests.bench.support import CEILINGS, Cells, bench_of, result

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Collects what a page would load, and counts its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_drawings_are_xml_and_have_every_cell() -> None:
    results = [result(Cell(m, k, 64, "float32", 1), 1e-3 / m, gemm=2e-3 / m) for m in (1, 8) for k in (64, 256)]
    results[3] = result(results[3].cell, None, gemm=1.0)
    drawn = as_svg(heat_maps(results, lambda r: r.ratio("gemm"), ratio_color, "a < b"), "a < b")
    assert drawn == as_svg(heat_maps(results, lambda r: r.ratio("gemm"), ratio_color, "a < b"), "a < b")
    svg = ElementTree.fromstring(drawn)
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "a < b")
    texts = [node.text for node in svg.iter(f"{SVG}text")]
    assert texts.count("2.00") == 3
    assert texts.count("-") == 1
    assert {"64x64", "256x64", "1", "8", "M", "a < b"} <= set(texts)
    assert not list(svg.iter(f"{SVG}metadata")), "no date, no version"
    tips = [node.text for node in svg.iter(f"{SVG}title")]
    assert tips[0] == (
        "(1, 64, 64) float32, 1 thread\nours: 1 ms (spread 20%)\ngemm: 2 ms (spread 20%), 2.00 of ours\n"
        f"ceiling: {tables.format_time(results[0].ceiling_s or 0)} by L2"
    )
    assert [tip for tip in tips if tip and "wrong result, 1 of 2 values are off" in tip] == [tips[3]]
    plot = roofline(results, CEILINGS, 1)
    assert plot is not None
    drawn = as_svg(plot, "Roofline")
    assert len(list(ElementTree.fromstring(drawn).iter(f"{SVG}title"))) == 3, "a point for each of our times"
    assert {"float32 100 GFLOP/s", "L2 100 GB/s"} <= {
        node.text for node in ElementTree.fromstring(drawn).iter(f"{SVG}text")
    }
    assert roofline(results, CEILINGS, 2) is None


def test_without_matplotlib_the_page_has_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "exporter.bench.show.drawings", raising=False)
    monkeypatch.delattr("exporter.bench.show.drawings", raising=False)
    bench = bench_of(result(Cell(1, 2, 1, "float32", 1), 1.0, gemm=1.5))
    assert [path.name for path in write_files(bench, tmp_path)] == ["bench.json", "bench.csv", "bench.html"]
    page = (tmp_path / "bench.html").read_text()
    assert "Drawings need matplotlib" in page
    assert "<td>1.50</td>" in page
    assert "<svg" not in page


def test_verdicts_are_colored_by_their_fields(tmp_path: Path) -> None:
    bench = bench_of(result(Cell(1, 2, 1, "float32", 1), 1.0, gemm=0.9))
    write_files(bench, tmp_path, with_goals=True)
    page = (tmp_path / "bench.html").read_text()
    assert '<td class="bad">missed</td>' in page
    assert '<td class="quiet">not measured</td>' in page
    assert '"verdict": "missed"' in (tmp_path / "bench.json").read_text()


def test_csv_has_a_line_for_every_side_of_every_cell() -> None:
    text = tables.to_csv([result(Cell(1, 2, 1, "float32", 1), 2e-6, gemm=3e-6, torch=None)])
    ours, gemm, torch = csv.DictReader(text.splitlines())
    assert (ours["side"], ours["median_us"], ours["ratio_to_ours"], ours["is_best_peer"]) == ("ours", "2", "1", "0")
    assert (gemm["median_us"], gemm["ratio_to_ours"], gemm["is_best_peer"]) == ("3", "1.5", "1")
    assert (torch["median_us"], torch["ratio_to_ours"]) == ("", "")
    assert torch["reason"].startswith("wrong result")


@pytest.mark.long
@pytest.mark.native
def test_the_command_leaves_all_that_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    command = ["bench", "--M", "1,3", "--shapes", "2x1,16x8", "--dtypes", "float32,bfloat16", "--threads", "1"]
    command += ["--peers", "gemm,torch", "--parts", "grid,chain,bits", "--budget", "0.01", "--quick", "--goals"]
    assert cli.main([*command, "--output", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "best peer / ours" in shown.out
    assert "NOT_IMPLEMENTED" in shown.out
    assert "Goals" in shown.out
    assert "10/10" in shown.err, "progress is shown"
    assert {path.name for path in folder.iterdir()} == {"bench.json", "bench.csv", "bench.html", "ratios.png"}
    for name in ("bench.json", "bench.csv", "bench.html", "ratios.png"):
        assert str(folder / name) in shown.out
    found = json.loads((folder / "bench.json").read_bytes())
    assert len(found["cells"]) == 8
    assert set(found["parts"]) == {"chain", "bits"}
    assert {row["verdict"] for row in found["goals"]} <= {"met", "met within noise", "missed", "not measured"}
    assert found["cells"][0]["sides"]["ours"]["error_in_bounds"] <= 1
    assert len(list(csv.DictReader((folder / "bench.csv").read_text().splitlines()))) == 8 * 3
    page = Page()
    page.feed((folder / "bench.html").read_text())
    assert page.links == []
    assert page.tags.count("svg") >= 2
    assert "script" not in page.tags
    assert cli.main([*command, "--output", str(folder)]) == 0
    again = json.loads((folder / "bench.json").read_bytes())
    assert again == found, "a complete result is shown again, not measured again"
    assert cli.main([*command, "--budget", "0.02", "--output", str(folder)]) == 2
    assert "plan: budget_s was 0.01, is 0.02" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = Cells(monkeypatch)
    cells.interrupted_at = Cell(1, 2, 1, "float32", 1)
    command = ["bench", "--M", "1", "--shapes", "3x1,2x1", "--dtypes", "float32", "--threads", "1", "--parts", "grid"]
    assert cli.main([*command, "--output", str(tmp_path)]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "bench.json").read_bytes())["cells"]) == 1


def test_without_the_library_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MYLINEAR_LIBRARY", "/nowhere/library.so")
    assert cli.main(["bench", "--output", str(tmp_path / "out")]) == 2
    assert "MYLINEAR_LIBRARY names no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.native
def test_the_bench_needs_no_torch(tmp_path: Path) -> None:
    code = """
import subprocess
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from ort_ops.cli.main import main
arguments = "--M 1 --shapes 2x1 --dtypes float32 --threads 1 --peers gemm,torch --parts grid,chain --budget 0.01"
sys.exit(main(["bench", *arguments.split(), "--quick", "--goals", "--output", "out"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch is not installed" in done.stdout
    assert (tmp_path / "out" / "bench.html").exists()
