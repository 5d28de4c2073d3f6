"""adopt and lower for an operator that they do not know: by its body and by its pattern, everywhere in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ort_ops.cli import main as cli
from ort_ops.models.complete import complete_inputs
from ort_ops.models.nodes import attach_functions, operator_nodes
from ort_ops.opdef import registry
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.rewrite import adopt, lower
from ort_ops.rewrite.graph.editor import Editor
from ort_ops.rewrite.reasons import GraphCause, Reason, RewriteError
from ort_ops.rewrite.report import Extent
from ort_ops.rewrite.selection import SelectionError
from tests.rewrite.small_models import B, W, constant, node
from tests.rewrite.toy_operator import KIT, TOY, ToyCause

Array = NDArray[Any]
RNG = np.random.default_rng(4)
X = RNG.standard_normal((5, 3)).astype(np.float32)
S = RNG.standard_normal(3).astype(np.float32)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    registry.add(KIT)
    yield
    registry.remove(KIT)


def shifted(inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """One node; ``-`` for an absent input or output."""
    names = [["" if name == "-" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(TOY.name, *names, name=f"toy_{outputs.split()[0]}", domain=TOY.domain, **attributes)


def model_of(
    nodes: list[onnx.NodeProto],
    stored: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
    functions: list[onnx.FunctionProto] | None = None,
    dtype: int = TensorProto.FLOAT,
    domains: tuple[str, ...] = (TOY.domain,),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", dtype, ["batch", 3])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()],
    )  # fmt: skip
    for value in graph.output:
        value.type.tensor_type.elem_type = TensorProto.INT64 if value.name == "m" else dtype
        for dim in ("batch", "columns"):
            value.type.tensor_type.shape.dim.add(dim_param=dim)
    imports = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions or [])


def run(model: onnx.ModelProto, x: Array = X) -> list[Array]:
    """Run by plain onnxruntime, without any library of ours."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    results: list[Array] = session.run(None, {"x": x})
    return results


def lowered(model: onnx.ModelProto, folder: Path, **options: Any) -> tuple[onnx.ModelProto, Any]:
    onnx.save(model, folder / "m.onnx")
    result = lower(folder / "m.onnx", folder / "l.onnx", **options)
    return onnx.load(folder / "l.onnx"), result


def y_of(x: Array, alpha: float, shift: Any = 0) -> Array:
    y: Array = np.float32(alpha) * x + shift
    return y


def mask_of(y: Array, count: int) -> Array:
    return np.where(y > 0, count, 0)


