"""The figures about this project in docs/comparison.md are those of today's template and pages."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ort_ops.scaffold.request import read_request
from ort_ops.scaffold.write import render

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "comparison.md").read_text()
NOT_COUNTED = ("README.md", "ci.sh", ".gitignore")  # of any folder; and what is in tests/


def _ours(row: str) -> str:
    """Return the last column of a row."""
    (line,) = re.findall(rf"^\| {row} \|(.*)\|$", PAGE, re.M)
    return str(line.split("|")[-1]).strip()


def _lines(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())


def test_the_figures_of_a_package_are_the_template_s() -> None:
    texts = render(read_request("ScaledSum"))
    built = [text for name, text in texts.items() if Path(name).name not in NOT_COUNTED and "tests" not in name]
    todo = sum(text.count("TODO:") for text in texts.values())
    assert _ours("files that are built or run") == f"{len(built)} [4]"
    assert _ours("lines in them") == f"{sum(map(_lines, built))}, written by the first command [4]"
    assert f"{todo} places, tests included, are marked TODO" in PAGE.replace("\n", " ")
    commands = re.findall(r"```bash\n(.*?)```", (DOCS / "your_operator.md").read_text(), re.S)[0]
    assert _ours("steps of its guide") == f"{_lines(commands)} commands [4]"


def test_the_figures_of_a_kernel_alone_are_those_of_its_page() -> None:
    page = (DOCS / "cpp_kernels.md").read_text()
    kernel = re.findall(r"```cpp\n// axpy.cc\n(.*?)```", page, re.S)[0]
    build = re.findall(r"```bash\n(.*?)```", page, re.S)[0]
    assert f"is one file of {_lines(kernel)} lines here" in PAGE.replace("\n", " ")
    assert f"built by {_lines(build)} commands" in PAGE.replace("\n", " ")


def test_the_figure_of_a_notebook_is_that_of_its_cell() -> None:
    cells = json.loads((DOCS / "notebooks" / "your_operator.ipynb").read_text())["cells"]
    source = next("".join(cell["source"]) for cell in cells if cell["id"] == "define")
    assert f"takes {_lines(source)} lines" in PAGE.replace("\n", " ")


def test_the_sums_of_others_are_those_of_their_files_and_every_source_is_there() -> None:
    counted = dict(re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", PAGE, re.M | re.S))
    assert set(re.findall(r"\[(\d+)\]", PAGE)) == set(counted)
    rows = re.findall(r"^\| lines in them \|(.*)\|$", PAGE, re.M)[0].split("|")
    for number, told in (("1", rows[0]), ("3", rows[2])):
        lines = [int(found) for found in re.findall(r"(?:; |\()(\d+)(?: lines)?\)", counted[number])]
        assert told.strip() == f"{sum(lines)} [{number}]"
