"""Integers beyond 2^53 reach a model of integers as they are: float64 on the way would round them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from ort_ops.batch import Predictor
from ort_ops.files.inputs import InputError
from ort_ops.prediction.columns import Column, feature_names, to_json
from ort_ops.prediction.metadata import COLUMNS_KEY, FEATURES_KEY

BIG = 2**53 + 1  # float64 has only its neighbours


def identity(dtype: str, columns: tuple[Column, ...]) -> Predictor:
    """Return a predictor that gives its columns back."""
    made, kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = [made.make_tensor_value_info(name, kind, ["n", len(columns)]) for name in "xy"]
    graph = made.make_graph([made.make_node("Identity", ["x"], ["y"])], "same", value[:1], value[1:])
    proto = made.make_model(graph, opset_imports=[made.make_opsetid("", 17)], ir_version=8)
    names = json.dumps(feature_names(columns))
    onnx.helper.set_model_props(proto, {FEATURES_KEY: names, COLUMNS_KEY: to_json(columns)})
    return Predictor(proto.SerializeToString())


@pytest.mark.parametrize("beside", ["int64", "int32", "uint64", "float64", "bool"])
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_large_integers_stay_exact_beside_a_column_of_another_type(dtype: str, beside: str) -> None:
    got = identity(dtype, (Column("a"), Column("b")))({"a": np.array([BIG, 5]), "b": np.array([1, 0], beside)})
    assert got["y"].dtype == dtype
    assert got["y"].tolist() == [[BIG, 1], [5, 0]]


def test_large_integers_stay_exact_beside_a_missing_one() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    table = pa.table({"a": [BIG, None], "b": [None, BIG + 2]})
    assert identity("int64", (Column("a", fill=7.0), Column("b", fill=-1.0)))(table).column("y").to_pylist() == [
        [BIG, -1],
        [7, BIG + 2],
    ]


def test_a_missing_value_that_is_no_integer_is_refused_where_it_would_round_the_others() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    table = pa.table({"a": [BIG, None], "b": [1, 2]})
    columns = (Column("a", fill=0.5), Column("b"))
    with pytest.raises(InputError, match="row 1"):
        identity("int64", columns)(table)
    assert identity("float64", columns)(table).column("y").to_pylist() == [[float(BIG), 1.0], [0.5, 2.0]]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_of_floats_gets_the_nearest(dtype: str) -> None:
    numbers = np.array([-(2**63), 2**62 + 2**10, BIG, 5])
    got = identity(dtype, (Column("a"), Column("b")))({"a": numbers, "b": np.zeros(4)})
    assert got["y"][:, 0].tolist() == numbers.astype(dtype).tolist()
