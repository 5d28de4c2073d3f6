"""The comparison of whole models: what it finds, where each witness alone sees nothing, and what it must not refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from ort_ops.analysis import evaluator
from ort_ops.cli import main as cli
from ort_ops.rewrite.files import ModelFile, read_model
from ort_ops.rewrite.graph.editor import Editor
from ort_ops.rewrite.proof import whole as rewrite_whole
from ort_ops.rewrite.proof.whole import check_whole
from ort_ops.rewrite.report import Check, Extent, Place, Rewrite, Rewritten
from ort_ops.rewrite.rewrite import RewriteError, adopt, lower
from tests.linear_model import make_linear_model
from tests.rewrite.small_models import B, W, constant, model_of, node

BOTH = ("onnx's evaluator", "onnxruntime")
ANY = Rewrite(rewritten=[Rewritten("p", Place(), "MatMul")])


def compare(before: onnx.ModelProto, after: onnx.ModelProto) -> Check:
    return check_whole(ModelFile(before, Path(), False), ir.from_proto(after), ANY)


def shifted(amount: np.float32, *, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    made = nodes or [node("MatMul", "x W", "p"), node("Add", "p c", "y")]
    return model_of(made, {"W": W, "c": np.full(4, amount, np.float32)})


def test_both_witnesses_compare_what_they_can_run() -> None:
    assert compare(shifted(np.float32(1)), shifted(np.float32(1))) == Check(Extent.WHOLE, 2, by=BOTH)
    only_evaluated = [node("MatMul", "x W", "p"), node("Mish", "p", "m"), node("Add", "m c", "y")]
    assert compare(*[shifted(np.float32(1), nodes=only_evaluated)] * 2).by[0] == BOTH[0]


@pytest.mark.parametrize("witness", range(2), ids=BOTH)
@pytest.mark.parametrize("change", [1e-6, 1e-7])
def test_each_witness_finds_a_change(witness: int, change: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_whole, "WITNESSES", rewrite_whole.WITNESSES[witness : witness + 1])
    changed = np.float32(1 + change)
    assert changed != 1
    with pytest.raises(RewriteError, match=f"tensor 'y' would change, says {BOTH[witness]}: .*the first at"):
        compare(shifted(np.float32(1)), shifted(changed))


def test_onnxruntime_sees_what_an_evaluator_misreads_as_the_rewriter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both taking `Gemm`'s C for a column is what happened with `axis` of an Add: each alone agrees with the other."""

    class Gemm(evaluator.OpRun):
        op_domain = ""

        def _run(self, a: Any, b: Any, c: Any = None, **attributes: Any) -> tuple[Any]:
            return (a @ b + np.broadcast_to(np.asarray(c).reshape(-1), (len(a), b.shape[1])),)

    monkeypatch.setattr(evaluator, "GatherElements", Gemm)
    monkeypatch.setattr(Editor, "complete", complete_and_turn)
    column = np.arange(4, dtype=np.float32)[:, None]
    nodes = [node("Gemm", "x W C", "g"), node("MatMul", "g V", "y")]
    square = np.eye(3, 4, dtype=np.float32)
    model = model_of(nodes, {"W": square, "C": column, "V": np.eye(4, dtype=np.float32)}, (4, 3), (4, 4))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(RewriteError, match="says onnxruntime"):
        adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def complete_and_turn(editor: Any, kits: Any) -> None:
    """Finish as `Editor.complete` does, and make a row of the column C in the rewritten model."""
    COMPLETE(editor, kits)
    value = editor.model.graph.initializers["C"]
    value.const_value = ir.tensor(value.const_value.numpy().reshape(1, -1))
    value.shape = ir.Shape((1, 4))


COMPLETE = Editor.complete


def test_an_output_that_is_missing_is_found() -> None:
    before = shifted(np.float32(1))
    before.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ("batch", 4)))
    with pytest.raises(RewriteError, match="would have the outputs"):
        compare(before, shifted(np.float32(1)))


def test_random_operators_draw_the_same_numbers_before_and_after(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x W", "p"), node("RandomNormalLike", "p", "r"), node("Add", "p r", "s"),
        node("Bernoulli", "q", "b"), node("Dropout", "s ratio on", "d"), node("Add", "d b", "y"),
    ]  # fmt: skip
    stored = {"W": W, "q": np.full((1, 4), 0.5, np.float32), "ratio": np.float32(0.3), "on": np.bool_(True)}
    onnx.save(model_of(nodes, stored), tmp_path / "m.onnx")
    checks = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").checks
    assert [check.extent for check in checks] == [Extent.NODES, Extent.WHOLE]
    assert not any(
        attribute.name == "seed" for n in onnx.load(tmp_path / "a.onnx").graph.node for attribute in n.attribute
    )


