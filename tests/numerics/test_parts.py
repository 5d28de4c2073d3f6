"""Products and their errors, computed for some columns at a time: the same numbers, in less memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.analysis.float64_run import Float64Run
from ort_ops.analysis.stored import Stored
from ort_ops.errors import ModelError
from ort_ops.numerics import sums
from ort_ops.numerics.products import exact_product
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.mylinear.contract import DOMAIN, NAME

Array = NDArray[Any]
WIDTH = 1536
WEIGHT_NBYTES = 4 * WIDTH**2


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_PART_SIZES", (40, 60))
    monkeypatch.setattr(sums, "_MIN_COLUMNS", 3)


@pytest.mark.parametrize("lies_by_columns", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2,), (4,), (5,), (2, 3), (0,), (2, 0)], ids=str)
def test_parts_have_the_numbers_of_the_whole(shape: tuple[int, ...], lies_by_columns: bool, small_parts: None) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((*shape, 7))
    b = rng.standard_normal((17, 7)).astype(np.float32).T
    b = b if lies_by_columns else np.ascontiguousarray(b)
    wide = b.astype(np.float64)
    for bias in (None, rng.standard_normal(17).astype(np.float32), np.float32(3), rng.standard_normal((*shape, 1))):
        expected = np.matmul(a, wide) + (0 if bias is None else bias)
        for got in (
            exact_product(a, b, None if bias is None else np.asarray(bias)),
            sums.wide_product(a, b, None if bias is None else np.asarray(bias)),
        ):
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-14)
        total, size = sums.sum_size(a, b, ELEMENT_TYPES["float32"], None if bias is None else np.asarray(bias))
        whole = sums._sum_size(a, wide, ELEMENT_TYPES["float32"], None if bias is None else np.asarray(bias))
        np.testing.assert_allclose(total, whole[0], rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(size, whole[1], rtol=1e-5)


def test_a_sum_that_overflows_in_one_part_is_added_anew_there(small_parts: None) -> None:
    a = np.array([[1e300, 1e300, -1e300]])
    b = np.ones((3, 40))
    b[:, 25:] *= 1e8
    b[2, 25:] *= 1.5  # not 2: kernels that add products without rounding them do not end at 0 then
    np.testing.assert_allclose(exact_product(a, b), a @ (b / 1e8) * 1e8)


def beside(folder: Path, name: str, array: Array, offset: int = 3) -> onnx.TensorProto:
    """Write a tensor's numbers into a file beside the model; at an odd place NumPy copies what it takes from them."""
    (folder / f"{name}.data").write_bytes(bytes(offset) + array.tobytes())
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", f"{name}.data"), ("offset", str(offset)), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_a_model_in_float64_takes_less_than_one_of_its_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 40 for _ in range(4)]
    nodes = [
        helper.make_node("Gather", ["w0", "x"], ["rows"]),
        helper.make_node(NAME, ["rows", "w1"], ["a"], domain=DOMAIN),
        helper.make_node("Gemm", ["a", "w2"], ["b"], transB=1),
        helper.make_node("MatMul", ["b", "w3"], ["y"]),
    ]
    values = [helper.make_tensor_value_info("x", 7, ["n"]), helper.make_tensor_value_info("y", 1, ["n", WIDTH])]
    stored = [beside(tmp_path, f"w{i}", weight, 64) for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "large", values[:1], values[1:], stored)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    run = Float64Run(helper.make_model(graph, opset_imports=imports, ir_version=9), tmp_path)
    rows = np.array([5, 900])
    tracemalloc.start()
    found = run({"x": rows}).outputs["y"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    w0, w1, w2, w3 = (weight.astype(np.float64) for weight in weights)
    np.testing.assert_allclose(found.exact, w0[rows] @ w1.T @ w2.T @ w3, rtol=1e-12, atol=1e-12)
    assert (found.error > 0).all()
    assert peak < WEIGHT_NBYTES, f"{peak} bytes"


def test_a_large_tensor_is_mapped_and_not_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((600, 600)).astype(np.float32)
    for dtype in ("float32", "float16", "bfloat16"):
        other = array.astype(helper.tensor_dtype_to_np_dtype(ELEMENT_TYPES[dtype].onnx_type))
        stored = Stored(beside(tmp_path, "w", np.tile(other, (2, 2))), tmp_path)
        tracemalloc.start()
        found = stored.load()
        assert tracemalloc.get_traced_memory()[0] < 100_000
        tracemalloc.stop()
        assert found.dtype == other.dtype
        np.testing.assert_array_equal(found, np.tile(other, (2, 2)))
        assert not found.flags.writeable
    (tmp_path / "w.data").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"^the model: its external data 'w\.data' is truncated"):
        stored.load()
    (tmp_path / "w.data").unlink()
    with pytest.raises(ModelError, match=r"^the model: its external data 'w\.data' is missing"):
        stored.load()


def test_small_tensors_come_as_before(tmp_path: Path) -> None:
    for array in (np.arange(6, dtype=np.int64), np.zeros((0, 3), np.float32)):
        tensor = numpy_helper.from_array(array)
        np.testing.assert_array_equal(Stored(tensor).load(), array)
        np.testing.assert_array_equal(Stored(beside(tmp_path, "small", array), tmp_path).load(), array)
