"""What the C++ kernels refuse, in the words of the contract, and how the Python package explains a missing library."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

from ort_ops.opdef import registry
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.contract import MYLINEAR, check_arguments, infer_shape
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2
from tests.native_support import (
    Array,
    Case,
    error_in_bounds,
    make_model,
    node,
    one_node_model,
    run,
    session,
    session_options,
    value,
)

pytestmark = pytest.mark.native

BAD_SHAPES = [
    ([], [5, 3], [5]),
    ([2, 3], [3, 5], None),
    ([2, 3], [5, 4], [5]),
    ([2, 3], [5], None),
    ([2, 3], [5, 3, 1], None),
    ([2, 3], [], None),
    ([2, 3], [5, 3], [4]),
    ([2, 3], [5, 3], [5, 1]),
    ([2, 3], [5, 3], []),
    ([2, 3], [5, 3], [1]),
    ([0], [5, 3], [5]),
    ([2, 0], [0, 3], None),
]


def _contract_message(*shapes: list[int] | None) -> str:
    with pytest.raises(ContractError) as caught:
        infer_shape(shapes)
    return str(caught.value)


def _model_of(shapes: dict[str, list[int]], constants: dict[str, Array]) -> onnx.ModelProto:
    fed = {name: shape for name, shape in shapes.items() if name not in constants}
    inputs = [value(name, "float32", [f"{name}{axis}" for axis in range(len(shape))]) for name, shape in fed.items()]
    output = onnx.ValueInfoProto(name="Y")
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    return make_model([node(*shapes)], inputs, [output], constants)


@pytest.mark.parametrize("constants", ["", "W", "B", "WB"])
@pytest.mark.parametrize(("x", "weight", "bias"), BAD_SHAPES, ids=str)
def test_shapes_that_break_the_contract(
    x: list[int], weight: list[int], bias: list[int] | None, constants: str
) -> None:
    shapes = {"X": x, "W": weight} | ({} if bias is None else {"B": bias})
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    model = _model_of(shapes, {name: arrays[name] for name in constants if name in arrays})
    feeds = {name: array for name, array in arrays.items() if name not in constants}
    with pytest.raises(Exception) as caught:  # noqa: PT011 - onnxruntime has a class per code
        session(model).run(None, feeds)
    message = _contract_message(x, weight, bias)
    assert message in str(caught.value) or _at_creation(shapes, constants) in str(caught.value)


def _at_creation(shapes: dict[str, list[int]], constants: str) -> str:
    """What is said before x is known; a message that cannot occur if nothing is wrong with the constants."""
    known = [shapes.get(name) if name in constants else None for name in "XWB"]
    try:
        infer_shape(known)
    except ContractError as error:
        return str(error)
    return "\0"


@pytest.mark.parametrize("name", ["W", "B"])
def test_constants_are_checked_when_the_session_is_made(name: str) -> None:
    shapes = {"X": [2, 3], "W": [5, 3], "B": [5]}
    constants = {"W": np.ones((5, 3), np.float32), "B": np.ones(5, np.float32)}
    constants[name] = np.ones((5, 3, 1), np.float32)
    message = _contract_message(None, [*constants["W"].shape], [*constants["B"].shape])
    with pytest.raises(Exception, match="initialization") as caught:
        session(_model_of(shapes, constants))
    assert message in str(caught.value)


@pytest.mark.parametrize("attribute", [{"alpha": 0.5}, {"transB": 1}, {"alpha": 1.0, "beta": 2.0}])
def test_attributes_of_gemm_are_refused(attribute: dict[str, float]) -> None:
    model = one_node_model("float32", 2, {"W": np.ones((2, 2), np.float32)}, has_bias=False)
    model.graph.node[0].attribute.extend(helper.make_attribute(*item) for item in attribute.items())
    with pytest.raises(ContractError) as expected:
        MYLINEAR_2.check_attributes(attribute)
    with pytest.raises(Exception, match="attributes") as caught:
        session(model)
    assert str(expected.value) in str(caught.value)


@pytest.mark.parametrize("dtype", [TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT8E4M3FN, TensorProto.STRING])
def test_other_element_types_are_refused_by_onnxruntime(dtype: int) -> None:
    inputs = [helper.make_tensor_value_info(name, dtype, [2, 2]) for name in "XW"]
    model = make_model([node("X", "W")], inputs, [helper.make_tensor_value_info("Y", dtype, [2, 2])])
    with pytest.raises(Exception, match=r"invalid|Could not find|no kernel"):
        session(model)


def test_mixed_element_types_are_refused_by_onnxruntime() -> None:
    model = make_model(
        [node("X", "W")],
        [value("X", "float32", [2, 2]), value("W", "float64", [2, 2])],
        [value("Y", "float32", [2, 2])],
    )
    with pytest.raises(Exception, match=r"Could not find an implementation|no kernel def matches|does not match|Type"):
        session(model)


def test_sizes_that_overflow_are_refused() -> None:
    x = np.zeros((2**60, 0), np.float32)
    with pytest.raises(
        Exception, match=r"MYLINEAR: y must be smaller than 2\^63 bytes, got \[1152921504606846976, 5\]"
    ):
        run(x, np.zeros((5, 0), np.float32), None, True)


def test_outputs_beyond_memory_are_an_error() -> None:
    x = np.zeros((2**45, 0), np.float32)
    with pytest.raises(Exception, match="MYLINEAR"):
        run(x, np.zeros((5, 0), np.float32), None, False)


def test_a_failed_run_leaves_the_session_usable() -> None:
    x, weight, _ = Case((2,), 3, 4).sample()
    opened = session(one_node_model("float32", 2, {}, has_bias=False))
    with pytest.raises(Exception, match="is it transposed"):
        opened.run(None, {"X": x, "W": np.ascontiguousarray(weight.T[:, :3])[[0, 1, 2, 3]]})
    assert error_in_bounds(opened.run(None, {"X": x, "W": weight})[0], x, weight, None) <= 1


@pytest.mark.parametrize("name", ["avx1024", "AVX2", " "])
def test_unknown_isa_is_refused_at_registration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        Exception, match=f"MYLINEAR: MYLINEAR_ISA must be one of .*baseline on this machine, got {name}"
    ):
        session_options(name)
    monkeypatch.setenv(native.ISA_VARIABLE, name)
    found = native.status()
    assert found.isa is None
    assert found.reason is not None
    assert "correct or unset MYLINEAR_ISA" in found.reason
    with pytest.raises(native.NativeLibraryError, match="MYLINEAR_ISA must be one of"):
        native.library_path()


def test_isa_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in native.status().usable_isas:
        monkeypatch.setenv(native.ISA_VARIABLE, isa)
        assert native.status().isa == isa
    monkeypatch.setenv(native.ISA_VARIABLE, "")
    assert native.status().isa == native.status().usable_isas[0]


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="Linux lists what the CPU has")
def test_the_usable_isas_are_what_linux_lists() -> None:
    listed = re.search(r"^flags.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert listed is not None
    flags = set(listed[0].split())
    avx2 = {"avx2", "fma", "f16c"}
    avx512 = avx2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    needed = {"avx512_bf16": avx512 | {"avx512_bf16"}, "avx512": avx512, "avx2": avx2, "baseline": set()}
    expected = [isa for isa in native.status().compiled_isas if isa in needed and needed[isa] <= flags]
    assert [isa for isa in native.status().usable_isas if isa != "amx_bf16"] == expected


def test_library_path_is_absolute_text() -> None:
    path = native.library_path()
    assert isinstance(path, str)
    assert Path(path).is_absolute()
    onnxruntime.SessionOptions().register_custom_ops_library(path)


def test_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(native.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(native, "_directories", lambda: [tmp_path])
    with pytest.raises(native.NativeLibraryError, match=r"no C\+\+ kernels.*install a C\+\+17 compiler"):
        native.library_path()
    assert native.status().path is None


def test_library_variable_must_name_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(tmp_path / "missing.so"))
    with pytest.raises(native.NativeLibraryError, match="MYLINEAR_LIBRARY names no file"):
        native.library_path()


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + b"\0" * 100])
def test_damaged_library_says_so(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(content)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(damaged))
    with pytest.raises(native.NativeLibraryError, match="does not load"):
        native.library_path()


def test_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.0.9")
    with pytest.raises(native.NativeLibraryError, match=r"is of version .*, the Python package of 0\.0\.9"):
        native.library_path()


def test_a_library_that_lacks_an_operator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.library_path("MYLINEARGRAD") == native.library_path()
    described = native.describe(native.library_path(), "mylinear_describe")
    described["operators"] = [o for o in described["operators"] if o["name"] != "MYLINEARGRAD"]
    monkeypatch.setattr(native, "describe", lambda *_: described)
    assert native.library_path("MYLINEAR")
    with pytest.raises(native.NativeLibraryError, match="has no MYLINEARGRAD: it was built from older sources"):
        native.library_path("MYLINEARGRAD")


def test_only_the_documented_symbols_are_exported_and_nothing_heavy_is_linked() -> None:
    try:
        defined = subprocess.run(
            ["nm", "-D", "--defined-only", native.library_path()], capture_output=True, text=True, check=True
        ).stdout
        dynamic = subprocess.run(
            ["readelf", "-d", native.library_path()], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("needs binutils (nm, readelf)")
    symbols = {line.split()[-1].split("@")[0] for line in defined.splitlines()}
    python = {f"mylinear_python_{name}" for name in ("attach", "detach", "select")}
    ceilings = {f"mylinear_ceiling_{name}" for name in ("flops", "isa", "read")}
    assert symbols == {"RegisterCustomOps", "mylinear_describe", "mylinear_cuda_describe"} | python | ceilings
    needed = [line for line in dynamic.splitlines() if "NEEDED" in line]
    assert needed
    assert not [line for line in needed if any(name in line for name in ("onnxruntime", "python", "cuda", "cublas"))]
    assert "NODELETE" in dynamic


def test_python_and_native_say_the_same_of_the_element_types() -> None:
    with pytest.raises(ContractError) as caught:
        check_arguments([[2, 3], [5, 3]], ["int32", "int32"])
    found = {}
    for described in native.describe(native.library_path(), "mylinear_describe")["operators"]:
        operator = registry.find(described["domain"], described["name"], described["since_version"])
        assert operator is not None
        found[described["name"]] = {variable["name"]: variable["types"] for variable in described["types"]}
        variables = operator.operator.variables
        # a kernel may serve newer versions too, with more variables
        assert found[described["name"]].items() >= {v.name: list(v.dtypes) for v in variables}.items()
    *head, last = found[MYLINEAR.name]["T"]
    assert f"must be {', '.join(head)} or {last}, got" in str(caught.value)
