"""The float64 copy of a model: every kind of attribute, in graphs, bodies and functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ort_ops.analysis.evaluator import make_evaluator
from ort_ops.analysis.widen import widen_to_float64
from ort_ops.cli import main as cli
from ort_ops.models.checks import function_difference
from ort_ops.rewrite.report import Extent
from ort_ops.rewrite.rewrite import adopt
from tests.linear_model import make_linear_model
from tests.rewrite.small_models import B, W, constant, model_of, node, run

TENSOR = numpy_helper.from_array(W, "t")
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(W[0, :2].copy(), "values"), numpy_helper.from_array(np.array([0, 3])), [4]
)


def referring(made: onnx.NodeProto, name: str, parameter: str, kind: Any) -> onnx.NodeProto:
    """Let an attribute of the node be one of the function's."""
    made.attribute.append(AttributeProto(name=name, ref_attr_name=parameter, type=kind))
    return made


def shifted_layer() -> onnx.ModelProto:
    """``cast(x W) + shift + scale``: `shift` from the call of a function within a function, the others defaults."""
    inner = helper.make_function(
        "local", "Shift", ["X"], ["Y"],
        [
            referring(helper.make_node("Cast", ["X"], ["C"]), "to", "kind", AttributeProto.INT),
            referring(helper.make_node("Constant", [], ["s"]), "value_float", "shift", AttributeProto.FLOAT),
            referring(helper.make_node("Constant", [], ["v"]), "value_floats", "more", AttributeProto.FLOATS),
            node("Add", "C s", "D"), node("Add", "D v", "Y"),
        ],
        [helper.make_opsetid("", 20)], ["shift"],
        [helper.make_attribute("kind", int(TensorProto.FLOAT)), helper.make_attribute("more", [0.3])],
    )  # fmt: skip
    call = referring(helper.make_node("Shift", ["p"], ["Y"], domain="local"), "shift", "by", AttributeProto.FLOAT)
    outer = helper.make_function(
        "local", "Layer", ["X", "W"], ["Y"], [node("MatMul", "X W", "p"), call],
        [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)], ["by"],
    )  # fmt: skip
    nodes = [node("MatMul", "x U", "h"), helper.make_node("Layer", ["h", "W"], ["y"], domain="local", by=0.1)]
    return model_of(nodes, {"U": np.eye(3, dtype=np.float32), "W": W}, functions=[outer, inner])


def test_a_function_s_attributes_are_widened_at_its_calls() -> None:
    model = shifted_layer()
    onnx.checker.check_model(model, full_check=True)
    wide = widen_to_float64(model)
    x = np.random.default_rng(0).standard_normal((5, 3))
    (got,) = make_evaluator(wide).run(None, {"x": x})
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, x @ W.astype(np.float64) + np.float32(0.1) + np.float32(0.3), rtol=1e-14)


def test_adopt_compares_a_model_whose_function_refers_to_an_attribute(tmp_path: Path) -> None:
    onnx.save(shifted_layer(), tmp_path / "m.onnx")
    result = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert len(result.rewritten) == 1
    assert any(check.extent is Extent.WHOLE for check in result.checks), result.checks
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), run(tmp_path / "m.onnx", x), rtol=1e-5, atol=1e-6)


def test_a_definition_that_refers_to_an_attribute_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_linear_model(["batch", 3], W.T.copy(), B)
    perm = model.functions[0].node[0].attribute[0]
    perm.ClearField("ints")
    perm.ref_attr_name = "order"
    model.functions[0].attribute_proto.append(helper.make_attribute("order", [1, 0]))
    told = function_difference(model)
    assert told is not None
    assert "is not the contract's" in told
    onnx.save(model, tmp_path / "m.onnx")
    for command in (["adopt", "m.onnx", "a.onnx"], ["inspect", "m.onnx"]):
        assert cli.main([command[0], *(str(tmp_path / name) for name in command[1:])]) in (1, 2)
        written = capsys.readouterr()
        assert "is not the contract's" in written.err + written.out


def test_every_kind_of_attribute_is_widened() -> None:
    body = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value_float=0.1), node("Add", "a b", "c")], "body",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT16, [4])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT16, [4])],
        [numpy_helper.from_array(W[0].astype(np.float16), "stored")],
        sparse_initializer=[SPARSE],
    )  # fmt: skip
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [4]))
    given = {
        "tensor": TENSOR, "tensors": [TENSOR], "sparse": SPARSE, "sparses": [SPARSE], "graph": body, "graphs": [body],
        "of_type": helper.make_optional_type_proto(sequence), "of_types": [sequence], "text": "text",
        "texts": ["more", "text"], "number": 0.1, "whole": 1, "to": int(TensorProto.BFLOAT16),
    }  # fmt: skip
    other = helper.make_node("Other", ["x"], ["z"], domain="elsewhere", to=1, dtype=1)
    model = model_of([node("Cast", "x", "y", **given), other], {"W": W})
    model.graph.sparse_initializer.append(SPARSE)
    wide = widen_to_float64(model)
    text = str(wide.graph)
    tensors = [tensor.data_type for tensor in wide.graph.initializer]
    (cast, kept) = wide.graph.node
    attributes = {attribute.name: attribute for attribute in cast.attribute}
    for tensor in (
        attributes["tensor"].t, *attributes["tensors"].tensors, attributes["sparse"].sparse_tensor.values,
        attributes["sparses"].sparse_tensors[0].values, wide.graph.sparse_initializer[0].values,
    ):  # fmt: skip
        tensors.append(tensor.data_type)
    for graph in (attributes["graph"].g, *attributes["graphs"].graphs):
        tensors += [graph.initializer[0].data_type, graph.sparse_initializer[0].values.data_type]
        tensors += [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
        tensors.append(graph.node[0].attribute[0].t.data_type)
    tensors.append(attributes["of_type"].tp.optional_type.elem_type.sequence_type.elem_type.tensor_type.elem_type)
    tensors.append(attributes["of_types"].type_protos[0].sequence_type.elem_type.tensor_type.elem_type)
    tensors.append(attributes["to"].i)
    assert set(tensors) == {TensorProto.DOUBLE}
    assert (attributes["whole"].i, attributes["text"].s) == (1, b"text")
    assert [attribute.i for attribute in kept.attribute] == [1, 1], "what another domain means by it is not known"
    assert "elem_type: 1\n" not in text
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT, "a copy"


def test_what_is_float32_by_default_is_widened() -> None:
    nodes = [
        constant("n", np.array([4])), node("ConstantOfShape", "n", "zeros"), node("HannWindow", "size", "window"),
        node("Add", "zeros window", "y"),
    ]  # fmt: skip
    wide = widen_to_float64(model_of(nodes, {"size": np.array(4)}, y_shape=(4,)))
    inferred = onnx.shape_inference.infer_shapes(wide, check_type=True, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert types["zeros"] == types["window"] == TensorProto.DOUBLE
