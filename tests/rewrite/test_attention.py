"""Products that onnxruntime's own fusion of attentions wants stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops.rewrite.rewrite import adopt

HIDDEN, HEADS = 8, 2


def attention_model(
    *, heads: tuple[int, ...] = (0, 0, HEADS, HIDDEN // HEADS), is_masked: bool = True
) -> onnx.ModelProto:
    """Return a block of BERT: projections, masked Softmax, the output's projection and the sum with x."""
    generator = np.random.default_rng(0)
    make = helper.make_node
    nodes = [make("LayerNormalization", ["x", "scale", "shift"], ["n"], axis=-1)]
    for name, perm in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            make("MatMul", ["n", f"w{name}"], [f"{name}1"], name=f"matmul_{name}"),
            make("Add", [f"{name}1", f"b{name}"], [f"{name}2"]),
            make("Reshape", [f"{name}2", "heads"], [f"{name}3"]),
            make("Transpose", [f"{name}3"], [f"{name}4"], perm=perm),
        ]
    nodes += [
        make("Unsqueeze", ["mask"], ["m1"], axes=[1]),
        make("Unsqueeze", ["m1"], ["m2"], axes=[2]),
        make("Cast", ["m2"], ["m3"], to=TensorProto.FLOAT),
        make("Sub", ["unit", "m3"], ["m4"]),
        make("Mul", ["m4", "far"], ["m5"]),
        make("MatMul", ["q4", "k4"], ["qk"]),
        make("Div", ["qk", "root"], ["scaled"]),
        make("Add", ["scaled", "m5"], ["masked"]),
        make("Softmax", ["masked" if is_masked else "scaled"], ["weights"], axis=3),
        make("MatMul", ["weights", "v4"], ["context"]),
        make("Transpose", ["context"], ["context1"], perm=(0, 2, 1, 3)),
        make("Reshape", ["context1", "joined"], ["context2"]),
        make("MatMul", ["context2", "wo"], ["o1"], name="matmul_o"),
        make("Add", ["o1", "bo"], ["o2"]),
        make("Add", ["o2", "n"], ["y"]),
    ]
    arrays = {f"w{name}": generator.standard_normal((HIDDEN, HIDDEN)).astype(np.float32) for name in "qkvo"}
    arrays |= {f"b{name}": generator.standard_normal(HIDDEN).astype(np.float32) for name in "qkvo"}
    arrays |= {"scale": np.ones(HIDDEN, np.float32), "shift": np.zeros(HIDDEN, np.float32)}
    arrays |= {
        "root": np.array([2], np.float32),
        "unit": np.array([1], np.float32),
        "far": np.array([-1e4], np.float32),
    }
    arrays |= {"heads": np.array(heads), "joined": np.array([0, 0, HIDDEN])}
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", HIDDEN]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", "length"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", HIDDEN])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)


def optimized(path: Path) -> list[str]:
    """Return the operators that onnxruntime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def test_its_projections_are_left_and_still_fused(tmp_path: Path) -> None:
    onnx.save(attention_model(), tmp_path / "in.onnx")
    assert "Attention" in optimized(tmp_path / "in.onnx")
    result = adopt(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert [entry.name for entry in result.rewritten] == ["matmul_o"]
    reasons = {left.name: str(left.reason) for left in result.left}
    for name in "qkv":
        assert "an attention that onnxruntime fuses" in reasons[f"matmul_{name}"]
    assert "Attention" in optimized(tmp_path / "out.onnx")
    header, rows = result.table()
    assert any("onnxruntime fuses" in row[-1] and row[header.index("nodes")] == "3" for row in rows)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(attention_model(heads=(1, 3, HEADS, HIDDEN // HEADS)), id="another Reshape"),
        pytest.param(attention_model(is_masked=False), id="no mask"),
    ],
)
def test_what_onnxruntime_does_not_fuse_is_adopted(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "in.onnx")
    assert "Attention" not in optimized(tmp_path / "in.onnx")
    result = adopt(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert len(result.rewritten) == 4
