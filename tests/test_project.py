"""The project's own papers are true: README's examples run, its commands exist, versions agree."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ort_ops.cli.commands import find_commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


def test_the_readme_s_examples_run_one_after_the_other(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    for block in blocks:
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
        if match := re.match(r"(\S+)/ ", line):
            folder = ROOT / match[1]
            assert folder.is_dir(), line
        for name in re.findall(r"\b(\w+\.(?:py|cc|h|txt))\b", line):
            assert (folder / name).exists() or list(folder.rglob(name)), f"{name} of '{line}'"


def test_every_top_level_folder_has_a_line_in_the_readme() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    folders = {line.split("/")[0] for line in listed.splitlines() if "/" in line and not line.startswith(".")}
    assert folders <= set(re.findall(r"^(\w+)/", tree, re.M))


def test_pre_commit_uses_the_pinned_versions() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for tool in ("ruff", "clang-format"):
        assert set(re.findall(rf"{tool}==([\d.]+)", hooks)) == {PINNED[tool]}


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxruntime", "onnxruntime-extensions", "onnxscript", "numpy"])
def test_what_is_tested_is_what_is_pinned(package: str) -> None:
    names = {name.lower().replace("_", "-"): pinned for name, pinned in PINNED.items()}
    assert version(package).split("+")[0] == names[package]


def test_reference_stays_short_enough_to_read_at_a_glance() -> None:
    assert len((ROOT / "ort_ops" / "reference.py").read_text().splitlines()) < 60
