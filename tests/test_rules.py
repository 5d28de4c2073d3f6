"""Rules of the house that no other tool checks: who may name an operator, how long files are, what rooms hold."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from ort_ops import operators

ROOT = Path(__file__).parent.parent
PACKAGES = ("ort_ops", "exporter", "cpp_ops")
OWN_FOLDERS = tuple(f"{package}/operators/" for package in PACKAGES)
CODE = (".py", ".cc", ".h", ".cu", ".cuh")

# Words that only an operator of this project has, beside the names that are collected below.
CONTRACT_WORDS = ("in_features", "out_features", "has_bias", "no_bias", "absent_bias", "my_linear")
# What may be called like an operator all the same: the product (its command, distribution, entry-point groups, keys of
# metadata and C symbols are `mylinear`, its environment variables and macros MYLINEAR_*), and lists of operators.
ALLOWED = {
    "ort_ops/__init__.py": r'"MYLINEAR",|"MYLINEAR": "operators\.\w+\.contract",|from ort_ops\.operators\..*',
    "exporter/__init__.py": r'^ +"\w+",$|^ +"\w+": "[\w.]+",$|^ +from exporter\.operators(?:\.\w+)+ import .*',
    "cpp_ops/register.cc": r'#include "operators/.*|operators::\w+|TypeList<.*',
    "cpp_ops/CMakeLists.txt": r"operators/\w+/\w+\.cc",
}
# Rooms that have more files than MAX_FILES, and why.
FULL = {"cpp_ops/ort": "headers alone, one for each thing that the author of a kernel looks up"}
# Folders of tests that are not called like a room, and what they test.
OTHER_FOLDERS = {
    "cpp": "the kernels in C++, under sanitizers",
    "data": "what onnxruntime's headers say",
    "platforms": "the libraries of other platforms, by wine and qemu",
    "second_operator": "an operator that nothing else knows",
    "sessions": "session.py, session_options.py and what they need",
    "training_runtime": "ort_ops/training; tests/training has the other room of that name, exporter/training",
}
MAX_LINES, MAX_FILES = 300, 12


@cache
def tracked(*folders: str) -> dict[str, str]:
    """Return the text of each file under git in some folders, by path."""
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {
        name: (ROOT / name).read_text()
        for name in listed
        if (ROOT / name).is_file() and Path(name).suffix not in (".onnx", ".png", ".npz", ".gz")
    }


@cache
def operator_words() -> re.Pattern[str]:
    """Return what matches the name of an operator of this project, of its words, and of what its folders define."""
    words = {*CONTRACT_WORDS, *(word.upper() for word in CONTRACT_WORDS)}
    for kit in operators.load():
        words.add(kit.operator.name)
    for name, text in tracked(*OWN_FOLDERS).items():
        if name.endswith(".py"):
            defined = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef))
            words |= {node.name for node in defined if "linear" in node.name.lower() and node.name != "linear"}
    folders = "|".join(operators.FOLDERS)
    in_python = rf"['\"](?:{folders})::|torch\.ops\.(?:{folders})\b"
    return re.compile(rf"\b(?:{'|'.join(sorted(words))})\b|operators[./](?:{folders})\b|{in_python}")


def named_operators(name: str, text: str) -> list[str]:
    """Return the lines of a file that name an operator."""
    if name in ALLOWED:
        text = re.sub(ALLOWED[name], "", text, flags=re.MULTILINE)
    return [line.strip() for line in text.splitlines() if operator_words().search(line)]


def test_no_operator_is_named_outside_its_rooms() -> None:
    files = {name: text for name, text in tracked(*PACKAGES).items() if not name.startswith(OWN_FOLDERS)}
    found = {name: lines for name, text in files.items() if (lines := named_operators(name, text))}
    assert not found, "these name an operator; ask the registry instead"


@pytest.mark.parametrize(
    "text", ["MYLINEAR", "x.in_features", "swap_linear(model)", "ort_ops.operators.mylinear", "LinearF"]
)
def test_the_rule_finds_an_operator(text: str) -> None:
    assert named_operators("ort_ops/session.py", f"a = 1\nb = {text}\n")


@pytest.mark.parametrize(
    "text", ["MYLINEAR_ISA", "mylinear run", "MylinearError", "mylinear.operators", "nn.Linear", "mylinear_describe"]
)
def test_the_rule_lets_the_product_s_own_name_pass(text: str) -> None:
    assert not named_operators("ort_ops/session.py", text)


def test_long_files_say_why() -> None:
    files = {n: t for n, t in tracked(*PACKAGES, "tests", "benchmarks").items() if Path(n).suffix in CODE}
    long = {name for name, text in files.items() if text.count("\n") > MAX_LINES}
    silent = {name for name in long if not any("Long because" in line for line in files[name].splitlines()[:12])}
    assert not silent, f"a file of more than {MAX_LINES} lines says 'Long because ...' in its first lines"


def test_a_room_has_about_ten_files() -> None:
    rooms: dict[str, set[str]] = {}
    for name in tracked(*PACKAGES):
        path = Path(name)
        if path.suffix in CODE and path.stem != "__init__":
            rooms.setdefault(path.parent.as_posix(), set()).add(path.stem)  # x.cc and x.h are one
    assert {room for room, files in rooms.items() if len(files) > MAX_FILES} == set(FULL)


def test_tests_mirror_the_rooms() -> None:
    rooms = {path.name for package in ("ort_ops", "exporter") for path in (ROOT / package).iterdir() if path.is_dir()}
    rooms |= {path.stem for path in (ROOT / "ort_ops").glob("*.py")}
    folders = {Path(name).parts[1] for name in tracked("tests") if len(Path(name).parts) > 2}
    assert folders - rooms == set(OTHER_FOLDERS)
