"""What `verify` runs models on that drawn numbers do not suit, and how it tells what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.verification.backends import session as session_backends
from exporter.verification.plan import Plan
from exporter.verification.row import Part, Row
from exporter.verification.verify import Verification, verify
from ort_ops.cli import main as cli
from ort_ops.models.nodes import attach_functions
from ort_ops.numerics.compare import Comparison
from ort_ops.numerics.faults import WrongValues
from ort_ops.operators.mylinear.contract import DOMAIN, NAME

RNG = np.random.default_rng(0)


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    tensors: dict[str, Any],
) -> Path:
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    weights += [numpy_helper.from_array(RNG.standard_normal((3, 4)).astype(np.float32), "w")]
    weights += [numpy_helper.from_array(np.ones(3, np.float32), "b")]
    graph = helper.make_graph(nodes, "g", values, [output], weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)], ir_version=10
    )
    attach_functions(model)
    onnx.save(model, path)
    return path


def linear(x: str, y: str = "y") -> onnx.NodeProto:
    return helper.make_node(NAME, [x, "w", "b"], [y], f"linear_{y}", domain=DOMAIN)


def whole_rows(result: Verification) -> set[str]:
    return {row.inputs for row in result.rows if row.part is Part.WHOLE and row.comparison is not None}


def embedding(path: Path) -> Path:
    """Indices into a table of one row: 1 is out of range."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "i"], ["h"]),
        linear("h"),
    ]
    return saved(path, nodes, {"ids": (TensorProto.INT64, ["batch"])}, {"table": np.ones((1, 4), np.float32)})


def test_indices_are_drawn_within_their_axis(tmp_path: Path) -> None:
    result = verify(embedding(tmp_path / "m.onnx"), batch_sizes=[1, 9], compile_backend=None)
    assert result.is_ok, result.table()
    assert not result.notes
    assert whole_rows(result) == {"batch 1", "batch 9"}
    assert result.conclusion() == "parity holds"


def test_a_model_that_needs_larger_sizes_gets_them(tmp_path: Path) -> None:
    """Reflection needs an axis that is longer than what it adds, which 1, 2 and 7 are not."""
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"], mode="reflect"),
        helper.make_node("ReduceMean", ["p", "axes"], ["m"], keepdims=0),
        linear("m"),
    ]
    tensors = {"pads": np.array([0, 9, 0, 0, 9, 0]), "axes": np.array([1])}
    path = saved(tmp_path / "m.onnx", nodes, {"x": (TensorProto.FLOAT, ["batch", "length", 4])}, tensors)
    result = verify(path, batch_sizes=[1, 7], compile_backend=None)
    assert result.is_ok, result.table()
    assert whole_rows(result) == {"batch 1", "batch 7"}, result.notes


def test_nodes_in_no_order_are_verified(tmp_path: Path) -> None:
    """As a converter to float16 leaves them, which appends its casts of the inputs."""
    nodes = [
        linear("graph_input_cast_0"),
        helper.make_node("Cast", ["x"], ["graph_input_cast_0"], to=TensorProto.FLOAT),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {"x": (TensorProto.DOUBLE, ["batch", 4])}, {})
    result = verify(path, batch_sizes=[2], compile_backend=None)
    assert result.is_ok, result.table()
    assert whole_rows(result) == {"batch 2", "edge values"}


