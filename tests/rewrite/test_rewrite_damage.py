"""Models that are damaged or break a contract: refused in one line, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops.cli import main as cli
from ort_ops.errors import ModelError
from ort_ops.opdef.operator import ContractError
from ort_ops.rewrite import rewrite
from tests.linear_model import make_linear_model
from tests.rewrite.small_models import B, W, model_of, node


def damaged(kind: str, folder: Path) -> Path:
    """A model that is wrong in one way."""
    path = folder / "bad.onnx"
    model = make_linear_model(["batch", 3], W.T.copy(), B)
    if kind == "newer version":
        model.opset_import[1].version = 3
    elif kind == "attribute":
        model.graph.node[0].attribute.append(helper.make_attribute("alpha", 2.0))
    elif kind == "body":
        model.functions[0].node[-1].op_type = "Sub"
    elif kind == "body order":
        model.functions[0].node[1].input[:] = ["W_transposed", "X"]
    elif kind == "shape":
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(W, "weight"))
    elif kind == "empty name":
        model.graph.input[0].name = model.graph.node[0].input[0] = ""
    elif kind == "duplicate name":
        model.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    elif kind == "no bytes":
        path.write_bytes(b"")
        return path
    elif kind in ("truncated", "missing", "outside", "absolute", "link", "length"):
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        if kind == "truncated":
            (folder / "w.bin").write_bytes((folder / "w.bin").read_bytes()[:-1])
        elif kind == "missing":
            (folder / "w.bin").unlink()
        elif kind == "link":
            (folder / "w.bin").unlink()
            (folder / "w.bin").symlink_to("/dev/zero")
        else:
            model = onnx.load(path, load_external_data=False)
            entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
            if kind == "length":
                entries["length"].value = "4"
            else:
                entries["location"].value = "../w.bin" if kind == "outside" else "/etc/passwd"
            path.write_bytes(model.SerializeToString())
        return path
    path.write_bytes(model.SerializeToString())
    return path


DAMAGES = {
    "newer version": "the version of domain 'mylinear' must be 1 to 2, got 3",
    "attribute": "the attributes must be none, got alpha",
    "body": "the definition of MYLINEAR inside the model is not the contract's: operators",
    "body order": "the definition of MYLINEAR inside the model is not the contract's",
    "shape": "weight must be [out_features, 3] (x has in_features 3)",
    "empty name": "X, W and optionally B",
    "duplicate name": "name 'y' of the graph stands for two values",
    "no bytes": "is not an ONNX model",
    "truncated": "is truncated: tensor",
    "missing": "external data 'w.bin' is missing",
    "outside": "lies in '../w.bin', which is outside the model's folder",
    "absolute": "lies in '/etc/passwd', which is outside the model's folder",
    "link": "which is outside the model's folder",
    "length": "takes 48 bytes, not 4",
}


@pytest.mark.parametrize("command", ["adopt", "lower"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_bad_models_are_refused_and_nothing_is_written(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(kind, tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises((ModelError, ContractError)):
        getattr(rewrite, command)(path, tmp_path / "out.onnx")
    assert cli.main([command, str(path), str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    if kind == "empty name":
        assert "has no name" in error or DAMAGES[kind] in error
    else:
        assert DAMAGES[kind] in error
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["run", "verify", "inspect"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_bad_models_are_refused_by_every_command(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"run": ["--input", "1,2,3"], "verify": ["--compile", "none", "--batch-size", "2"], "inspect": []}
    status = cli.main([command, str(damaged(kind, tmp_path)), *options[command]])
    told = capsys.readouterr()
    if (command, kind) == ("verify", "body"):  # one that runs, and gives something else
        assert status == 1
        assert "at node 'linear'" in told.out
        return
    assert status in ((1, 2) if command == "inspect" else (2,))
    assert DAMAGES[kind] in told.err + told.out or (kind == "empty name" and "has no name" in told.err)
    assert len(told.err.splitlines()) <= 1 or command == "verify", "one line; verify shows how far it was"


WRONG: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "sizes that are no sizes": (
        [helper.make_node("Split", ["U", "ones"], ["W", "rest"], axis=0), node("MatMul", "x W", "y")],
        {"U": np.concatenate([W, W]), "ones": np.array([[3, 3]])},
    ),
    "a Reshape to more numbers": (
        [node("Squeeze", "U zero", "W"), node("MatMul", "x W", "y")], {"U": W, "zero": np.array([0])}
    ),
    "a Reshape to text": (
        [node("MatMul", "x W", "p"), node("Reshape", "p text", "r"), node("Add", "r B", "y")],
        {"W": W, "B": B, "text": np.array(["a"], object)},
    ),
    "a Constant of two values": (
        [helper.make_node("Constant", [], ["W"], value_float=1.0, value_int=1), node("MatMul", "x W", "y")], {}
    ),
    "a Constant of no type": (
        [helper.make_node("Constant", [], ["c"], value=TensorProto(dims=[0])), node("MatMul", "x W", "y")], {"W": W}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_graph_that_breaks_an_operator_s_rules_ends_in_no_traceback(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, stored = WRONG[name]
    (tmp_path / "m.onnx").write_bytes(model_of(nodes, stored).SerializeToString())
    for command in ("adopt", "lower"):
        status = cli.main([command, str(tmp_path / "m.onnx"), str(tmp_path / "a.onnx")])
        assert status in (0, 2)
        assert len(capsys.readouterr().err.splitlines()) <= 1
