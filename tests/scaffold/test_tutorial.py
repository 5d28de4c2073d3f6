"""The page on an operator of your own is true: its command writes a package, and its blocks keep every promise."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from exporter.promises.check import check_operator
from exporter.promises.result import Outcome
from ort_ops.cli import main as cli
from ort_ops.opdef import registry

PAGE = (Path(__file__).parents[2] / "docs" / "your_operator.md").read_text()


def replace_functions(path: Path, block: str) -> None:
    """Put the functions of a block in the place of those of the same names."""
    lines, text = path.read_text().splitlines(), block.splitlines()
    for new in reversed(ast.parse(block).body):
        assert isinstance(new, ast.FunctionDef)
        (old,) = (n for n in ast.parse("\n".join(lines)).body if isinstance(n, ast.FunctionDef) and n.name == new.name)
        places = [(min([n.lineno, *(d.lineno for d in n.decorator_list)]) - 1, n.end_lineno) for n in (old, new)]
        (start, end), (first, last) = places
        lines[start:end] = text[first:last]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_page_makes_an_operator_that_keeps_every_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^mylinear (new .*)$", PAGE, re.M)
    assert cli.main(shlex.split(command)) == 0
    folder = tmp_path / "signed-square"
    blocks = re.findall(r"```(?:python|cpp)\n(?:#|//) (\S+)\n(.*?)```", PAGE, re.S)
    assert len(blocks) == PAGE.count("```python") + PAGE.count("```cpp")
    for name, block in blocks:
        if name.endswith(".py"):
            replace_functions(folder / name, block)
            continue
        loop = re.compile(r"    for \(size_t i = 0; i < count; \+\+i\) \{.*?\n    \}\n", re.S)
        text, count = loop.subn(lambda _: block, (folder / name).read_text())  # noqa: B023
        assert count == 1
        (folder / name).write_text(text)
    command = "g++ -std=c++17 -ffp-contract=off -Wall -Wextra -Werror -shared -fPIC -Ithird_party/mylinear"
    built = [*command.split(), "signed_square/kernel.cc", "-o", "signed_square/_kernel.so"]
    done = subprocess.run(built, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(folder)
    kit = import_module("signed_square.operator").KIT
    registry.add(kit)
    try:
        found = check_operator("SignedSquare", compile_backend=None)
        assert found.is_ok, found.table()
        promised = {p.promise for p in found.of(Outcome.KEPT)}
        listed = re.findall(r"^\| ([\w ,+]+) \|", PAGE.split("## 5")[1], re.M)[1:]
        assert promised == {word for row in listed for word in row.split(", ")}
        namespace = runpy.run_path(str(folder / "tests" / "test_signed_square.py"))
        for kernel in ("cpp", "python", "body"):
            for dtype in kit.operator.element_types:
                namespace["test_numbers_by_hand"](kernel, dtype.name)
    finally:
        registry.remove(kit)
