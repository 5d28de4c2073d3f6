"""adopt and lower: what they keep, compare and write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops.cli import main as cli
from ort_ops.operators.mylinear import patterns
from ort_ops.operators.mylinear.contract import DOMAIN
from ort_ops.operators.mylinear.patterns import lowering as linear_lowering
from ort_ops.rewrite import files as rewrite_files
from ort_ops.rewrite.graph import editor as rewrite_editor
from ort_ops.rewrite.proof import whole as rewrite_whole
from ort_ops.rewrite.report import Extent
from ort_ops.rewrite.rewrite import RewriteError, adopt, lower
from tests.linear_model import make_linear_model
from tests.rewrite.small_models import RNG, B, W, model_of, node, operators, run


def test_names_metadata_documentation_opsets_and_quantisation_are_kept(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": W, "B": B}, opset=17)
    model.doc_string, model.graph.doc_string, model.producer_name = "a model", "a graph", "somebody"
    model.graph.node[0].doc_string = "a layer"
    helper.set_model_props(model, {"author": "me"})
    model.graph.input[0].doc_string = "pixels"
    model.opset_import.append(helper.make_opsetid("com.example", 3))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    annotation = onnx.TensorAnnotation(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    model.graph.quantization_annotation.append(annotation)
    onnx.save(model, tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    for name in ("a", "l"):
        got = onnx.load(tmp_path / f"{name}.onnx")
        assert (got.doc_string, got.graph.doc_string, got.producer_name) == ("a model", "a graph", "somebody")
        assert [(p.key, p.value) for p in got.metadata_props] == [("author", "me")]
        assert got.graph.node[0].doc_string == "a layer"
        assert got.graph.node[0].name == "node_p"
        assert got.graph.input[0] == model.graph.input[0]
        assert got.graph.output[0] == model.graph.output[0]
        assert list(got.graph.quantization_annotation) == [annotation]
        assert {e.domain: e.version for e in got.opset_import if e.domain != DOMAIN} == {"": 17, "com.example": 3}
        assert "scale" in {tensor.name for tensor in got.graph.initializer}
    assert not any(n.metadata_props for n in onnx.load(tmp_path / "l.onnx").graph.node)


def external_model(folder: Path) -> Path:
    big = RNG.standard_normal((300, 300)).astype(np.float32)
    model = model_of([node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": big, "B": big[0]}, ("batch", 300))
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_stays_external_in_one_file_beside_the_model(tmp_path: Path) -> None:
    source = external_model(tmp_path)
    (tmp_path / "out").mkdir()
    adopt(source, tmp_path / "out" / "a.onnx")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.onnx", "a.onnx.data"}
    x = RNG.standard_normal((2, 300)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "out" / "a.onnx", x), run(source, x), rtol=1e-4, atol=1e-4)
    adopt(source, source)
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data", "weights.bin", "out"}
    lower(source, source)
    np.testing.assert_allclose(run(source, x), run(tmp_path / "out" / "a.onnx", x), rtol=1e-4, atol=1e-4)


def test_a_model_too_large_for_one_file_gets_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite_files, "MAX_NBYTES_INSIDE", 1000)
    monkeypatch.setattr(rewrite_whole, "_MAX_NBYTES", 1000)
    weight = RNG.standard_normal((30, 30)).astype(np.float32)
    onnx.save(model_of([node("MatMul", "x W", "y")], {"W": weight}, ("batch", 30)), tmp_path / "m.onnx")
    result = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "a.onnx", "a.onnx.data"}
    unseen = "the whole model was not run, for its weights are more than 0 MiB"
    assert [str(check) for check in result.checks] == ["1 node one by one in float64", unseen]
    assert lower(tmp_path / "a.onnx", tmp_path / "l.onnx").checks == result.checks
    x = RNG.standard_normal((2, 30)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), x @ weight, rtol=1e-5, atol=1e-5)


def test_a_mistake_in_the_rewriter_is_found_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_editor, "scale", lambda array, factor: array * np.float32(1.00001))
    onnx.save(model_of([node("MatMul", "x W", "y")], {"W": W}), tmp_path / "m.onnx")
    with pytest.raises(RewriteError, match="the output of 'node_y' would change"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_an_infinity_hides_no_mistake_in_another_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_whole, "_MAX_NBYTES", 0)
    weight = W.copy()
    weight[0, 0] = np.inf
    onnx.save(model_of([node("MatMul", "x W", "y")], {"W": weight}), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    monkeypatch.setattr(rewrite_editor, "scale", lambda array, factor: array * np.float32(1.00001))
    with pytest.raises(RewriteError, match="the output of 'node_y' would change"):
        adopt(tmp_path / "m.onnx", tmp_path / "b.onnx")


@pytest.mark.parametrize(("form", "argument"), [("MatMul+Add", "weight"), ("Gemm+C", "weight"), ("Gemm+C", "bias")])
def test_a_mistake_in_lowering_a_layer_is_found_without_the_whole_model(
    form: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite_whole, "_MAX_NBYTES", 0)
    onnx.save(make_linear_model(("batch", 3) if form == "Gemm+C" else ("n", 2, 3), W.T.copy(), B), tmp_path / "m.onnx")
    made = linear_lowering.node_like

    def wrong(like: ir.Node, op_type: str, inputs: Any, *others: Any, **more: Any) -> ir.Node:
        index = {"weight": 1, "bias": 2}[argument]
        if index < len(inputs):
            tensor = ir.Tensor(inputs[index].const_value.numpy() * np.float32(1.00001))
            inputs[index] = ir.Value(name="wrong", const_value=tensor)
            like.graph.register_initializer(inputs[index])
        return made(like, op_type, inputs, *others, **more)

    monkeypatch.setattr(linear_lowering, "node_like", wrong)
    with pytest.raises(RewriteError, match="the output of 'linear' would change"):
        lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_mistake_in_the_rewriter_is_found_in_the_whole_model_and_the_first_tensor_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "check_layer", lambda *arguments: True)
    monkeypatch.setattr(rewrite_editor, "scale", lambda array, factor: array * np.float32(1.00001))
    nodes = [node("Relu", "x", "r"), node("MatMul", "r W", "h"), node("Neg", "h", "y")]
    onnx.save(model_of(nodes, {"W": W}), tmp_path / "m.onnx")
    with pytest.raises(RewriteError, match=r"tensor 'h' would change, says .*the first at"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_lower_of_models_made_here_takes_gemm_for_matrices_and_drops_the_absent_bias(tmp_path: Path) -> None:
    weight = RNG.standard_normal((4, 3)).astype(np.float32)
    expected = {("batch", 3): "Gemm", ("batch", 5, 3): "MatMul"}
    for shape, op_type in expected.items():
        onnx.save(make_linear_model(shape, weight, None), tmp_path / "m.onnx")
        lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
        assert operators(onnx.load(tmp_path / "l.onnx")) == [op_type]
        x = RNG.standard_normal([5 if d == "batch" else d for d in shape]).astype(np.float32)
        np.testing.assert_allclose(run(tmp_path / "l.onnx", x), x @ weight.T, rtol=1e-5, atol=1e-6)


def test_a_computed_weight_is_transposed_when_the_lowered_model_runs(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 5, 3], W.T.copy(), B)
    model.graph.node.insert(0, helper.make_node("Abs", ["weight"], ["computed"]))
    model.graph.node[1].input[1] = "computed"
    onnx.save(model, tmp_path / "m.onnx")
    lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
    assert operators(onnx.load(tmp_path / "l.onnx")) == ["Abs", "Transpose", "MatMul", "Add"]


def test_the_quantiser_of_onnxruntime_runs_between_lower_and_adopt(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("U", "V")}
    nodes = [node("MatMul", "x U", "h"), node("Relu", "h", "r"), node("MatMul", "r V", "y")]
    onnx.save(model_of(nodes, weights, ("batch", 16), ("batch", 16)), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    quantize_dynamic(
        tmp_path / "l.onnx", tmp_path / "q.onnx", weight_type=QuantType.QInt8, nodes_to_quantize=["node_h"]
    )
    assert "MatMulInteger" in operators(onnx.load(tmp_path / "q.onnx"))
    result = adopt(tmp_path / "q.onnx", tmp_path / "qa.onnx")
    assert len(result.rewritten) == 1, "the layer that was not quantised"
    x = rng.standard_normal((4, 16)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "qa.onnx", x), run(tmp_path / "q.onnx", x), rtol=1e-4, atol=1e-4)
    exact = run(tmp_path / "m.onnx", x)
    assert np.abs(run(tmp_path / "qa.onnx", x) - exact).max() < 0.1 * np.abs(exact).max()


def test_onnxslim_runs_between_lower_and_adopt(tmp_path: Path) -> None:
    import onnxslim

    nodes = [
        node("MatMul", "x W", "p"), node("Add", "p B", "h"), node("Identity", "h", "i"), node("Relu", "i", "y"),
    ]  # fmt: skip
    onnx.save(model_of(nodes, {"W": W, "B": B}, y_shape=("batch", 4)), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    onnxslim.slim(str(tmp_path / "l.onnx"), str(tmp_path / "s.onnx"))
    assert len(operators(onnx.load(tmp_path / "s.onnx"))) < 4
    result = adopt(tmp_path / "s.onnx", tmp_path / "sa.onnx")
    assert len(result.rewritten) == 1
    x = RNG.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "sa.onnx", x), run(tmp_path / "m.onnx", x), rtol=1e-5, atol=1e-6)


def test_the_commands_print_a_summary_and_need_no_torch(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x W", "h"), node("MatMul", "h h", "y")]
    onnx.save(model_of(nodes, {"W": W[:, :3].copy()}, (3, 3)), tmp_path / "in.onnx")
    code = """