def test_numbers_that_all_are_nan_are_told_apart(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x W", "p"), node("Mul", "p none", "y")]
    onnx.save(model_of(nodes, {"W": W, "none": np.float32(np.nan)}), tmp_path / "m.onnx")
    check = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").checks[-1]
    assert (check.count, check.num_blank) == (2, 1)
    assert "1 of them had no finite number" in str(check)


def test_a_model_that_nothing_can_run_is_said_so(tmp_path: Path) -> None:
    other = helper.make_node("Other", ["p"], ["y"], domain="elsewhere")
    model = model_of([node("MatMul", "x W", "p"), other], {"W": W})
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    onnx.save(model, tmp_path / "m.onnx")
    check = adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").checks[-1]
    assert check.extent is Extent.NOT_RUN
    assert "onnx's evaluator says: " in check.detail
    assert "onnxruntime says: " in check.detail
    assert "--inputs" not in str(check)


def test_lower_takes_real_inputs_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_linear_model(["batch", 3], W.T.copy(), B)
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["r"]))
    model.graph.node[1].input[0] = "r"
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
    onnx.save(model, tmp_path / "m.onnx")
    (check,) = [c for c in lower(tmp_path / "m.onnx", tmp_path / "l.onnx").checks if not c.has_compared]
    assert check.extent is Extent.NOT_DRAWN
    np.savez(tmp_path / "i.npz", x=np.ones((2, 3), np.float32), shape=np.array([-1, 3]))
    command = ["lower", *(str(tmp_path / name) for name in ("m.onnx", "l.onnx")), "--inputs", str(tmp_path / "i.npz")]
    assert cli.main(command) == 0
    assert "tensors of the whole model in float64, by onnx's evaluator and by onnxruntime" in capsys.readouterr().out


def test_numbers_that_operators_give_in_float32_are_compared_too(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x W", "p"), helper.make_node("DynamicQuantizeLinear", ["p"], ["q", "scale", "zero"]),
        node("DequantizeLinear", "q scale zero", "d"), constant("c", np.float32(np.nan)), node("Add", "d c", "y"),
    ]  # fmt: skip
    onnx.save(model_of(nodes, {"W": W}), tmp_path / "m.onnx")
    assert adopt(tmp_path / "m.onnx", tmp_path / "a.onnx").checks[-1].extent is Extent.WHOLE


@pytest.mark.parametrize("is_external", [False, True])
@pytest.mark.parametrize("witness", range(2), ids=BOTH)
def test_large_weights_are_fed_and_a_change_in_one_is_found(
    witness: int, is_external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U is an output as well, and V is used in a body only."""
    monkeypatch.setattr(rewrite_whole, "WITNESSES", rewrite_whole.WITNESSES[witness : witness + 1])
    rng = np.random.default_rng(7)
    stored = {name: rng.standard_normal((64, 64)).astype(np.float32) for name in "UVW"}
    body = helper.make_graph(
        [node("MatMul", "q V", "r")], "body", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, ("n", 64))]
    )
    nodes = [
        node("MatMul", "x W", "p"), node("MatMul", "p U", "q"),
        node("If", "yes", "s", then_branch=body, else_branch=body), node("Add", "s b", "y"),
    ]  # fmt: skip
    for branch, name in zip(nodes[2].attribute, "rt", strict=True):
        branch.g.output[0].name = branch.g.node[0].output[0] = name
    model = model_of(nodes, {**stored, "yes": np.bool_(True), "b": stored["U"][0]}, ("n", 64))
    model.graph.output.append(helper.make_tensor_value_info("U", TensorProto.FLOAT, (64, 64)))
    path = tmp_path / "m.onnx"
    copy = onnx.ModelProto.FromString(model.SerializeToString())  # saving changes what is saved
    onnx.save(copy, path, save_as_external_data=is_external, location="w.bin", size_threshold=0)
    check = adopt(path, tmp_path / "a.onnx").checks[-1]
    assert (check.extent, check.count) == (Extent.WHOLE, 5)
    for name in "UVW":
        changed = ir.from_proto(model)
        tensor = changed.graph.initializers[name].const_value
        assert tensor is not None
        changed.graph.initializers[name].const_value = ir.tensor(tensor.numpy() * np.float32(1 + 1e-6), name=name)
        with pytest.raises(RewriteError, match="would change"):
            check_whole(read_model(path), changed, ANY)
