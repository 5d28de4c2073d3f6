"""The project's own papers are true: README's examples run, its commands exist, versions agree."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ort_ops.cli.commands import find_commands
from ort_ops.native import library as native

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "models" / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "tests" / "data" / "README.md"]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


@pytest.mark.long
def test_the_readme_s_examples_run_one_after_the_other(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 4
    for block in blocks:
        if "python_kernel" in block and not native.status().is_usable:
            continue
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert len(block.splitlines()) <= 17


def test_the_readme_s_commands_are_the_command_line_s() -> None:
    assert set(re.findall(r"^\| `mylinear (\w+)", README, re.M)) == set(find_commands())


def test_the_readme_s_tree_names_files_that_are_there() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        if match := re.match(r"(\w+)/ ", line):
            folder = ROOT / match[1]
            assert folder.is_dir(), line
        for name in re.findall(r"\b([\w/]+\.(?:py|cc|h|txt)|[\w/]+/)(?=[\s,;(]|$)", line):
            found = [folder / name, ROOT / name, *folder.rglob(name)]
            assert any(path.exists() for path in found), f"{name} of '{line}'"


def test_every_top_level_folder_is_in_the_readme_s_tree() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    named = {name for line in tree.splitlines() if line[:1].strip() for name in re.findall(r"\b(\w+)/ ", line)}
    assert _folders(ROOT) <= named


@pytest.mark.parametrize("package", ["ort_ops", "exporter", "cpp_ops"])
def test_every_room_is_in_the_architecture_s_tables(package: str) -> None:
    section = ARCHITECTURE.split(f"### {package}")[1].split("### ")[0]
    named = {name for row in re.findall(r"^\| (.*?) \|", section, re.M) for name in re.findall(r"`([\w.<>/]+)`", row)}
    folders = {name.split("/")[0] for name in named if name.endswith("/")}
    assert folders == _folders(ROOT / package)
    for name in named - {name for name in named if "<" in name}:
        assert (ROOT / package / name).exists(), name


def _folders(folder: Path) -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, text=True, check=False).stdout
    return {line.split("/")[0] for line in listed.splitlines() if "/" in line and not line.startswith(".")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)  # a lambda of C++ looks like a link
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", prose):
        name, _, heading = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if heading:
            assert heading in {_anchor(line) for line in re.findall(r"^#+ (.*)", found.read_text(), re.M)}, target


def _anchor(heading: str) -> str:
    """Return the name by which a page's heading is linked."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_pre_commit_uses_the_pinned_versions() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for tool in ("ruff", "clang-format"):
        assert set(re.findall(rf"{tool}==([\d.]+)", hooks)) == {PINNED[tool]}


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxruntime", "onnxruntime-extensions", "onnxscript", "numpy"])
def test_what_is_tested_is_what_is_pinned(package: str) -> None:
    names = {name.lower().replace("_", "-"): pinned for name, pinned in PINNED.items()}
    assert version(package).split("+")[0] == names[package]


def test_reference_stays_short_enough_to_read_at_a_glance() -> None:
    reference = ROOT / "ort_ops" / "operators" / "mylinear" / "reference.py"
    assert len(reference.read_text().splitlines()) < 60
