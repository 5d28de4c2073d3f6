"""Opsets in which the same names mean other operators: refused everywhere, in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, version_converter

from ort_ops import InferenceSession
from ort_ops.analysis.evaluator import IgnoredAttributeError, make_evaluator
from ort_ops.cli import main as cli
from ort_ops.models.nodes import attach_functions
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.rewrite.files import ModelFile
from ort_ops.rewrite.proof.whole import check_whole
from ort_ops.rewrite.report import Extent, Place, Rewrite, Rewritten
from ort_ops.rewrite.rewrite import adopt, adopt_model, lower
from tests.linear_model import make_linear_model
from tests.rewrite.small_models import B, W, model_of, node, run

RULE = "MYLINEAR: the opset version must be 7 or newer, got 6; convert the model with onnx.version_converter"


def added_along_rows() -> onnx.ModelProto:
    """``(x W)[i, j] + B[i]``, which opset 6 says with attributes that later ones do not have."""
    nodes = [node("MatMul", "x W", "p"), node("Add", "p B", "y", broadcast=1, axis=0)]
    return model_of(nodes, {"W": W, "B": B}, (4, 3), (4, 4), opset=6)


def test_an_older_opset_is_refused_by_adopt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(added_along_rows(), tmp_path / "m.onnx")
    assert cli.main(["adopt", str(tmp_path / "m.onnx"), str(tmp_path / "a.onnx")]) == 2
    assert capsys.readouterr().err.splitlines() == [f"mylinear: {RULE}"]
    assert not (tmp_path / "a.onnx").exists()
    with pytest.raises(ContractError, match="7 or newer"):
        adopt_model(ir.from_proto(added_along_rows()))


def test_what_the_message_advises_gives_the_right_model(tmp_path: Path) -> None:
    onnx.save(version_converter.convert_version(added_along_rows(), 7), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), x @ W + B[:, None], rtol=1e-5, atol=1e-6)


def test_an_older_opset_is_refused_wherever_there_is_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_linear_model(["batch", 3], W.T.copy(), B, with_function=False)
    model.opset_import[0].version = 6
    path = str(tmp_path / "m.onnx")
    onnx.save(model, path)
    for attempt in (
        lambda: lower(path, tmp_path / "l.onnx"),
        lambda: attach_functions(model),
        lambda: make_function(MYLINEAR, 6, ["float32"]),
        lambda: InferenceSession(path),
    ):
        with pytest.raises(ContractError, match="7 or newer"):
            attempt()
    for command in (["verify", path], ["run", path, "--input", "1,2,3"], ["inspect", path]):
        assert cli.main(command) in (1, 2)
        told = capsys.readouterr()
        assert RULE in told.err + told.out


def test_a_function_of_an_older_opset_is_refused(tmp_path: Path) -> None:
    body = [node("MatMul", "X V", "p"), node("Add", "p C", "Y", broadcast=1, axis=0)]
    function = helper.make_function("local", "Layer", ["X", "V", "C"], ["Y"], body, [helper.make_opsetid("", 6)])
    call = helper.make_node("Layer", ["x", "W", "B"], ["y"], domain="local")
    model = model_of([call], {"W": W, "B": B}, (4, 3), functions=[function])
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ContractError, match="7 or newer, got 6"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    with pytest.raises(ContractError, match="7 or newer, got 6"):
        adopt_model(ir.from_proto(model))


def test_the_comparison_of_whole_models_says_what_its_evaluator_ignores() -> None:
    """Without that it compares one wrong result with another."""
    with pytest.raises(IgnoredAttributeError, match="ignores the attribute 'axis' of Add 'node_y'"):
        make_evaluator(added_along_rows())
    wrong = model_of([node("MatMul", "x W", "p"), node("Add", "p B", "y")], {"W": W, "B": B}, (4, 3), (4, 4))
    before = ModelFile(added_along_rows(), Path(), False)
    told = check_whole(before, ir.from_proto(wrong), Rewrite(rewritten=[Rewritten("p", Place(), "MatMul+Add")]))
    assert told.extent is Extent.NOT_RUN
    assert "'axis' of Add" in told.detail


@pytest.mark.parametrize("opset", [9, 10, 11])
def test_a_gemm_has_the_c_that_its_opset_demands(opset: int, tmp_path: Path) -> None:
    """Below opset 11 a Gemm without C is no valid node, so the -0.0 of an absent bias stays."""
    model = model_of([node("Gemm", "x W B", "y", beta=0.0)], {"W": W, "B": B}, opset=opset)
    onnx.save(model, tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    lowered = onnx.load(tmp_path / "l.onnx")
    onnx.checker.check_model(lowered, full_check=True)
    assert [(made.op_type, len(made.input)) for made in lowered.graph.node] == [("Gemm", 2 if opset >= 11 else 3)]
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "l.onnx", x), run(tmp_path / "m.onnx", x), rtol=1e-6)


def test_a_gemm_comes_back_only_where_x_is_a_matrix(tmp_path: Path) -> None:
    model = model_of([node("Gemm", "x W B", "y")], {"W": W, "B": B}, ("batch", 3), ("batch", 4))
    onnx.save(model, tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    adopted = onnx.load(tmp_path / "a.onnx")
    for value in (adopted.graph.input[0], adopted.graph.output[0]):  # as a tool may change them
        value.type.tensor_type.shape.dim.insert(0, onnx.TensorShapeProto.Dimension(dim_value=2))
    onnx.save(adopted, tmp_path / "a.onnx")
    lower(tmp_path / "a.onnx", tmp_path / "l.onnx")
    assert [made.op_type for made in onnx.load(tmp_path / "l.onnx").graph.node] == ["MatMul", "Add"]
