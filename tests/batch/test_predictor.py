"""`ort_ops.batch.Predictor`: every kind of batch gives what a session gives, and every bad one a clear error."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ort_ops.batch import Predictor, sessions
from ort_ops.files.inputs import InputError
from ort_ops.prediction.arrow import ArrowTable
from ort_ops.prediction.columns import Column, feature_names, to_json
from ort_ops.prediction.metadata import CLASSES_KEY, COLUMNS_KEY, FEATURES_KEY
from tests.linear_model import make_linear_model

ROWS = np.array([[3.0, 2.0], [-1.0, 0.5], [0.0, 0.0]])
WANTED = ROWS @ [[2.0], [3.0]] + 4


def model(metadata: dict[str, str] | None = None, dtype: Any = np.float64, batch: str | int = "batch") -> bytes:
    proto = make_linear_model([batch, 2], np.array([[2.0, 3.0]], dtype), np.array([4.0], dtype))
    onnx.helper.set_model_props(
        proto, {FEATURES_KEY: json.dumps(["width", "height"])} if metadata is None else metadata
    )
    return proto.SerializeToString()


def two_inputs() -> bytes:
    """Return a model of ``a + b.sum(-1)`` and ``a`` itself."""
    made, value = onnx.helper, onnx.helper.make_tensor_value_info
    double, axes = onnx.TensorProto.DOUBLE, onnx.numpy_helper.from_array(np.array([-1]), "axes")
    graph = made.make_graph(
        [
            made.make_node("ReduceSum", ["b", "axes"], ["s"], keepdims=0),
            made.make_node("Add", ["a", "s"], ["total"]),
            made.make_node("Identity", ["b"], ["same"]),
        ],
        "two",
        [value("a", double, ["n"]), value("b", double, ["n", 2])],
        [value("total", double, ["n"]), value("same", double, ["n", 2])],
        [axes],
    )
    return made.make_model(graph, opset_imports=[made.make_opsetid("", 18)], ir_version=9).SerializeToString()


def test_arrays_and_dictionaries() -> None:
    predictor = Predictor(model(), batch_size=2, keep=["id"])
    np.testing.assert_array_equal(predictor(ROWS), WANTED)
    got = predictor({"height": ROWS[:, 1], "id": np.arange(3), "width": ROWS[:, 0].astype(np.float32)})
    assert [*got] == ["id", "y"]
    np.testing.assert_array_equal(got["y"], WANTED)
    np.testing.assert_array_equal(got["id"], [0, 1, 2])
    assert predictor({"height": ROWS[:0, 1], "id": ROWS[:0], "width": ROWS[:0, 0]})["y"].shape == (0, 1)


def test_arrow() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    table = pa.table({"id": ["a", "b", "c"], "height": ROWS[:, 1], "width": ROWS[:, 0]})
    predictor = Predictor(model(), keep="all")
    for batch in (table, table.to_batches()[0], pa.concat_tables([table[:1], table[1:]]), table.slice(1)):
        got = predictor(batch)
        assert type(got) is type(batch)
        assert got.schema.names == ["id", "height", "width", "y"]
        assert got.column("y").to_pylist() == WANTED[3 - batch.num_rows :].tolist()
    schema = predictor.arrow_schema(table.schema)
    assert schema == predictor(table.to_batches()[0]).schema
    assert schema.field("y").type == pa.list_(pa.float64())


def test_pandas() -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas, which the extra spark has")
    pytest.importorskip("pyarrow", reason="needs the extra arrow")
    frame = pd.DataFrame({"height": ROWS[:, 1], "width": ROWS[:, 0], "id": ["a", "b", "c"]}, index=[7, 8, 9])
    got = Predictor(model(), keep=["id"])(frame)
    assert [*got.columns] == ["id", "y"]
    assert [*got.index] == [7, 8, 9]
    np.testing.assert_array_equal(np.stack(got["y"]), WANTED)
    with pytest.raises(InputError, match=r"the batch row 2, column 'width' has no value; fill it in"):
        Predictor(model())(frame.assign(width=[1.0, np.nan, 2.0]))
    got = Predictor(model(), keep=["0"])(frame.rename(columns={"id": 0}))
    assert got[0].tolist() == ["a", "b", "c"]
    with pytest.raises(InputError, match="two columns of the same name: height, width, width"):
        Predictor(model())(frame.rename(columns={"id": "width"}))


def test_classes_come_by_name(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    proto = make_linear_model(["batch", 2], np.eye(2), None)
    onnx.helper.set_model_props(
        proto, {FEATURES_KEY: json.dumps(["a", "b"]), CLASSES_KEY: json.dumps(["rose", "tulip"])}
    )
    onnx.save(proto, tmp_path / "m.onnx")
    table = pa.table({"a": [1.0, 0.0], "b": [0.0, 5.0]})
    got = Predictor(tmp_path / "m.onnx")(table)
    assert got.column("class").to_pylist() == ["rose", "tulip"]
    assert got.column("probability").to_pylist() == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-5))])
    raw = Predictor(tmp_path / "m.onnx", raw=True)
    assert raw(table).column("y").to_pylist() == [[1, 0], [0, 5]]
    assert Predictor(tmp_path / "m.onnx")(ROWS)["class"].tolist() == ["rose", "tulip", "rose"]


def test_lists_make_an_input_and_so_do_columns_of_one_s_choice() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    unnamed = model({})
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 2)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS)
    for column in (fixed, pa.array(ROWS.tolist()), pa.array(ROWS.tolist(), pa.large_list(pa.float32())), tensors):
        table = pa.table({"x": column, "rows": column})
        for predictor in (Predictor(unnamed), Predictor(unnamed, columns=["rows"])):
            assert predictor(table).column("y").to_pylist() == WANTED.tolist()
            assert predictor(table.slice(1, 1)).column("y").to_pylist() == WANTED[1:2].tolist()
    assert Predictor(unnamed)({"p": ROWS[:, 0], "q": ROWS[:, 1]})["y"].tolist() == WANTED.tolist()
    other = Predictor(unnamed, columns=["q", "p"])({"p": ROWS[:, 1], "q": ROWS[:, 0], "r": ROWS})
    assert other["y"].tolist() == WANTED.tolist()


def test_a_tensor_whose_dimensions_lie_in_another_order() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    storage = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(24.0)), 6)
    for shape, order in (([2, 3], [1, 0]), ([2, 1, 3], [2, 0, 1])):
        column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), shape, permutation=order), storage)
        wanted = np.arange(24.0).reshape(4, *shape).transpose(0, *(axis + 1 for axis in order))
        for start in (0, 1):
            got = ArrowTable(pa.table({"x": column.slice(start)})).column("x")[0]
            np.testing.assert_array_equal(got, wanted[start:])


def test_several_inputs_and_outputs() -> None:
    arrays = {"a": np.array([1.0, 2.0]), "b": np.array([[1.0, 2.0], [3.0, 4.0]])}
    got = Predictor(two_inputs(), batch_size=1)(arrays)
    assert got["total"].tolist() == [4, 9]
    assert got["same"].tolist() == arrays["b"].tolist()
    flat = {"k": arrays["a"], "b0": arrays["b"][:, 0], "b1": arrays["b"][:, 1]}
    got = Predictor(two_inputs(), columns={"a": "k", "b": ["b0", "b1"]})(flat)
    assert got["total"].tolist() == [4, 9]
    with pytest.raises(InputError, match="an array is for a model with one input and one output"):
        Predictor(two_inputs())(ROWS)
    with pytest.raises(InputError, match="columns must be a dictionary, by input"):
        Predictor(two_inputs(), columns=["a", "b"])(arrays)
    with pytest.raises(InputError, match=r"columns must name the model's inputs \['a', 'b'\], got \['a'\]"):
        Predictor(two_inputs(), columns={"a": "k"})(flat)


def test_missing_values_and_categories_are_those_of_training() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    columns = (Column("width", fill=10.0), Column("colour", categories=("blue", "red")))
    proto = make_linear_model(["batch", 3], np.array([[1.0, 100.0, 1000.0]]), None)
    onnx.helper.set_model_props(
        proto, {FEATURES_KEY: json.dumps(feature_names(columns)), COLUMNS_KEY: to_json(columns)}
    )
    predictor = Predictor(proto.SerializeToString())
    for colours in (pa.array(["red", "blue"]), pa.array(["red", "blue"]).dictionary_encode()):
        got = predictor(pa.table({"colour": colours, "width": pa.array([None, 2], pa.int32())}))
        assert got.column("y").to_pylist() == [[1010], [102]]
    with pytest.raises(
        InputError, match=r"row 2, column 'colour' must be one of the categories blue, red, got 'green'"
    ):
        predictor({"colour": np.array(["red", "green"]), "width": np.zeros(2)})
    with pytest.raises(
        InputError, match=r"row 1, column 'colour' must be one of the categories blue, red, got nothing"
    ):
        predictor(pa.table({"colour": pa.array([None], pa.string()), "width": [1.0]}))


BAD_ARROW: list[tuple[Any, str]] = [
    ([1.0, None, 2.0], r"the batch row 2, column 'width' has no value; fill it in or leave the row out"),
    ([None] * 3, r"the batch row 1, column 'width' has no value"),
    (["1", "2", "3"], r"the batch column 'width' must hold numbers, got text"),
    ([[1.0], [2.0], [3.0]], r"the batch column 'width' must hold one value in each row, got \[1\]"),
    ([[1.0], [2.0, 3.0], [3.0]], r"the batch row 2, column 'width' must hold lists of the same length, got 2 after 1"),
    ([{"a": 1}] * 3, r"the batch column 'width' must hold numbers, text or lists of them, got struct<a: int64>"),
]


@pytest.mark.parametrize(("cells", "message"), BAD_ARROW, ids=[str(i) for i in range(len(BAD_ARROW))])
def test_a_bad_column_is_one_clear_error(cells: list[Any], message: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    with pytest.raises(InputError, match=message):
        Predictor(model())(pa.table({"width": cells, "height": [1.0, 2.0, 3.0]}))


BAD: list[tuple[Any, str]] = [
    ({"width": np.zeros(2)}, "the batch lacks 1 of the model's 2 columns: height; it has width"),
    ({"width": np.zeros(2), "height": np.zeros(3)}, "must have the same number of rows, got"),
    ({"width": np.zeros(2), "height": np.array([1, None])}, "'height' must hold numbers or text, got an object of"),
    ({"width": np.zeros(2), "height": np.array([None] * 2)}, "column 'height' must hold numbers, got text"),
    ({"width": np.zeros(2), "height": np.array(["1", "2"])}, "column 'height' must hold numbers, got text"),
    ({"width": np.zeros(2), "height": np.zeros(2, complex)}, "must hold numbers or text, got dtype complex128"),
    (np.ma.masked_array(ROWS, ROWS < 0), "the batch row 2, column 'x' has a masked value; fill it in or leave the row"),
    (np.zeros((2, 3)), r"must have rows of shape \[2\], as the model's input, got \[3\]"),
    ([1.0], "a batch must be a NumPy array, a dictionary of arrays, an Arrow RecordBatch or Table, or a pandas"),
]


@pytest.mark.parametrize(("batch", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_batch_is_one_clear_error(batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictor(model())(batch)


def test_bad_arguments_are_one_clear_error() -> None:
    for arguments in ({"columns": "x"}, {"keep": "id"}, {"threads": 0}, {"batch_size": 0}):
        with pytest.raises(InputError, match=r"must be (lists of names|1 or more)"):
            Predictor(model(), **arguments)
    with pytest.raises(InputError, match="lacks columns to keep: id; it has width, height"):
        Predictor(model(), keep=["id"])({"width": np.zeros(1), "height": np.zeros(1)})
    with pytest.raises(InputError, match="columns to keep are called like results: y; rename them"):
        Predictor(model(), keep="all")({"width": np.zeros(1), "height": np.zeros(1), "y": np.zeros(1)})
    with pytest.raises(InputError, match="the model takes exactly 2 rows at a time, and the batch has 3"):
        Predictor(model(batch=2))(ROWS)
    with pytest.raises(InputError, match=r"row 1: 1e\+300 is too large for the model's float32"):
        Predictor(model(dtype=np.float32))({"width": np.array([1e300]), "height": np.zeros(1)})


def test_a_model_without_names_takes_no_guess() -> None:
    with pytest.raises(InputError, match=r"must have a column for each input of the model, \{'x': \['batch', 2\]\}"):
        Predictor(model({}))({"p": np.zeros(1), "q": np.zeros(1), "r": np.zeros(1)})


def test_it_travels_without_its_session_and_a_process_has_one(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model())
    predictor = Predictor(tmp_path / "m.onnx")
    before = pickle.dumps(predictor)
    assert predictor(ROWS).tolist() == WANTED.tolist()
    assert pickle.dumps(predictor) == before
    again = pickle.loads(before)
    assert again.session is predictor.session
    (tmp_path / "new.onnx").write_bytes(model(dtype=np.float32))
    os.replace(tmp_path / "new.onnx", tmp_path / "m.onnx")
    assert again.session is not Predictor(model()).session
    assert again(ROWS).dtype == np.float32


def test_the_number_of_sessions_is_bounded() -> None:
    for number in range(sessions.MAX_SESSIONS + 2):
        Predictor(model({"number": str(number)}))(ROWS)
    assert len(sessions._served) == sessions.MAX_SESSIONS


@pytest.mark.parametrize(("text", "count"), [("", 1), ("2", 2), ("3,1", 3)])
def test_threads_are_what_the_engine_gives(text: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    options = Predictor(model()).session.get_session_options()
    assert options.intra_op_num_threads == count
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert Predictor(model(), threads=2).session.get_session_options().intra_op_num_threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(InputError, match="OMP_NUM_THREADS must be a number of threads, 1 or more, got 'many'"):
        Predictor(model())(ROWS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_session_and_ends() -> None:
    predictor = Predictor(model(), threads=2)
    parent = predictor.session
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        answers.put((predictor(ROWS).tolist(), predictor.session is parent))

    process = context.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert answers.get() == (WANTED.tolist(), False)
    assert predictor.session is parent