CALLS: dict[str, tuple[onnx.NodeProto, tuple[str, ...], list[Array], list[str]]] = {
    "all there is": (
        shifted("x s c", "y m", alpha=2.5), ("y", "m"), [y_of(X, 2.5, S), mask_of(y_of(X, 2.5, S), 7)],
        ["CastLike", "Mul", "Add", "Sub", "Greater", "Sub", "Where"],
    ),
    "the default of the attribute": (
        shifted("x s", "y"), ("y",), [y_of(X, 1, S)], ["CastLike", "Mul", "Add"]
    ),
    "no shift": (
        shifted("x - c", "y m", alpha=-1.0), ("y", "m"), [y_of(X, -1), mask_of(y_of(X, -1), 7)],
        ["CastLike", "Mul", "Add", "Sub", "Greater", "Sub", "Where"],
    ),
    "an output that nobody takes": (
        shifted("x s c", "y m"), ("y",), [y_of(X, 1, S)], ["CastLike", "Mul", "Add"]
    ),
    "the second output alone": (
        shifted("x s c", "n m", alpha=3.0), ("m",), [mask_of(y_of(X, 3, S), 7)],
        ["CastLike", "Mul", "Add", "Sub", "Greater", "Sub", "Where"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_node_becomes_the_body_of_its_operator(name: str, tmp_path: Path) -> None:
    made, outputs, expected, operators = CALLS[name]
    model, result = lowered(model_of([made], {"s": S, "c": np.int64(7)}, outputs), tmp_path)
    onnx.checker.check_model(model, full_check=True)
    assert [each.op_type for each in model.graph.node if each.op_type != "Constant"] == operators
    assert [entry.domain for entry in model.opset_import] == [""]
    assert not model.functions
    (entry,) = result.rewritten
    assert (entry.what, entry.operator) == ("+".join(operators), TOY.op_type)
    for got, wanted in zip(run(model), expected, strict=True):
        assert got.dtype == (np.float32 if wanted.dtype == np.float32 else np.int64)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("count", [np.int32(3), np.int64(3)])
@pytest.mark.parametrize("has_function", [False, True])
def test_every_type_is_lowered(dtype: Any, count: Any, has_function: bool, tmp_path: Path) -> None:
    element_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of([shifted("x - c", "y m", alpha=2.0)], {"c": count}, ("y", "m"), dtype=element_type)
    model.graph.output[1].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(count.dtype)
    if has_function:
        complete_inputs(model)
        attach_functions(model)
    made, result = lowered(model, tmp_path)
    x = X.astype(dtype)
    y, mask = run(made, x)
    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(mask, np.where(x > 0, count, 0).astype(count.dtype))
    assert mask.dtype == count.dtype
    if has_function:
        assert [check.extent for check in result.checks] == [Extent.WHOLE]
        assert result.checks[-1].num_unbounded == 0
        np.testing.assert_array_equal(y, run(onnx.load(tmp_path / "m.onnx"), x)[0])


def inner_models() -> dict[str, tuple[onnx.ModelProto, Array]]:
    """Models with nodes in bodies and in functions, and what each gives of X."""

    def branch(name: str, alpha: float) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, ["batch", 3])
        return helper.make_graph([shifted("x s", f"y_{name}", alpha=alpha)], name, [], [output])

    condition = helper.make_node("If", ["go"], ["y"], then_branch=branch("a", 2.0), else_branch=branch("b", 3.0))
    body = helper.make_graph(
        [shifted("state", "next", alpha=0.5), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch", 3]),
        ],
    )
    loop = [constant("n", np.int64(3)), helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)]
    function = helper.make_function(
        "local", "Block", ["A", "C"], ["R"], [shifted("A - C", "v m", alpha=4.0), node("Neg", "v", "R")],
        [helper.make_opsetid("", 20), helper.make_opsetid(TOY.domain, 1)],
    )  # fmt: skip
    call = helper.make_node("Block", ["x", "c"], ["y"], domain="local")
    both = (TOY.domain, "local")
    return {
        "If": (model_of([condition], {"s": S, "go": np.bool_(True)}), y_of(X, 2, S)),
        "Loop": (model_of(loop), y_of(X, 0.125)),
        "a function": (model_of([call], {"c": np.int32(1)}, functions=[function], domains=both), y_of(X, -4)),
    }


@pytest.mark.parametrize("name", ["If", "Loop", "a function"])
def test_nodes_in_bodies_and_functions_are_lowered(name: str, tmp_path: Path) -> None:
    model, expected = inner_models()[name]
    made, result = lowered(model, tmp_path)
    onnx.checker.check_model(made, full_check=True)
    assert operator_nodes(made) == []
    assert len(result.rewritten) == (2 if name == "If" else 1)
    assert all(entry.domain != TOY.domain for owner in (made, *made.functions) for entry in owner.opset_import)
    np.testing.assert_allclose(run(made)[0], expected, rtol=1e-6, atol=1e-6)


def two_operators() -> onnx.ModelProto:
    linear = helper.make_node(MYLINEAR.name, ["h", "w", "b"], ["y"], "linear", domain=MYLINEAR.domain)
    return model_of(
        [shifted("x s", "h", alpha=2.0), linear], {"s": S, "w": W.T.copy(), "b": B}, domains=(TOY.domain, "mylinear")
    )


def test_a_model_with_two_operators_is_lowered_whole_or_in_part(tmp_path: Path) -> None:
    expected = y_of(X, 2, S) @ W + B
    model, result = lowered(two_operators(), tmp_path)
    assert [entry.operator for entry in result.rewritten] == [TOY.op_type, MYLINEAR.op_type]
    assert [entry.domain for entry in model.opset_import] == [""]
    np.testing.assert_allclose(run(model)[0], expected, rtol=1e-5, atol=1e-5)
    model, result = lowered(two_operators(), tmp_path, operators=[MYLINEAR.op_type])
    assert [each.op_type for each in model.graph.node] == [TOY.name, "Gemm"]
    assert {entry.domain for entry in model.opset_import} == {"", TOY.domain}
    model, result = lowered(two_operators(), tmp_path, operators=[TOY.op_type])
    assert {entry.domain for entry in model.opset_import} == {"", MYLINEAR.domain}
    names = r"mylinear::ADAMSTEP, mylinear::MYLINEAR, mylinear::MYLINEARGRAD, toy[.]ops::SHIFTED"
    with pytest.raises(SelectionError, match=f"must be among {names}, got"):
        lowered(two_operators(), tmp_path, operators=["toy.ops::OTHER"])


def standard() -> onnx.ModelProto:
    nodes = [node("Mul", "x two", "p"), node("Add", "p s", "h"), node("MatMul", "h w", "q"), node("Add", "q b", "y")]
    return model_of(nodes, {"two": np.float32(2), "s": S, "w": W, "b": B}, domains=())


def test_a_pattern_of_another_operator_is_adopted(tmp_path: Path) -> None:
    source, target, back = (tmp_path / f"{name}.onnx" for name in "mal")
    onnx.save(standard(), source)
    result = adopt(source, target)
    assert [(entry.what, entry.operator) for entry in result.rewritten] == [
        ("Mul+Add", TOY.op_type), ("MatMul+Add", MYLINEAR.op_type),
    ]  # fmt: skip
    adopted = onnx.load(target)
    onnx.checker.check_model(adopted, full_check=True)
    assert [each.op_type for each in adopted.graph.node] == [TOY.name, MYLINEAR.name]
    assert {(f.domain, f.name) for f in adopted.functions} == {
        (TOY.domain, TOY.name), (MYLINEAR.domain, MYLINEAR.name),
    }  # fmt: skip
    assert [check.extent for check in result.checks] == [Extent.NODES, Extent.WHOLE]
    assert result.checks[0].count == 1, "the other was compared with the whole model only"
    assert result.checks[1].by == ("onnx's evaluator",), "no body serves a node without a count"
    lower(target, back)
    np.testing.assert_allclose(run(onnx.load(back))[0], run(onnx.load(source))[0], rtol=1e-5, atol=1e-5)


def test_operators_are_chosen_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "a.onnx"
    onnx.save(standard(), source)
    assert cli.main(["adopt", str(source), str(target), "--operator", TOY.op_type]) == 0
    assert [each.op_type for each in onnx.load(target).graph.node] == [TOY.name, "MatMul", "Add"]
    assert cli.main(["adopt", str(source), str(target), "--operator", "SHIFTED"]) == 2
    assert "the operator must be among" in capsys.readouterr().err


def test_an_operator_that_needs_a_newer_opset_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = standard()
    model.opset_import[0].version = 13
    onnx.save(model, tmp_path / "m.onnx")
    assert cli.main(["adopt", str(tmp_path / "m.onnx"), str(tmp_path / "a.onnx")]) == 0
    told = "left out: toy.ops::SHIFTED takes opset 15 or newer, and the model has 13"
    assert told in capsys.readouterr().out.splitlines()
    assert [each.op_type for each in onnx.load(tmp_path / "a.onnx").graph.node] == ["Mul", "Add", MYLINEAR.name]
    with pytest.raises(ContractError, match="SHIFTED: the opset version must be 15 or newer, got 13"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx", operators=[TOY.op_type])


def test_a_pattern_says_why_it_leaves_a_node_alone(tmp_path: Path) -> None:
    model = model_of([node("Mul", "x s", "p"), node("Add", "p s", "y")], {"s": S}, domains=())
    onnx.save(model, tmp_path / "m.onnx")
    (left,) = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").left
    assert left.reason == Reason(ToyCause.FACTOR, {"size": 3})
    assert left.as_dict()["cause"] == "FACTOR"
    nodes = [node("Mul", "x t", "p"), node("Add", "p s", "y")]
    model = model_of(nodes, {"s": S, "t": np.float32(2)}, ("y", "p"), domains=())
    onnx.save(model, tmp_path / "m.onnx")
    (left,) = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").left
    assert left.reason == Reason(GraphCause.SEEN_BY_OTHERS, {"value": "p"})


def test_a_node_without_an_input_that_its_body_needs_is_refused(tmp_path: Path) -> None:
    onnx.save(model_of([shifted("x s", "y m")], {"s": S}, ("y", "m")), tmp_path / "m.onnx")
    with pytest.raises(RewriteError, match="the body of node 'toy_y' takes count, which the node lacks"):
        lower(tmp_path / "m.onnx", tmp_path / "l.onnx")
    assert not (tmp_path / "l.onnx").exists()


def test_a_wrong_body_or_attribute_is_found_in_the_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ort_ops.rewrite import inline

    model = model_of([shifted("x", "h", alpha=2.0), shifted("h s", "y")], {"s": S})
    assert lowered(model, tmp_path)[1].checks[-1].count == 2
    monkeypatch.setattr(inline, "_attributes", lambda made, function: {a.name: a for a in function.attribute_proto})
    with pytest.raises(RewriteError, match="tensor 'h' would change"):
        lowered(model, tmp_path)
    monkeypatch.undo()
    real = Editor.store_filled
    monkeypatch.setattr(Editor, "store_filled", lambda self, shape, number, *rest: real(self, shape, 1e-5, *rest))
    with pytest.raises(RewriteError, match="tensor 'h' would change"):
        lowered(model, tmp_path)
