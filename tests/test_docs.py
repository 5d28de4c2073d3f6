"""The pages of docs/ are true: their Python blocks run, and their commands and options exist."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from exporter.torch_ops.kit import TorchKit
from ort_ops.cli.commands import find_commands
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import Operator

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = (  # test_python_kernel_tutorial.py and test_tutorial.py run them, where there is what they need
    "python_kernels.md",
    "your_operator.md",
)
LONG = ("faq.md", "gradients.md", "operators.md", "torch_operator.md", "training_in_onnxruntime.md")
PAGES = [
    pytest.param(path, marks=pytest.mark.long) if path.name in LONG else path
    for path in sorted(DOCS.glob("*.md"))
    if path.name not in ELSEWHERE and "```python" in path.read_text()
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == text.count("```python")
    # Annotations are read as they are, so the blocks are one file, as a user's are.
    (tmp_path / "page.py").write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in re.findall(r"print\(error\)  # (.*)", text):
        assert said.removesuffix("...") in done.stdout


@pytest.mark.parametrize("command", find_commands())
def test_the_options_that_the_docs_name_are_the_command_s(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ort_ops.cli", command, "--help"], capture_output=True, text=True, check=False
    )
    known = set(re.findall(r"--[\w-]+", done.stdout))
    for path in (*DOCS.glob("*.md"), DOCS.parent / "README.md", DOCS.parent / "benchmarks" / "README.md"):
        for line in path.read_text().splitlines():
            if set(re.findall(r"\bmylinear ([a-z]+)", line)) == {command}:
                said = line.split(f"mylinear {command}", 1)[1]
                assert set(re.findall(r"(?<![\w-])--[\w-]+", said)) <= known, f"{path.name}: {line}"


def test_every_page_is_in_the_site_s_navigation() -> None:
    named = re.findall(r": ([\w/.]+\.md)(?: +#.*)?$", (DOCS.parent / "mkdocs.yml").read_text(), re.M)
    outside = [name.removeprefix("repository/") for name in named if name.startswith("repository/")]
    assert sorted(set(named)) == sorted(named)
    pages = {
        str(path.relative_to(DOCS).with_suffix(".md")) for kind in ("md", "ipynb") for path in DOCS.rglob(f"*.{kind}")
    }
    assert pages == {name for name in named if not name.startswith("repository/")}
    assert [name for name in outside if not (DOCS.parent / name).is_file()] == []


@pytest.mark.parametrize(
    ("described", "page"), [(Operator, "operators"), (OperatorKit, "operators"), (TorchKit, "torch_operator")]
)
def test_every_field_is_explained(described: type, page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    missing = [field.name for field in fields(described) if not re.search(rf"`[^`\n]*\b{field.name}\b[^`\n]*`", text)]
    code = re.findall(r"```python\n(.*?)```", text, re.S)
    assert [name for name in missing if not any(f"{name}=" in block for block in code)] == []
