"""Integers beyond 2^53 reach a model as they are, or are refused: float64 on the way would round them."""

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
    half = identity("float32", (Column("a", fill=0.5), Column("b", fill=1.0)))
    with pytest.raises(InputError, match=f"row 1, column 'a' has {BIG}, which float64 does not have"):
        half(table)


@pytest.mark.parametrize("value", [BIG, -BIG, 2**63 - 1, 2**64 - 1])
def test_an_integer_that_float64_does_not_have_is_refused(value: int) -> None:
    predictor = identity("float64", (Column("a"), Column("b")))
    column = np.array([2**53, value], np.uint64 if value > 2**63 else np.int64)
    with pytest.raises(InputError, match=f"row 2: the model's float64 does not have the whole number {value}; scale"):
        predictor({"a": column, "b": np.zeros(2)})
    held = np.array([-(2**63), 2**62 + 2**10, 2**53 + 2])
    assert predictor({"a": held, "b": np.zeros(3)})["y"][:, 0].tolist() == held.astype(float).tolist()
