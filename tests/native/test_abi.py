"""Every number of ``cpp_ops/ort/abi.h`` against tables of the released ABI, and against the official headers.

``abi.h`` binds its lists of slots and fields to its structs by ``static_assert``; here the lists are compared
with ``tests/data``. With ``ORT_INCLUDE_DIR`` set to the directory of ``onnxruntime_c_api.h``, a second test compiles
both declarations together.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest

from ort_ops.operators.mylinear import contract
from ort_ops.python_kernels import trampoline

ROOT = Path(__file__).parents[2]
CPP = ROOT / "cpp_ops"
HEADER = (CPP / "ort" / "abi.h").read_text()
POINTER = 8


def _table(name: str) -> list[dict[str, str]]:
    with (ROOT / "tests" / "data" / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


SLOTS = {row["name"]: row for row in _table("ort_api_slots.tsv")}
FIELDS = {row["name"]: row for row in _table("ort_custom_op_layout.tsv")}
ENUMS = {(row["enum"], row["name"]): int(row["value"]) for row in _table("ort_enums.tsv")}


def _list(macro: str) -> list[tuple[int, int, str]]:
    """The rows ``X(number, since, name)`` of a list macro in the header."""
    body = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*\n)", HEADER)
    assert body, macro
    return [(int(a), int(b), c) for a, b, c in re.findall(r"X\((\d+), (\d+), (\w+)\)", body[1])]


def _struct(name: str) -> list[tuple[str, int]]:
    """Members of a struct of the header in order, each with its number of pointer-sized slots."""
    body = re.search(rf"^struct {name} \{{\n(.*?)^\}};", HEADER, re.MULTILINE | re.DOTALL)
    assert body, name
    members = re.findall(r"\(\*(\w+)\)\(|void\* (\w+)\[(\d+)\];|uint32_t (\w+);", body[1])
    top_level = [m for m in members if m[0] != "body"]  # a parameter that is a function pointer itself
    return [(f or gap or field, int(count or 1)) for f, gap, count, field in top_level]


ELEMENT_TYPES = {
    name: ENUMS["ONNXTensorElementDataType", value]
    for name, value in re.findall(r"ElementType k(\w+) = abi::(\w+);", (CPP / "ort" / "element_types.h").read_text())
}
API_SLOTS = _list("MYLINEAR_ORT_API_SLOTS")
OP_FIELDS = _list("MYLINEAR_ORT_CUSTOM_OP_FIELDS")


@pytest.mark.parametrize(("slot", "since", "name"), API_SLOTS, ids=[name for _, _, name in API_SLOTS])
def test_api_slot(slot: int, since: int, name: str) -> None:
    row = SLOTS[name]
    assert (slot, since) == (int(row["slot"]), int(row["since_api"]))
    assert int(row["byte_offset_x86_64"]) == slot * POINTER


@pytest.mark.parametrize(("index", "since", "name"), OP_FIELDS, ids=[name for _, _, name in OP_FIELDS])
def test_custom_op_field(index: int, since: int, name: str) -> None:
    row = FIELDS[name]
    assert (index, since) == (int(row["index"]), int(row["since_api"]))
    assert int(row["byte_offset_x86_64"]) == index * POINTER


def test_every_field_of_the_custom_op_is_listed() -> None:
    assert [name for _, _, name in OP_FIELDS] == list(FIELDS) == [name for name, _ in _struct("OrtCustomOp")]


def test_every_function_is_listed_and_lies_in_its_slot() -> None:
    """The struct read as text, so that the numbers are checked where no compiler is at hand."""
    slot, found = 0, []
    for name, width in _struct("OrtApi"):
        if not name.startswith("unused_"):
            found.append((slot, name))
        slot += width
    assert found == [(slot, name) for slot, _, name in API_SLOTS]


def test_enums_and_their_sizes() -> None:
    enums = re.findall(r"^enum (\w+) : int32_t \{\n(.*?)^\};", HEADER, re.MULTILINE | re.DOTALL)
    assert len(enums) == 5
    for enum, body in enums:
        assert ENUMS[enum, "(sizeof)"] == 4
        values = re.findall(r"(\w+) = (-?\d+),", body)
        assert values
        for name, number in values:
            assert ENUMS[enum, name] == int(number), name


def test_newer_functions_are_guarded_by_a_version() -> None:
    """A function above the minimum is called only below a test of the version, in the same function."""
    minimum = int(_constant(HEADER, "kMinApiVersion"))
    newest = int(_constant(HEADER, "kMaxApiVersion"))
    newer = {name: since for _, since, name in API_SLOTS if since > minimum}
    assert max(newer.values()) == newest
    sources = {path: path.read_text() for path in CPP.rglob("*.*") if path.suffix in (".cc", ".h")}
    for name, since in newer.items():
        calls = [(path, m.start()) for path, text in sources.items() for m in re.finditer(rf"->{name}\(", text)]
        assert calls, f"{name} is declared and not used"
        for path, position in calls:
            before = sources[path][max(0, position - 250) : position]
            assert f"runtime.version >= {since}" in before, f"{path.name} calls {name} unguarded"


def _constant(text: str, name: str) -> str:
    found = re.search(rf"\b{name}(?:\[\])? = (.*?);", text)
    assert found, name
    return found[1].strip('"')


def test_element_types_have_the_order_of_the_contract() -> None:
    text = (CPP / "kernels" / "gemm.h").read_text()
    names = re.search(r"kElementTypeNames\[\w+\] = \{(.*?)\}", text, re.DOTALL)
    assert names
    assert re.findall(r'"(\w+)"', names[1]) == [t.name for t in contract.ELEMENT_TYPES]
    types = re.search(r"kTypes\[\] = \{(.*?)\};", (CPP / "operators/mylinear/contract.h").read_text(), re.DOTALL)
    assert types
    values = [ELEMENT_TYPES[name] for name in re.findall(r"ort::k(\w+)", types[1])]
    assert values == [t.onnx_type for t in contract.ELEMENT_TYPES] * 2  # of T, and of TW


def test_element_types_are_those_of_onnx() -> None:
    rows = re.findall(r'\{k(\w+), "(\w+)", (\d)\}', (CPP / "ort" / "element_types.h").read_text())
    assert {name for name, _, _ in rows} == set(ELEMENT_TYPES) - {"Undefined"}
    for constant, name, nbytes in rows:
        if name != "bfloat16":  # which NumPy does not have
            dtype = onnx.helper.tensor_dtype_to_np_dtype(ELEMENT_TYPES[constant])
            assert (dtype.name, dtype.itemsize) == (name, int(nbytes))
    assert (ELEMENT_TYPES["Bfloat16"], ("Bfloat16", "bfloat16", "2") in rows) == (onnx.TensorProto.BFLOAT16, True)


OFFICIAL = """
#include <onnxruntime_c_api.h>
#include "ort/abi.h"
#define SLOT(slot, since, name) \\
  static_assert(offsetof(::OrtApi, name) == offsetof(mylinear::abi::OrtApi, name), #name);
MYLINEAR_ORT_API_SLOTS(SLOT)
#define FIELD(index, since, name) \\
  static_assert(offsetof(::OrtCustomOp, name) == offsetof(mylinear::abi::OrtCustomOp, name), #name);
MYLINEAR_ORT_CUSTOM_OP_FIELDS(FIELD)
static_assert(sizeof(::OrtCustomOp) >= sizeof(mylinear::abi::OrtCustomOp));
static_assert(offsetof(::OrtApiBase, GetApi) == offsetof(mylinear::abi::OrtApiBase, GetApi));
static_assert(offsetof(::OrtApiBase, GetVersionString) == offsetof(mylinear::abi::OrtApiBase, GetVersionString));
"""


def test_official_headers_agree(tmp_path: Path) -> None:
    include = os.environ.get("ORT_INCLUDE_DIR")
    if not include:
        pytest.skip("ORT_INCLUDE_DIR does not name the directory of onnxruntime_c_api.h")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    enums = re.findall(r"^enum (\w+) : int32_t \{\n(.*?)^\};", HEADER, re.MULTILINE | re.DOTALL)
    lines = [
        f"static_assert(static_cast<int>(::{name}) == static_cast<int>(mylinear::abi::{name}));"
        for _, body in enums
        for name, _ in re.findall(r"(\w+) = (-?\d+),", body)
    ]
    source = tmp_path / "official.cc"
    source.write_text(OFFICIAL + "\n".join(lines) + "\n")
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{include}", f"-I{CPP}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_both_ends_of_the_trampoline_agree() -> None:
    """Members and order of the structs that Python fills and C++ reads."""
    text = (CPP / "python" / "api.h").read_text()
    structs = {
        "PythonApi": trampoline._PythonApi,
        "PythonOverload": trampoline._Overload,
        "PythonDomain": trampoline._Domain,
    }
    c_types = {"int32_t": "c_int", "int64_t": "c_long", "const char*": "c_char_p", "PyObject*": "py_object"}
    for name, struct in structs.items():
        body = re.search(rf"^struct {name} \{{\n(.*?)^\}};", text, re.MULTILINE | re.DOTALL)
        assert body
        code = re.sub(r"//.*", "", body[1])
        functions_and_members = re.findall(r"\(\*(\w+)\)\(|^ {2}([\w* ]+?[ *]+)(\w+);", code, re.MULTILINE)
        declared = [function or member for function, _, member in functions_and_members]
        assert declared == [field[0] for field in struct._fields_]
        for (_, c_type, member), field in zip(functions_and_members, struct._fields_, strict=True):
            if name != "PythonApi" and c_type.strip() in c_types:
                assert field[1].__name__ == c_types[c_type.strip()], member
