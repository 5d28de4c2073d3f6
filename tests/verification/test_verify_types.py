"""Models whose inputs have any element type: verified, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from exporter.verification.verify import verify
from tests.verification.test_verify_inputs import linear, saved, whole_rows


def typed(path: Path, element_type: int) -> Path:
    """A model whose input has this element type, and is made numbers of by a comparison or a cast."""
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT), linear("h")]
    tensors = {}
    if element_type == TensorProto.STRING:
        nodes[:1] = [
            helper.make_node("Equal", ["x", "a"], ["e"]),
            helper.make_node("Cast", ["e"], ["h"], to=TensorProto.FLOAT),
        ]
        tensors["a"] = np.array(["a"], object)
    return saved(path, nodes, {"x": (element_type, ["batch", 4])}, tensors)


@pytest.mark.parametrize("name", ["STRING", "BOOL", "INT8", "UINT8", "INT16", "UINT32", "INT64", "FLOAT16", "DOUBLE"])
def test_inputs_of_every_element_type(name: str, tmp_path: Path) -> None:
    element_type = TensorProto.DataType.Value(name)
    path = typed(tmp_path / "m.onnx", element_type)
    result = verify(path, batch_sizes=[2], compile_backend=None)
    assert result.is_ok, result.table()
    assert "batch 2" in whole_rows(result), result.notes
    x = (
        np.array([["a", "b", "", "a"]])
        if name == "STRING"
        else np.ones((1, 4)).astype(helper.tensor_dtype_to_np_dtype(element_type))
    )
    np.savez(tmp_path / "real.npz", x=x)
    result = verify(path, inputs=[tmp_path / "real.npz"], compile_backend=None)
    assert whole_rows(result) == {"real.npz"} | ({"edge values"} if name in ("FLOAT16", "DOUBLE") else set())
    assert result.is_ok, result.table()


def test_a_type_of_which_onnxruntime_takes_no_arrays_is_named(tmp_path: Path) -> None:
    result = verify(typed(tmp_path / "m.onnx", TensorProto.FLOAT8E4M3FN), batch_sizes=[2], compile_backend=None)
    assert not whole_rows(result)
    assert result.conclusion() == "parity holds for each node alone; the whole model was not run"
    told = (
        "nothing can be drawn for input 'x', which is a tensor of float8_e4m3fn, of which onnxruntime takes no arrays"
    )
    assert any(told in note for note in result.notes)
