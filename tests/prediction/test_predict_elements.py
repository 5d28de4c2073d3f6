"""`mylinear run` on inputs of every ONNX element type that onnxruntime takes, with and without our operators."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ort_ops.cli import main as cli
from ort_ops.files.inputs import InputError
from ort_ops.prediction.predict import predict
from ort_ops.session import InferenceSession

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def identity(element_type: int, columns: int = 2) -> bytes:
    x, y = (helper.make_tensor_value_info(name, element_type, ["batch", columns]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    ).SerializeToString()
    return data


def served(name: str) -> InferenceSession:
    return InferenceSession(identity(number(name)))


def number(name: str) -> int:
    return TensorProto.STRING if name == "string" else int(helper.np_dtype_to_tensor_dtype(np.dtype(name)))


def run(session: InferenceSession, source: str, told: list[str] | None = None) -> list[str]:
    stream = io.StringIO()
    predict(session, source, stream=stream, tell=([] if told is None else told).append)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("form", ["text", "csv", "csv with header", "npy", "npy of another type"])
def test_whole_numbers_come_through_exactly(name: str, form: str, tmp_path: Path) -> None:
    limits = np.iinfo(name)
    rows = [[int(limits.min), 1], [2, int(limits.max)]]
    text = [",".join(map(str, row)) for row in rows]
    source = str(tmp_path / ("rows.npy" if form.startswith("npy") else "rows.csv"))
    if form == "text":
        source = "; ".join(text)
    elif form.startswith("csv"):
        header = ["a,b"] if form == "csv with header" else []
        Path(source).write_text("\n".join([*header, *text]))
    else:
        np.save(source, np.array(rows, name if form == "npy" or name == "uint64" else "int64"))
    assert run(served(name), source) == ["y0,y1", *text]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("wrong", ["beyond", "below", "0.5", "1e30", "1_0", "one", "", "nan", "inf"])
def test_what_an_integer_type_does_not_hold_is_refused(name: str, wrong: str, tmp_path: Path) -> None:
    limits = np.iinfo(name)
    cell = {"beyond": str(limits.max + 1), "below": str(limits.min - 1)}.get(wrong, wrong)
    (tmp_path / "rows.csv").write_text(f"1,2\n3,{cell}\n")
    with pytest.raises(InputError) as raised:
        run(served(name), str(tmp_path / "rows.csv"))
    message = str(raised.value)
    assert "rows.csv' " in message
    assert "2" in message
    assert any(words in message for words in ("whole numbers from", "a finite number", "the value is missing"))
    assert "\n" not in message


@pytest.mark.parametrize("cells", ["true,false", "1,0", "True,FALSE"])
def test_booleans(cells: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"{cells}\n")
    assert run(served("bool"), str(tmp_path / "rows.csv")) == ["y0,y1", "True,False"]
    np.save(tmp_path / "rows.npy", np.array([[True, False]]))
    assert run(served("bool"), str(tmp_path / "rows.npy")) == ["y0,y1", "True,False"]


def test_text(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "rows.csv").write_text('grün,"a, b"\n, 1 \n', encoding="utf-8")
    assert run(served("string"), str(tmp_path / "rows.csv"), told) == ["y0,y1", 'grün,"a, b"', ", 1 "]
    assert told == [f"'{tmp_path / 'rows.csv'}': columns are taken in their order; its first line is taken as a row"]
    np.save(tmp_path / "rows.npy", np.array([["ä", "b"], ["", "longer"]]))
    assert run(served("string"), str(tmp_path / "rows.npy")) == ["y0,y1", "ä,b", ",longer"]
    with pytest.raises(InputError, match=r"must be an existing \.csv, \.npy, .* file, for a model that takes text"):
        run(served("string"), "rows.cvs,b")


@pytest.mark.parametrize(
    ("model", "array", "message"),
    [
        ("int32", np.array([[0.5, 1.0]]), "row 1: the model's int32 must be whole numbers from .* got 0.5"),
        ("int32", np.array([[1, 2**40]]), "row 1: the model's int32 must be whole numbers from .* got 1099511627776"),
        (
            "int64",
            np.array([[1, 2**63]], np.uint64),
            "int64 must be whole numbers .* got 9223372036854775808",
        ),
        ("uint8", np.array([[1, -1]]), "the model's uint8 must be whole numbers from 0 to 255, got -1"),
        ("int64", np.array([[1.0, 2.0**60]]), "the model's int64 must be whole numbers"),
        ("int64", np.array([[1.0, np.nan]]), "the model's int64 must be whole numbers .* got nan"),
        ("bool", np.array([[1, 2]]), "the model's bool must be whole numbers from 0 to 1, got 2"),
        ("int32", np.array([["a", "b"]]), "must hold numbers, got dtype <U1"),
        ("float32", np.array([["a", "b"]]), "must hold numbers, got dtype <U1"),
        ("string", np.array([[1, 2]]), "must hold text, got dtype int64"),
        ("string", np.array([[b"a", b"b"]]), r"must hold text, got dtype \|S1"),
        ("float32", np.array([[1j, 2]]), "must hold numbers, got dtype complex128"),
        ("float32", np.array([[1e300, 2]]), "too large for the model's float32"),
    ],
    ids=str,
)
def test_a_wrong_dtype_in_a_npy_file_is_one_line(model: str, array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", array)
    with pytest.raises(InputError, match=message) as raised:
        run(served(model), str(tmp_path / "rows.npy"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("code", [0x7FFFFFFF, 0x110000, 0xD800])
def test_text_that_is_no_text_is_refused(code: int, tmp_path: Path) -> None:
    array = np.array([["ab", "cd"], ["ef", "gh"]])
    array.view(np.uint32)[1, 1] = code
    np.save(tmp_path / "rows.npy", array)
    with pytest.raises(InputError, match=f"row 2: {code:#x} is no character of a text"):
        run(served("string"), str(tmp_path / "rows.npy"))


def test_a_type_that_onnxruntime_takes_no_arrays_of_is_one_line() -> None:
    with pytest.raises(InputError, match=r"must be a tensor of float64, .* or string, got tensor\(float8e4m3fn\)"):
        run(InferenceSession(identity(TensorProto.FLOAT8E4M3FN)), "1,2")


def test_a_model_without_our_operators_runs_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(identity(TensorProto.INT64))
    np.save(tmp_path / "rows.npy", np.arange(8).reshape(4, 2))
    command = ["run", str(tmp_path / "m.onnx"), "--input", str(tmp_path / "rows.npy"), "--batch-size", "1"]
    assert cli.main([*command, "--output", str(tmp_path / "y.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.arange(8).reshape(4, 2))
    err = capsys.readouterr().err
    assert err.count("has no node of a registered operator; onnxruntime's own kernels ran it") == 1
    assert err.splitlines()[-1].endswith("y.npy: 4 rows")


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_floats_keep_their_type(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([[0.5, 2]], name))
    predict(served(name), str(tmp_path / "rows.npy"), tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").dtype == name
    onnx.checker.check_model(onnx.load_model_from_string(identity(number(name))))


def test_an_error_of_a_model_without_our_operators_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_output = onnx.load_model_from_string(identity(TensorProto.INT64))
    del without_output.graph.output[:]
    (tmp_path / "m.onnx").write_bytes(without_output.SerializeToString())
    assert cli.main(["run", str(tmp_path / "m.onnx"), "--input", "1,2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "mylinear: the model must have an output, got none"
