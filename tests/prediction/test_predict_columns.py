"""`mylinear run` on a model that knows its columns and classes: nothing is taken for something else."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ort_ops.files.inputs import InputError
from ort_ops.prediction.columns import Column, feature_names, to_json
from ort_ops.prediction.metadata import CLASSES_KEY, COLUMNS_KEY, FEATURES_KEY
from ort_ops.prediction.predict import predict
from ort_ops.session import InferenceSession
from tests.linear_model import make_linear_model

COLUMNS = (Column("width", fill=10.0), Column("colour", categories=("blue", "red")))


def served(weight: Any, metadata: dict[str, str], bias: Any = None) -> InferenceSession:
    weight = np.array(weight, np.float64)
    model = make_linear_model(["batch", weight.shape[1]], weight, None if bias is None else np.array(bias, np.float64))
    onnx.helper.set_model_props(model, metadata)
    return InferenceSession(model.SerializeToString(), kernels="body")


@pytest.fixture(scope="module")
def named() -> InferenceSession:
    return served([[2.0, 3.0]], {FEATURES_KEY: json.dumps(["width", "height"])}, [4.0])


@pytest.fixture(scope="module")
def mixed() -> InferenceSession:
    metadata = {FEATURES_KEY: json.dumps(feature_names(COLUMNS)), COLUMNS_KEY: to_json(COLUMNS)}
    return served([[1.0, 100.0, 1000.0]], metadata)


@pytest.fixture(scope="module")
def classifier() -> InferenceSession:
    metadata = {FEATURES_KEY: json.dumps(["a", "b"]), CLASSES_KEY: json.dumps(["iris", "rose", "tulip"])}
    return served([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], metadata)


def run(session: InferenceSession, source: object, **options: Any) -> list[str]:
    stream = io.StringIO()
    predict(session, str(source), stream=stream, **options)
    return stream.getvalue().splitlines()


def csv(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text)
    return path


# Headers


@pytest.mark.parametrize("text", ["width,height\n3,2\n", "height,id,width\n2,x,3\n", "3,2\n", "height;width\n2;3\n"])
def test_columns_are_found_by_name_or_without_a_header_by_position(
    named: InferenceSession, tmp_path: Path, text: str
) -> None:
    assert run(named, csv(tmp_path, text)) == ["y", "16.0"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("height,breadth", "lacks 1 of the model's 2 columns: width; .* does not know: breadth; .* --positional"),
        ("height,2020", "lacks 1 of the model's 2 columns: width; .* does not know: 2020"),
        ("Width,Height", "lacks 2 of the model's 2 columns: width, height; .* does not know: Width, Height"),
        ("height,id,name", "lacks 1 .* does not know: id, name"),
        ("height", "lacks 1 .* does not know: none"),
        ("width,width,height", "line 1: two columns are called 'width'"),
    ],
)
def test_a_header_that_does_not_name_all_columns_is_refused_and_nothing_is_written(
    named: InferenceSession, tmp_path: Path, header: str, message: str
) -> None:
    path = csv(tmp_path, f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    output = tmp_path / "out.csv"
    with pytest.raises(InputError, match=message):
        predict(named, str(path), output)
    assert not output.exists()


def test_columns_are_taken_in_their_order_where_that_is_asked_for_and_told(
    named: InferenceSession, tmp_path: Path
) -> None:
    told: list[str] = []
    path = csv(tmp_path, "height,width\n3,2\n")
    assert run(named, path, positional=True, tell=told.append) == ["y", "16.0"]
    assert "in their order: width, height; its first line is taken as a header" in told[0]
    with pytest.raises(InputError, match="must have 2 columns: width, height; it has 3"):
        run(named, csv(tmp_path, "a,b,c\n1,2,3\n"), positional=True)


def test_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    session = served([[2.0, 3.0]], {FEATURES_KEY: json.dumps(["2020", "2021"])}, [4.0])
    assert run(session, csv(tmp_path, "2021,2020\n2,3\n")) == ["y", "16.0"]


def test_the_cost_of_a_header_grows_with_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20_000
    names = [f"c{i}" for i in range(count)]

    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    from ort_ops.prediction import rows as predict_input

    wanted = [Counted(name) for name in names]
    assert predict_input._places("rows.csv", [*map(Counted, reversed(names))], wanted) == [*range(count - 1, -1, -1)]  # type: ignore[arg-type]
    assert Counted.compared < 10 * count


# Categories and missing numbers


@pytest.mark.parametrize("text", ["colour,width\n red ,3\nblue,\nred,NA\n", "3,red\n,blue\nnan,red\n"])
def test_categories_and_missing_numbers_become_what_the_columns_say(
    mixed: InferenceSession, tmp_path: Path, text: str
) -> None:
    assert run(mixed, csv(tmp_path, text)) == ["y", "1003.0", "110.0", "1010.0"]


def test_text_and_arrays_are_treated_the_same_way(mixed: InferenceSession, tmp_path: Path) -> None:
    assert run(mixed, "3,red;,blue") == ["y", "1003.0", "110.0"]
    np.save(tmp_path / "rows.npy", [[3.0, 0.0, 1.0], [np.nan, 1.0, 0.0]])
    assert run(mixed, tmp_path / "rows.npy") == ["y", "1003.0", "110.0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour,width\nred,3\ngreen,3\n", r"line 3, column 'colour' must be one of .* blue, red, got 'green'"),
        ("colour,width\nred,3\n,3\n", r"line 3, column 'colour' must be one of .*, got nothing"),
        ("colour,width\nred,inf\n", r"line 2, column 'width' must be a finite number, got 'inf'"),
        ("colour,width\nred,1_000\n", r"line 2, column 'width' must be a finite number, got '1_000'"),
    ],
)
def test_a_cell_that_its_column_cannot_take_is_refused(
    mixed: InferenceSession, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(mixed, csv(tmp_path, text))


def test_a_missing_number_without_a_fill_is_refused(named: InferenceSession, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 3, column 'width': the value is missing \(it is 'nan'\); fill it in"):
        run(named, csv(tmp_path, "height,width\n1,2\n1,nan\n"))


def test_a_number_that_the_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 2], np.ones((1, 2), np.float16), None)
    session = InferenceSession(model.SerializeToString(), kernels="body")
    np.save(tmp_path / "rows.npy", [[1.0, 2.0], [1e5, 2.0]])
    for source in (csv(tmp_path, "1,2\n1e5,2\n"), tmp_path / "rows.npy"):
        with pytest.raises(InputError, match=r"row 2: 1e\+?0?5|row 2: 100000.0 is too large for the model's float16"):
            run(session, source)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({FEATURES_KEY: "width"}, "'mylinear.features' is broken: it is not JSON"),
        ({FEATURES_KEY: '"width"'}, "'mylinear.features' is broken: it must be a list of names"),
        ({FEATURES_KEY: "[" * 100_000}, "'mylinear.features' is broken"),
        ({FEATURES_KEY: '["a", "a"]'}, "two names are the same"),
        ({FEATURES_KEY: '["a", "b", "c"]'}, "names 3 inputs, and a row of the model has 2"),
        ({CLASSES_KEY: "[1, 2]"}, "'mylinear.classes' is broken"),
        ({COLUMNS_KEY: "[]"}, "'mylinear.columns' is broken: it must be a list of columns"),
        ({COLUMNS_KEY: '[{"name": "a", "fill": "b"}]'}, "fill of column 'a' must be a finite number"),
        ({COLUMNS_KEY: '[{"name": "a", "fill": NaN}]'}, "fill of column 'a' must be a finite number"),
        ({COLUMNS_KEY: '[{"name": "a", "categories": ["x", "x"]}]'}, "categories of column 'a' must be different"),
        ({COLUMNS_KEY: '[{"name": "a", "scale": 2}]'}, "'mylinear.columns' is broken"),
        ({FEATURES_KEY: '["a", "b"]', COLUMNS_KEY: '[{"name": "b"}, {"name": "a"}]'}, "does not go with"),
    ],
)
def test_broken_metadata_is_refused_by_name(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(served([[2.0, 3.0]], metadata), "1,2")


# Classes


def test_a_classifier_gives_class_and_probability(classifier: InferenceSession, tmp_path: Path) -> None:
    header, first, second = run(classifier, "3,2; 0,1000")
    assert header == "class,probability"
    name, probability = first.split(",")
    assert name == "iris"
    assert float(probability) == pytest.approx(1 / (1 + np.exp(-1) + np.exp(-3)), rel=1e-15)
    assert second == "rose,1.0"
    assert predict(classifier, "3,2", tmp_path / "out.npy") == 1
    stored = np.load(tmp_path / "out.npy")
    assert stored["class"].tolist() == ["iris"]
    assert stored["probability"].tolist() == [float(probability)]


def test_the_logits_are_there_for_the_asking(classifier: InferenceSession, tmp_path: Path) -> None:
    assert run(classifier, "3,2", raw=True) == ["y0,y1,y2", "3.0,2.0,0.0"]
    predict(classifier, "3,2", tmp_path / "out.npy", raw=True)
    assert np.load(tmp_path / "out.npy").tolist() == [[3.0, 2.0, 0.0]]


def test_what_is_no_class_is_never_named_one(classifier: InferenceSession, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", [[1.0, 2.0], [np.nan, 2.0]])
    with pytest.raises(InputError, match="row 2: the model gives nan, which is no class"):
        run(classifier, tmp_path / "rows.npy")
    assert run(classifier, tmp_path / "rows.npy", raw=True)[2].startswith("nan,")
    session = served([[2.0, 3.0]], {CLASSES_KEY: '["no", "yes"]'})
    with pytest.raises(InputError, match=r"names 2 classes and gives \[1\] numbers a row"):
        run(session, "1,2")
