"""The notebooks of docs/: committed without outputs, and each runs as a whole without an error or a warning."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run_notebook import cleaned

RUN = Path(__file__).parent / "run_notebook.py"
NOTEBOOKS = sorted((RUN.parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def _cells(name: str) -> list[dict[str, Any]]:
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return cells


def test_all_notebooks_are_here() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["prove_a_model", "quick_start", "your_operator"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_with_stable_ids(path: Path) -> None:
    text = path.read_text()
    notebook = json.loads(text)
    assert text == cleaned(text), f"run: python tests/run_notebook.py --clean {path}"
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)  # the first with ids of cells
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert re.fullmatch(r"[a-z][a-z-]{2,30}", cell["id"]), "name the cell by what it does"
        if cell["cell_type"] == "code":
            assert set(cell) == {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}, cell["id"]
            ast.parse("".join(cell["source"]))  # plain Python, no magics
        else:
            assert set(cell) == {"cell_type", "id", "metadata", "source"}, cell["id"]
            for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
                assert (path.parent / target).exists(), target


def test_what_jupyter_saves_is_cleaned() -> None:
    text = NOTEBOOKS[0].read_text()
    saved = json.loads(text)
    saved["metadata"]["language_info"]["version"] = "3.11.7"
    for cell in saved["cells"]:
        cell["metadata"] = {"collapsed": True}
        if cell["cell_type"] == "code":
            cell |= {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1"]}]}
    assert cleaned(json.dumps(saved)) == text


def test_an_operator_in_a_notebook_takes_less_than_30_lines() -> None:
    source = next("".join(cell["source"]) for cell in _cells("your_operator") if cell["id"] == "define")
    assert len(source.splitlines()) < 30


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run one notebook in a process of its own; each cell with what it printed and showed."""
    path = RUN.parents[1] / "docs" / "notebooks" / f"{request.param}.ipynb"
    done = subprocess.run(
        [sys.executable, RUN, path],
        cwd=tmp_path_factory.mktemp(request.param),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")  # an error, or a warning that a user would see
    found = {cell["id"]: cell for cell in map(json.loads, done.stdout.splitlines())}
    assert list(found) == [cell["id"] for cell in _cells(request.param) if cell["cell_type"] == "code"]
    return found


def _html(run: dict[str, Any], cell: str) -> str:
    (shown,) = run[cell]["shown"]
    return str(shown["html"])


@pytest.mark.long
@pytest.mark.parametrize("run", ["quick_start"], indirect=True)
def test_quick_start_trains_exports_runs_and_proves(run: dict[str, Any]) -> None:
    assert float(run["train"]["shown"][0]["text"]) < 1e-3
    assert "2 MYLINEAR nodes" in _html(run, "export")
    assert re.fullmatch(r"by the \w+ kernel\n", run["run"]["printed"])
    assert "<th>error / bound</th>" in _html(run, "verify")
    assert "<div>parity holds</div>" in _html(run, "verify")


@pytest.mark.long
@pytest.mark.parametrize("run", ["your_operator"], indirect=True)
def test_your_operator_is_proved_and_its_faults_are_found(run: dict[str, Any]) -> None:
    for engine in ("dynamo", "torchscript"):
        assert "1 SignedSquare node" in _html(run, engine)
    assert "<div>parity holds</div>" in _html(run, "verify")
    assert re.search(r"<td>python</td>(<td[^>]*>[^<]*</td>){3}<td[^>]*>\d+ of \d+ values", _html(run, "wrong-kernel"))
    assert "<div>parity is VIOLATED</div>" in _html(run, "wrong-kernel")
    assert run["wrong-backward"]["printed"].startswith("the gradient of x is wrong")


@pytest.mark.long
@pytest.mark.parametrize("run", ["prove_a_model"], indirect=True)
def test_a_model_is_adopted_and_proved_and_a_fault_in_it_is_found(run: dict[str, Any]) -> None:
    assert "`mylinear adopt` makes such nodes" in run["verify-first"]["printed"]
    assert "<td>MatMul+Add</td>" in _html(run, "adopt")
    assert "2 rewritten, 0 left alone" in _html(run, "adopt")
    assert "<div>parity holds</div>" in _html(run, "proof")
    assert re.search(r"<td>body</td>(<td[^>]*>[^<]*</td>){3}<td[^>]*>\d+ of \d+ values", _html(run, "found"))
    assert "<div>parity is VIOLATED</div>" in _html(run, "found")
    assert run["test"]["printed"].startswith("body, batch 1: ")
