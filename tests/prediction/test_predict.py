"""`mylinear run`: every form of input and output, and every bad row."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops.files.atomic import OutputError
from ort_ops.files.inputs import InputError
from ort_ops.prediction.metadata import FEATURES_KEY
from ort_ops.prediction.predict import predict
from ort_ops.session import InferenceSession
from tests.linear_model import make_linear_model


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    model = make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0]))
    return InferenceSession(model.SerializeToString(), kernels="body")


@pytest.fixture(scope="module")
def session_with_features() -> InferenceSession:
    model = make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0]))
    onnx.helper.set_model_props(model, {FEATURES_KEY: json.dumps(["width", "height"])})
    return InferenceSession(model.SerializeToString(), kernels="body")


def run_text(session: InferenceSession, source: str, **options: int) -> list[str]:
    stream = io.StringIO()
    predict(session, source, stream=stream, **options)  # type: ignore[arg-type]
    return stream.getvalue().splitlines()


def test_rows_in_text(session: InferenceSession) -> None:
    assert run_text(session, "3,2") == ["y", "16.0"]
    assert run_text(session, "3,2; -1, 0.5") == ["y", "16.0", "3.5"]


@pytest.mark.parametrize("header", ["", "a,b\n"])
def test_csv_with_and_without_header(session: InferenceSession, header: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}3,2\n\n-1,0.5\n")
    assert run_text(session, str(path)) == ["y", "16.0", "3.5"]


def test_columns_are_taken_by_name_where_the_model_knows_them(
    session_with_features: InferenceSession, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("target,height,width\n9,2,3\n")
    assert run_text(session_with_features, str(path)) == ["y", "16.0"]


def test_batches_give_what_one_run_gives(session: InferenceSession, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((25, 2))
    np.save(tmp_path / "rows.npy", rows)
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", fmt="%.17g")
    for name in ("rows.npy", "rows.csv"):
        output = tmp_path / f"out_{name}.npy"
        assert predict(session, str(tmp_path / name), output, batch_size=4) == 25
        np.testing.assert_allclose(np.load(output), rows @ [[2.0], [3.0]] + 4, rtol=1e-14)
    assert predict(session, str(tmp_path / "rows.npy"), tmp_path / "out.csv", batch_size=7) == 25
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "out.csv", skiprows=1), np.load(output)[:, 0])


def test_long_input_shows_progress(
    session: InferenceSession, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ort_ops.prediction.predict.BLOCK_ROWS", 3)
    np.save(tmp_path / "rows.npy", np.zeros((10, 2)))
    predict(session, str(tmp_path / "rows.npy"), tmp_path / "out.csv", batch_size=3)
    assert "10/10" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["int64", "int8", "uint64", "uint16", "bool"])
def test_models_of_integers_take_whole_numbers_that_they_hold(name: str, tmp_path: Path) -> None:
    tensor_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name))
    x, y = (onnx.helper.make_tensor_value_info(value, tensor_type, ["batch", 1]) for value in ("x", "y"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 20)]
    served = InferenceSession(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString(), kernels="body"
    )
    assert run_text(served, "1; 0")[1:] == (["True", "False"] if name == "bool" else ["1", "0"])
    bad = {"int64": "9223372036854775808", "int8": "128", "uint64": "-1", "uint16": "65536", "bool": "2"}[name]
    for text in (bad, "0.5"):
        with pytest.raises(
            InputError, match=rf"row 2: the model's {name} must be whole numbers from .* got {text[:8]}"
        ):
            run_text(served, f"1; {text}")
    if name == "int64":
        for text in ("9007199254740993", "-9223372036854775808", "9223372036854775807"):  # float64 rounds the first
            assert run_text(served, text) == ["y", text]
        np.save(tmp_path / "rows.npy", np.array([[2**63 - 1]]))
        assert run_text(served, str(tmp_path / "rows.npy")) == ["y", str(2**63 - 1)]
        with pytest.raises(InputError, match="the value is missing"):
            run_text(served, "nan")


def test_nd_arrays_and_other_dtypes(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 3, 2], np.array([[2.0, 3.0]], np.float16), None)
    served = InferenceSession(model.SerializeToString(), kernels="body")
    np.save(tmp_path / "rows.npy", np.ones((2, 3, 2), np.int32))
    assert predict(served, str(tmp_path / "rows.npy"), tmp_path / "out.npy") == 2
    assert np.load(tmp_path / "out.npy").tolist() == [[[5.0]] * 3] * 2
    with pytest.raises(InputError, match=r"give it as a \.npy file"):
        predict(served, "1,2", stream=io.StringIO())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        ("a,b\n", "has no rows"),
        ("1,2\n3,x\n", r"line 2, column 2 must be a finite number, got 'x'"),
        ("a,b\n1,2\n3,\n", r"line 3, column 2: the value is missing; fill it in or leave the row out"),
        ("1,2,3\n", "must have 2 columns; it has 3"),
        ("1,2\n1,2,3\n", "line 2 must have 2 columns, got 3"),
        ("1,2\n\x00,1\n", r"is not a CSV file: it holds binary data \(line 2\)"),
    ],
)
def test_bad_csv(session: InferenceSession, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    output = tmp_path / "out.csv"
    with pytest.raises(InputError, match=message):
        predict(session, str(path), output, batch_size=1)
    assert not output.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.csv", "there is no file"),
        ("missing.npy", "there is no file"),
        ("1,2,3", "row 1 of '1,2,3' must have 2 numbers, got 3"),
        ("1,2;1", "row 2 of '1,2;1' must have 2 numbers, got 1"),
        ("one,two", "or numbers such as \"3,2\", got 'one,two'"),
    ],
)
def test_bad_sources(session: InferenceSession, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(session, source, stream=io.StringIO())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5)), r"must have shape \['batch', 2\], as the model's input, got \[3, 5\]"),
        (np.zeros(2), r"must have shape \['batch', 2\]"),
        (np.zeros((0, 2)), "has no rows"),
        (np.array([["a", "b"]]), "must hold numbers, got dtype <U1"),
    ],
)
def test_bad_npy(session: InferenceSession, array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", array)
    with pytest.raises(InputError, match=message):
        predict(session, str(tmp_path / "rows.npy"), stream=io.StringIO())


def test_a_damaged_npy_and_a_binary_csv(session: InferenceSession, tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(b"\x93NUMPY garbage")
    with pytest.raises(InputError, match=r"is not a \.npy file of numbers"):
        predict(session, str(tmp_path / "rows.npy"), stream=io.StringIO())
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00\x80,1\n")
    with pytest.raises(InputError, match="is not a CSV file: it is not UTF-8 text"):
        predict(session, str(tmp_path / "rows.csv"), stream=io.StringIO())


def test_bad_outputs(session: InferenceSession, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the output must be a \.csv, \.npy, \.parquet"):
        predict(session, "1,2", tmp_path / "out.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="part of the path is a file"):
        predict(session, "1,2", tmp_path / "file" / "out.csv")
    with pytest.raises(InputError, match="the batch size must be 1 or more, got 0"):
        predict(session, "1,2", tmp_path / "out.csv", batch_size=0)


def test_an_interrupted_run_leaves_the_old_output(
    session: InferenceSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((10, 2)))
    output = tmp_path / "out.csv"
    output.write_text("old")
    runs = iter([np.zeros((3, 1)), KeyboardInterrupt()])

    def run(*arguments: object) -> list[np.ndarray]:
        result = next(runs)
        if isinstance(result, BaseException):
            raise result
        return [result]

    monkeypatch.setattr(session, "run", run)
    with pytest.raises(KeyboardInterrupt):
        predict(session, str(tmp_path / "rows.npy"), output, batch_size=3)
    assert output.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "rows.npy"]
