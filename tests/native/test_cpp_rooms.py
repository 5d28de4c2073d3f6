"""Who may include whom in ``cpp_ops``, and where the names of operators and instruction sets may stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CPP = Path(__file__).parents[2] / "cpp_ops"
SOURCES = {
    path.relative_to(CPP).as_posix(): path.read_text()
    for path in sorted(CPP.rglob("*.*"))
    if path.suffix in (".cc", ".h", ".cu", ".cuh")
}
MAY_INCLUDE = {
    "kernels": {"kernels"},
    "ort": {"ort", "kernels/half.h"},  # of the kernels, only the conversions of float16 and bfloat16
    "platform": {"platform"},
    "python": {"python", "ort", "platform"},
    "cuda": {"cuda", "kernels", "ort/json_text.h", "platform"},
    "ceilings": {"ceilings", "kernels/isa/isa.h"},
    "operators": {"operators", "ort", "kernels", "cuda/backend.h"},
    "register.cc": {"operators", "ort", "kernels", "cuda/find_backend.h", "python/api.h"},
}
# An operator's own words. MYLINEAR_ISA and the like are the project's, not the operator's.
OPERATOR_WORDS = re.compile(r"\bMYLINEAR\b|\b(in|out)_features\b|\bhas_bias\b|my_linear")


def _room(name: str) -> str:
    return name.split("/")[0]


def _includes(text: str) -> list[str]:
    return re.findall(r'#include "(.*)"', text)


@pytest.mark.parametrize("name", SOURCES)
def test_a_room_includes_only_what_it_may(name: str) -> None:
    allowed = MAY_INCLUDE[_room(name)]
    wrong = [i for i in _includes(SOURCES[name]) if i not in allowed and _room(i) not in allowed]
    assert not wrong


def test_every_include_of_our_own_says_its_room() -> None:
    assert not [(name, i) for name, text in SOURCES.items() for i in _includes(text) if i not in SOURCES]


def test_an_operator_includes_no_other() -> None:
    for name, text in SOURCES.items():
        if _room(name) == "operators":
            own = name.rsplit("/", 1)[0] + "/"
            assert not [i for i in _includes(text) if i.startswith("operators/") and not i.startswith(own)], name


def test_only_the_list_of_operators_names_one() -> None:
    named = {name for name, text in SOURCES.items() if _room(name) != "operators" and OPERATOR_WORDS.search(text)}
    assert named == {"register.cc"}


def test_kernels_know_no_onnxruntime() -> None:
    for name, text in SOURCES.items():
        if _room(name) == "kernels":
            assert "abi::" not in text, name
            assert not re.search(r"\bOrt[A-Z]|#include.*onnxruntime", text), name


def test_instruction_sets_stay_in_the_kernels_and_the_ceilings() -> None:
    named = {_room(name) for name, text in SOURCES.items() if "immintrin.h" in text or "arm_neon.h" in text}
    assert named <= {"kernels", "ceilings"}


def test_the_operating_system_stays_in_its_room() -> None:
    headers = re.compile(r"#include <(unistd|dlfcn|pthread|windows|sys/.*)\.h>")
    named = {name for name, text in SOURCES.items() if headers.search(text)}
    # The permission for AMX is a system call of Linux alone; the CUDA backend is built for Linux alone.
    assert named == {"platform/os.cc", "kernels/isa/isa.cc", "cuda/cublas_lt.cc"}


def test_symbols_are_exported_by_the_entries_alone() -> None:
    exporting = {
        name for name, text in SOURCES.items() if re.search(r"^MYLINEAR_EXPORT|^extern \"C\"", text, re.MULTILINE)
    }
    assert exporting == {"register.cc", "ceilings/measure.cc", "cuda/backend.cc"}


def test_the_library_that_onnxruntime_loads_knows_no_cuda() -> None:
    in_backend = {f"cuda/{name}" for name in ("backend.cc", "cublas_lt.h", "current_device.h", "error.h")}
    for name, text in SOURCES.items():
        if name not in in_backend and not name.startswith("cuda/device/"):
            # The kit has it for the libraries of others; nothing of this one includes that.
            assert name == "ort/cuda/kernel.h" or not re.search(r"#include <cu(da_|blas)", text), name
        assert (_room(name) == "ort" and "/cuda/" in name) or '#include "ort/cuda/' not in text, name


def test_files_stay_short() -> None:
    """At most about 300 lines; the declaration of the ABI is one table and says so."""
    long = {name: text.count("\n") for name, text in SOURCES.items() if text.count("\n") > 300}
    assert set(long) <= {"ort/abi.h"}, long