def shaped(path: Path) -> Path:
    """A model whose second input gives a shape, which cannot be drawn."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["h"], "reshape"), linear("h")]
    inputs = {"x": (TensorProto.FLOAT, ["batch", 8]), "shape": (TensorProto.INT64, [2])}
    return saved(path, nodes, inputs, {})


def test_what_cannot_be_drawn_is_named_and_each_node_runs_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shaped(tmp_path / "m.onnx")
    assert cli.main(["verify", str(path), "--compile", "none"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "parity holds for each node alone; the whole model was not run"
    (note,) = [line for line in told if "shape" in line]
    assert note == (
        "note: the whole model was not run on batch 1, batch 2, batch 7, batch 64: no numbers can be drawn for input "
        "'shape': it gives the shape to Reshape 'reshape'; give real inputs by --inputs file.npz"
    )


def test_real_inputs_run_the_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = shaped(tmp_path / "m.onnx"), tmp_path / "real.npz"
    x = RNG.standard_normal((3, 8)).astype(np.float32)
    np.savez(file, x=x, shape=np.array([6, 4]))
    result = verify(path, inputs=[file], compile_backend=None)
    assert result.is_ok
    assert whole_rows(result) == {"real.npz"}, "and no drawn ones"
    command = ["verify", str(path), "--compile", "none", "--inputs", str(file)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.endswith("\nparity holds\n")
    np.savez(file, x=x.astype(np.float64))
    assert cli.main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"mylinear: '{file}': it has no 'shape'; 'x' must be float32, got float64"


def test_a_backend_that_fails_on_an_input_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = embedding(tmp_path / "m.onnx")
    run = session_backends.InferenceSession.run

    def fails_on_seven(session: Any, names: Any, feed: Any) -> Any:
        if session.kernel == "python" and len(feed.get("ids", ())) == 7:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : no sevens")
        return run(session, names, feed)

    monkeypatch.setattr(session_backends.InferenceSession, "run", fails_on_seven)
    result = verify(path, batch_sizes=[2, 7], compile_backend=None)
    wrong = {(row.inputs, row.verdict) for row in result.rows if row.is_violated}
    assert wrong == {("batch 7", "onnxruntime fails: [ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : no sevens")}
    assert result.conclusion() == "parity is VIOLATED"


def test_the_summary_has_a_row_for_each_backend_and_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = embedding(tmp_path / "m.onnx")
    command = ["verify", str(path), "--compile", "none", "--batch-size", "2", "--dtype", "float64"]
    assert cli.main(command) == 0
    table, _, rest = capsys.readouterr().out.partition("\n\n")
    rows = [line.split()[-5:] for line in table.splitlines()[2:]]
    names = [
        line[: line.index("float")].strip() + " " + row[-4]
        for line, row in zip(table.splitlines()[2:], rows, strict=True)
    ]
    assert len(set(names)) == len(names)
    assert {"body float32", "body float64", "python float64"} <= set(names)
    assert {row[-1] for row in rows} == {"ok"}
    assert "inf" not in table
    assert rest.startswith("edge values (zeros of both signs, the smallest and large numbers, cancellation, infinities")
    assert cli.main([*command, "--all"]) == 0
    everything = capsys.readouterr().out
    assert everything.count("each node alone, edge values") > everything.count("batch 2") > 5


def test_infinities_are_told_in_words() -> None:
    fault = WrongValues(1, 2, (0,), float("nan"), 1.0, 1e-3)
    wrong = Comparison(float("inf"), float("inf"), fault, 2)
    rows = [
        Row("cpp", "batch 1", wrong, dtype="float32"),
        Row("cpp", "edge values", Comparison(1e30, 0.5, None, 2), dtype="float32", is_edge=True),
        Row("body", "batch 1", Comparison(0.0, 0.0, None, 4, num_unbounded=3), dtype="float32"),
    ]
    result = Verification(rows, num_nodes=1)
    _, cells = result.summary()
    assert cells == [
        ["cpp", "float32", "-", "-", str(fault)],
        ["body", "float32", "0", "0.000", "3 unbounded of 4 values, no other is off"],
    ]
    assert str(fault).startswith("1 of 2 values are off, the first at [0]: got nan instead of 1")
    assert result.edge_rows() == rows[1:2]
    unbounded = Verification(rows[2:], num_nodes=1)
    assert unbounded.conclusion().startswith("parity holds for each node alone; the whole model was compared in 0 of 1")


def test_the_time_left_is_told_from_the_costs() -> None:
    now = [0.0]
    seen: list[str] = []
    plan = Plan(lambda done, total, what: seen.append(what), clock=lambda: now[0])
    plan.costs = {"evaluate": [10.0, 30.0], "alone": [5.0] * 4}
    for kind, seconds in (("evaluate", 2.0), ("evaluate", 6.0), ("alone", 10.0), ("alone", 10.0), ("alone", 10.0)):
        plan.start(kind, kind)
        now[0] += seconds
    assert seen == [
        "evaluate", "evaluate", "alone; about 4 s left", "alone; about 30 s left", "alone; about 20 s left",
    ]  # fmt: skip
    assert plan.total == 6


def test_a_kernel_that_fails_on_every_input_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no input's fault, for other kernels run."""
    path = embedding(tmp_path / "m.onnx")
    run = session_backends.InferenceSession.run

    def fails_in_the_body(session: Any, names: Any, feed: Any) -> Any:
        if session.kernel == "body" and "ids" in feed:
            raise RuntimeError("Non-zero status code returned while running Add node")
        return run(session, names, feed)

    monkeypatch.setattr(session_backends.InferenceSession, "run", fails_in_the_body)
    result = verify(path, batch_sizes=[2], compile_backend=None)
    assert {row.backend for row in result.rows if row.is_violated} == {"body"}
    assert not result.notes


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_other_commands_take_real_inputs_too(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = shaped(tmp_path / "m.onnx"), tmp_path / "real.npz"
    x = RNG.standard_normal((3, 8)).astype(np.float32)
    np.savez(file, x=x, shape=np.array([6, 4]))
    arguments = {"inspect": [str(path), "--run"], "bench": ["--model", str(path), "--budget", "0.1"]}[command]
    assert cli.main([command, *arguments]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            "no numbers can be drawn for input 'shape': it gives the shape to Reshape 'reshape'; "
            "give real inputs by --inputs file.npz"
        )
    )
    assert cli.main([command, *arguments, "--inputs", str(file)]) == 0
    told = capsys.readouterr().out
    if command == "inspect":
        assert "run        y: float32 [6, 3], " in told
    else:
        rows = [line.split() for line in told.splitlines()[2:]]
        assert next(row[0] for row in rows) == "lowered"
        assert {"cpp", "python", "body"} <= {row[0] for row in rows}
        assert {row[-1] for row in rows} == {"ok"}
    np.savez(file, x=x)
    assert cli.main([command, *arguments, "--inputs", str(file)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"mylinear: '{file}': it has no 'shape'"
    without = [str(path)] if command == "inspect" else []
    assert cli.main([command, *without, "--inputs", "f.npz"]) == 2
    assert "--inputs needs --" in capsys.readouterr().err


def test_a_wrong_result_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matmul = np.matmul

    def wrong(a: Any, b: Any) -> Any:
        return matmul(a, b) * np.float32(1.001) if a.dtype == np.float32 else matmul(a, b)

    monkeypatch.setattr(np, "matmul", wrong)
    assert cli.main(["bench", "--model", str(embedding(tmp_path / "m.onnx")), "--budget", "0.1"]) == 1
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
    assert "not timed: wrong result" in row


def test_inspect_runs_on_drawn_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(embedding(tmp_path / "m.onnx")), "--run"]) == 0
    assert "run        y: float32 [2, 3], " in capsys.readouterr().out