import sys
from ort_ops.cli.main import main
status = main(["adopt", "in.onnx", "out.onnx"]) or main(["lower", "out.onnx", "back.onnx"])
status = status or main(["adopt", "back.onnx", "again.onnx", "--json"])
assert "torch" not in sys.modules
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left alone: the weight is not a constant ('h' is computed by MYLINEAR)" in done.stdout
    assert "2 nodes became 2, 1 rewritten, 1 left alone" in done.stdout
    assert "compared: 1 node one by one in float64" in done.stdout
    assert '"what": "MatMul"' in done.stdout


def test_the_summary_has_one_row_for_what_differs_in_names_only(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x x", "h"), node("MatMul", "h h", "i"), node("MatMul", "i W", "j"), node("MatMul", "j W", "y"),
    ]  # fmt: skip
    onnx.save(model_of(nodes, {"W": W[:, :3].copy()}, (3, 3)), tmp_path / "m.onnx")
    reason = "the weight is not a constant ('x' is an input of the graph or function, and 1 more)"
    assert adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").table()[1] == [
        ["MatMul", "main graph", "2", "rewritten"],
        ["MatMul", "main graph", "2", f"left alone: {reason}"],
    ]


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes_is_rewritten_without_a_second_copy(tmp_path: Path) -> None:
    size = 24_000  # 2.3 GB of float32
    weight = ir.LazyTensor(
        lambda: ir.Tensor(np.eye(size, dtype=np.float32) * 2), ir.DataType.FLOAT, ir.Shape([size, size])
    )
    value = ir.Value(name="W", shape=ir.Shape([size, size]), type=ir.TensorType(ir.DataType.FLOAT), const_value=weight)
    proto = model_of([node("MatMul", "x W", "y")], {}, ("batch", size), ("batch", size))
    proto.graph.node[0].input[1] = "x"  # the weight comes in below
    model = ir.from_proto(proto)
    model.graph.register_initializer(value)
    model.graph[0].replace_input_with(1, value)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    del model, value, weight
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_DATA, (4_000_000_000,) * 2)  # memory of its own; mapped files do not count
from ort_ops.rewrite.rewrite import adopt, lower
adopt({str(tmp_path / "m.onnx")!r}, {str(tmp_path / "a.onnx")!r})
lower({str(tmp_path / "a.onnx")!r}, {str(tmp_path / "l.onnx")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    x = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    for name in ("a", "l"):
        np.testing.assert_array_equal(run(tmp_path / f"{name}.onnx", x), 2 * x)
        assert (tmp_path / f"{name}.onnx").stat().st_size < 10_000_000


def test_the_whole_model_is_compared_on_real_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What gives a shape cannot be drawn, and an index into one row must be 0."""
    nodes = [node("Gather", "one i", "g"), node("Add", "x g", "s"), node("Reshape", "s shape", "r")]
    model = model_of([*nodes, node("MatMul", "r w", "y")], {"w": W, "one": W[:1, :3]}, ("batch", 3), ("p", 4))
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [1]))
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
    source, target, file = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "i.npz"
    onnx.save(model, source)
    (check,) = [check for check in adopt(source, target).checks if not check.has_compared]
    assert str(check) == (
        "the whole model was not run: no numbers can be drawn for input 'shape': it gives the shape to Reshape "
        "'node_r'; give real inputs by --inputs file.npz"
    )
    feed = {"x": np.ones((2, 3), np.float32), "i": np.zeros(1, np.int64)}
    np.savez(file, **feed, shape=np.array([-1, 3]))
    assert cli.main(["adopt", str(source), str(target), "--inputs", str(file)]) == 0
    assert "compared: 4 tensors of the whole model in float64" in capsys.readouterr().out
    np.savez(file, **feed)
    assert cli.main(["adopt", str(source), str(target), "--inputs", str(file)]) == 2
    assert capsys.readouterr().err == f"mylinear: '{file}': it has no 'shape'\n"
    del model.graph.node[2], model.graph.input[2]
    model.graph.node[2].input[0] = "s"
    onnx.save(model, source)
    assert any((check.extent, check.count) == (Extent.WHOLE, 3) for check in adopt(source, target).checks)
