"""The proof itself: it passes right models, and finds what is wrong in wrong ones.

Long because each test breaks one thing in the same few models, and reads the same table.
"""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference.op_run import OpRun
from torch import nn

from exporter.operators.mylinear import autograd, functional
from exporter.operators.mylinear.gradient_checks import NN_LINEAR
from exporter.operators.mylinear.module import MyLinear
from exporter.to_onnx.export import export
from exporter.verification.backends import base as backends
from exporter.verification.backends import session as session_backends
from exporter.verification.nodes import alone as node_alone
from exporter.verification.nodes import run as verification_nodes
from exporter.verification.report import to_junit, write_html
from exporter.verification.verify import FINITE_DIFFERENCES, ParityError, Verification, verify
from ort_ops import session
from ort_ops.analysis import evaluator, float64_run
from ort_ops.cli import main as cli
from ort_ops.errors import ModelError, MylinearError
from ort_ops.kernels import extensions as pyop
from ort_ops.models.nodes import attach_functions
from ort_ops.native import library as native
from ort_ops.numerics.statistics import histogram, max_ulp
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear import error_bound
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.operators.mylinear.error_bound import linear_bound
from tests.cases import numpy_dtype
from tests.linear_model import make_linear_model


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(MyLinear(3, 16), nn.Tanh(), MyLinear(16, 16, bias=False), nn.ReLU(), MyLinear(16, 2))
    export(model, torch.rand(2, 3), tmp_path / "model.onnx", engine="torchscript")
    return tmp_path / "model.onnx"


def verdicts_of(result: Verification) -> dict[str, str]:
    return {row.backend: row.verdict for row in result.worst_rows()}


def test_every_backend_of_a_deep_model_stays_within_its_bound(mlp: Path) -> None:
    result = verify(mlp)
    assert result.is_ok, result.table()
    assert {"torch eager", "reference", "python", "body"} <= set(verdicts_of(result))
    assert {row.inputs for row in result.rows} >= {
        "batch 1",
        "batch 2",
        "batch 7",
        "batch 64",
        "edge values",
        "each node alone",
    }
    assert set(verdicts_of(result).values()) == {"ok"}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_dtype(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 9)).astype(numpy_dtype(dtype))
    onnx.save(make_linear_model(["batch", 9], weight, weight[:, 0]), tmp_path / "model.onnx")
    result = verify(tmp_path / "model.onnx")
    assert result.is_ok, result.table()
    assert verdicts_of(result)["python"] == "ok"
    assert verdicts_of(result)["body"] == "ok"


def test_a_wrong_python_kernel_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = np.matmul

    def wrong_in_the_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result = matmul(a, b)
        return result * np.float32(1.00001) if a.dtype == np.float32 and a.shape[-1] == 16 else result

    monkeypatch.setattr(np, "matmul", wrong_in_the_kernel)
    verdicts = verdicts_of(verify(mlp))
    assert "values are off" in verdicts["python"]
    assert verdicts["body"] == "ok"


def test_a_wrong_torch_operator_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = functional._fast_apply
    monkeypatch.setattr(functional, "_fast_apply", lambda *a: apply(*a) + 1e-4)
    verdicts = verdicts_of(verify(mlp))
    assert "values are off" in verdicts["torch eager"]
    assert verdicts["python"] == "ok"


def test_a_wrong_function_body_is_found(mlp: Path) -> None:
    model = onnx.load(mlp)
    (function,) = model.functions
    function.node[-1].op_type = "Sub"
    onnx.save(model, mlp)
    verdicts = verdicts_of(verify(mlp))
    assert "values are off" in verdicts["body"]
    assert verdicts["python"] == "ok"


def test_a_kernel_that_swallows_nan_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda a, b: matmul(np.nan_to_num(a), b) if a.dtype == np.float32 else matmul(a, b)
    )
    assert "values are off" in verdicts_of(verify(mlp))["python"]


def test_a_kernel_that_is_missing_is_reported_with_its_reason(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")
    monkeypatch.setattr(pyop, "_PACKAGE", "no_such_package")
    result = verify(mlp)
    assert result.is_ok
    assert verdicts_of(result)["python"].startswith("not run: onnxruntime-extensions is not installed")


def test_progress_is_reported(mlp: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    verify(mlp, batch_sizes=[1], on_progress=lambda *state: seen.append(state))
    assert [done for done, _, _ in seen] == list(range(len(seen)))
    assert {total for _, total, _ in seen} == {len(seen)}


def test_bad_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="there is no such file"):
        verify(path)
    model = make_linear_model(["batch", 3], np.ones((2, 3), np.float32), None)
    unknown = onnx.ModelProto()
    unknown.CopyFrom(model)
    unknown.opset_import[1].version = 7
    onnx.save(unknown, path)
    with pytest.raises(ContractError, match="must be 1 to 2, got 7"):
        verify(path)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Identity", ""
    del model.graph.node[0].input[1:]
    onnx.save(model, path)
    with pytest.raises(ModelError, match="has no node of a registered operator"):
        verify(path)


def test_a_model_with_an_unnamed_output_or_wrong_shapes_is_refused(tmp_path: Path) -> None:
    weight, bias = np.ones((1, 2), np.float32), np.ones(1, np.float32)
    unnamed = make_linear_model(["batch", 2], weight, bias)
    unnamed.graph.output[0].name = ""
    onnx.save(unnamed, tmp_path / "unnamed.onnx")
    with pytest.raises(ModelError, match="is damaged: an output of the graph has no name"):
        verify(tmp_path / "unnamed.onnx")
    wrong = make_linear_model(["batch", 2], weight, bias)
    wrong.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 2), np.float32), "weight"))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    with pytest.raises(ContractError, match=r"bias must be \[2\]"):
        verify(tmp_path / "wrong.onnx")


def test_a_graph_with_other_operators_is_compared_with_float64(tmp_path: Path) -> None:
    model = nn.Sequential(MyLinear(3, 4), nn.Softmax(-1), MyLinear(4, 4), nn.LayerNorm(4))
    export(model, torch.rand(2, 3), tmp_path / "model.onnx", engine="torchscript")
    result = verify(tmp_path / "model.onnx", batch_sizes=[1, 7])
    assert result.is_ok, result.table()
    body = [row.inputs for row in result.rows if row.backend == "body"]
    assert body == ["batch 1", "batch 7", "each node alone", "each node alone, edge values"]
    spoiled = onnx.load(tmp_path / "model.onnx")
    spoiled.functions[0].node[-1].op_type = "Sub"
    onnx.save(spoiled, tmp_path / "model.onnx")
    wrong = verify(tmp_path / "model.onnx", batch_sizes=[2])
    assert (
        "first at node '/0/MYLINEAR' (MYLINEAR)" in verdicts_of(wrong)["body"]
        or "at node" in verdicts_of(wrong)["body"]
    )
    assert verdicts_of(wrong)["reference"] == "ok"


def wrong_for(weight: np.ndarray, factor: np.float32) -> Any:
    """The reference's outputs, but for the node with this weight."""
    right = backends.reference_outputs

    def wrong(kit: OperatorKit, call: Call) -> list[np.ndarray]:
        is_it = np.array_equal(call.array(1), weight)  # type: ignore[arg-type]
        return [output * factor if is_it else output for output in right(kit, call)]

    return wrong


def in_bodies(path: Path) -> Path:
    """A layer, then an If with a layer of one name in each branch, then a local function with a layer."""
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(rng.standard_normal((3, 3)).astype(np.float32), n) for n in ("a", "b", "c")]

    def branch(name: str, weight: str) -> onnx.GraphProto:
        linear = helper.make_node(NAME, ["h", weight, "zero"], [f"{name}_y"], "linear", domain=DOMAIN)
        output = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["batch", 3])
        return helper.make_graph([linear], name, [], [output])

    function = helper.make_function(
        "local", "Layer", ["v", "w", "u"], ["r"],
        [helper.make_node(NAME, ["v", "w", "u"], ["r"], "inner", domain=DOMAIN)],
        [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)],
        value_info=[helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3])],
    )  # fmt: skip
    nodes = [
        helper.make_node(NAME, ["x", "a", "zero"], ["h"], "first", domain=DOMAIN),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["i"], "choice", then_branch=branch("t", "b"), else_branch=branch("e", "c")
        ),
        helper.make_node("Layer", ["i", "a", "zero"], ["y"], "call", domain="local"),
    ]  # fmt: skip
    tensors += [
        numpy_helper.from_array(np.float32(0), "limit"),
        numpy_helper.from_array(np.zeros(3, np.float32), "zero"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1), helper.make_opsetid("local", 1)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=[function])
    attach_functions(model)
    functions = list(model.functions)
    del model.functions[:]
    model.functions.extend(functions[::-1])  # before its user, as evaluators want it
    onnx.save(model, path)
    return path


def test_nodes_of_bodies_and_functions_are_run_alone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_bodies(tmp_path / "m.onnx")
    seen: list[str] = []
    result = verify(path, compile_backend=None, on_progress=lambda done, total, what: seen.append(what))
    assert result.is_ok, result.table()
    assert all(row.comparison is not None for row in result.rows), result.table()
    told = [what.split("; ")[0] for what in seen]
    assert [what.removeprefix("node ").removesuffix(" alone") for what in told if what.endswith(" alone")] == [
        "first",
        "linear in else_branch of If 'choice'",
        "linear in then_branch of If 'choice'",
        "inner in function 'Layer'",
    ]
    else_weight = numpy_helper.to_array(onnx.load(path).graph.initializer[2])
    monkeypatch.setattr(backends, "reference_outputs", wrong_for(else_weight, np.float32(1.001)))
    rows = {row.inputs: row for row in verify(path, compile_backend=None).rows if row.backend == "reference"}
    assert rows["each node alone"].diverges_at == "at node 'linear in else_branch of If 'choice''"
    (wrong,) = {row.diverges_at for label, row in rows.items() if label.startswith("batch")} - {""}
    assert wrong == "first at node 'choice' (If), in it at node 'linear in else_branch of If 'choice''"


def test_parity_never_holds_while_a_node_went_untested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the model is not run, nodes get drawn numbers; not the one whose weight a function is given."""
    path = in_bodies(tmp_path / "m.onnx")

    def fails(*arguments: Any, **options: Any) -> Any:
        raise ModelError("the model cannot be run in float64: it is too odd")

    monkeypatch.setattr(float64_run.Float64Run, "__call__", fails)
    result = verify(path, compile_backend=None, batch_sizes=[2])
    assert result.is_within_bounds
    assert not result.is_ok
    (name, reason) = next(iter(result.untested.items()))
    assert list(result.untested) == [name] == ["inner in function 'Layer'"]
    assert "it is too odd, and its weight is computed" in reason
    with pytest.raises(ParityError, match="untested: node 'inner in function 'Layer'': the whole model was not run"):
        result.check()
    result.check(allow_untested=True)
    assert json.loads(result.to_json())["untested"] == result.untested
    suite = ElementTree.fromstring(to_junit(result))
    assert int(suite.attrib["failures"]) == len(list(suite.iter("failure"))) == 1
    command = ["verify", str(path), "--compile", "none", "--batch-size", "2"]
    assert cli.main(command) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == ("parity is NOT PROVED: 1 of 4 nodes went untested (the other 3 are within their bounds)")
    assert any(line.startswith("untested: node 'inner in function 'Layer''") for line in told)
    assert cli.main([*command, "--allow-untested"]) == 0
    assert "parity holds" not in capsys.readouterr().out


def test_a_node_that_no_input_reaches_runs_on_drawn_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_bodies(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.float32(1e9), "limit"))  # never the then_branch
    onnx.save(model, path)
    result = verify(path, compile_backend=None, batch_sizes=[2])
    assert result.is_ok, result.untested
    (note,) = result.notes
    assert note == (
        "node 'linear in then_branch of If 'choice'' ran alone on drawn numbers, because no input of the model "
        "reached it"
    )
    then_weight = numpy_helper.to_array(model.graph.initializer[1])
    monkeypatch.setattr(backends, "reference_outputs", wrong_for(then_weight, np.float32(1.001)))
    with pytest.raises(ParityError, match="at node 'linear in then_branch of If 'choice''"):
        verify(path, compile_backend=None, batch_sizes=[2]).check()


def test_an_operator_that_the_evaluator_cannot_run_is_a_reason(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tanh(OpRun):
        op_domain = ""

        def _run(self, x: Any) -> Any:
            raise RuntimeError("Tanh of these sizes is beyond me")

    monkeypatch.setattr(evaluator, "Gelu", Tanh)
    result = verify(mlp, batch_sizes=[2])
    reason = "not run: onnx's reference evaluator cannot take the model: Tanh of these sizes is beyond me"
    assert [row.verdict for row in result.rows if row.backend == "reference"] == [reason, "ok", "ok"]
    assert verdicts_of(result)["body"] == "ok"
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "Gelu", evaluator.Erf)
        patch.setattr(functional, "_fast_apply", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # but what our own operator raises is no such thing
            verify(mlp, batch_sizes=[2])


def test_a_model_that_onnxruntime_has_no_kernels_for_runs_node_by_node(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 3], np.ones((2, 3), ml_dtypes.bfloat16), None)
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("Relu", ["h"], ["y"], "relu"))
    onnx.save(model, tmp_path / "m.onnx")
    result = verify(tmp_path / "m.onnx", batch_sizes=[2], compile_backend=None)
    assert result.is_ok, result.table()
    body = {row.inputs: row.verdict for row in result.rows if row.backend == "body"}
    assert body["each node alone"] == "ok"
    assert set(body) == {"the whole model", "each node alone", "each node alone, edge values"}
    assert body["the whole model"].startswith("not run: onnxruntime cannot run the model: [ONNXRuntimeError] : 9")
    assert "Relu" in body["the whole model"]
    assert {row.verdict for row in result.rows if row.backend in ("reference", "torch eager")} == {"ok"}


def test_one_session_serves_a_node_on_every_input(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most: list[int] = []

    class Counted(session_backends.InferenceSession):
        def __init__(self, source: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(source, *arguments, **options)
            alive.add(self)
            opened.append(source)
            most.append(len(alive))

    monkeypatch.setattr(session_backends, "InferenceSession", Counted)
    result = verify(mlp, batch_sizes=[1, 2, 3], compile_backend=None)
    by_sessions = {row.backend for row in result.rows} - {"torch eager", "reference"}
    assert sum(isinstance(source, bytes) for source in opened) == 3 * len(by_sessions)
    assert sum(source == mlp for source in opened) == 1 + len(by_sessions), "one to see what inputs suit the model"
    assert max(most[: 1 + len(by_sessions)]) == 1, "a session of the whole model ends before the next opens"
    assert max(most) <= len(by_sessions), "sessions of a node end before the next node"


@pytest.mark.parametrize("together", [2**21, 1], ids=["together", "one by one"])
def test_a_node_is_bounded_for_all_inputs_at_once_where_they_fit(
    together: int, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded: list[int] = []
    monkeypatch.setattr(node_alone, "TOGETHER", together)
    monkeypatch.setattr(error_bound, "linear_bound", lambda *a, **k: bounded.append(len(a[0])) or linear_bound(*a, **k))
    result = verify(mlp, batch_sizes=[2, 5], compile_backend=None)
    assert result.is_ok
    assert len(bounded) == result.num_nodes * (1 if together > 1 else 3)
    assert sum(bounded) == result.num_nodes * (2 + 5 + 9)


def test_large_inputs_are_thinned_for_the_nodes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    compare = verification_nodes.compare_output
    monkeypatch.setattr(verification_nodes, "compare_output", lambda got, *a: seen.append(len(got)) or compare(got, *a))
    model = make_linear_model(["batch", "sequence", 3], np.ones((2, 3), np.float32), None)
    onnx.save(model, tmp_path / "m.onnx")
    assert verify(tmp_path / "m.onnx", batch_sizes=[32], compile_backend=None).is_ok
    assert set(seen) == {9, 256}, "of 1024 rows 256; of edge values all"


def test_sizes_are_smaller_where_they_multiply(tmp_path: Path) -> None:
    paths = {1: tmp_path / "one.onnx", 2: tmp_path / "two.onnx"}
    for num_dynamic, path in paths.items():
        model = make_linear_model([f"d{i}" for i in range(num_dynamic)] + [3], np.ones((2, 3), np.float32), None)
        onnx.save(model, path)
        last = [row.inputs for row in verify(path, compile_backend=None).rows if row.backend == "body"][3]
        assert last == {1: "batch 64", 2: "batch 32"}[num_dynamic]
    assert (
        cli.main(["verify", str(paths[2]), "--compile", "none", "--batch-size", "3", "--json", str(tmp_path / "j")])
        == 0
    )
    labels = {row["inputs"] for row in json.loads((tmp_path / "j").read_text())["rows"]}
    assert {label for label in labels if label.startswith("batch")} == {"batch 3"}


def test_sizes_below_nothing_are_refused(mlp: Path) -> None:
    with pytest.raises(MylinearError, match="batch sizes must be 0 or more, got 2, -1"):
        verify(mlp, batch_sizes=[2, -1])


def test_every_instruction_set_is_a_backend_of_its_own(mlp: Path) -> None:
    names = set(verdicts_of(verify(mlp, batch_sizes=[3])))
    usable = native.status().usable_isas
    assert {f"cpp[{isa}]" for isa in usable} <= names
    assert ("cpp" in names) is not bool(usable)


def test_other_dtypes_run_node_by_node_where_they_are_served(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = verify(mlp, batch_sizes=[2], dtypes=["float64", "bfloat16"], compile_backend=None)
    assert result.is_ok, result.table()
    labels = {(row.backend, row.inputs) for row in result.rows}
    assert ("body", "each node alone, in bfloat16") in labels
    assert ("python", "each node alone, in float64") in labels
    assert ("python", "each node alone, in bfloat16") in labels
    assert not any(backend.startswith("torch.compile") for backend, _ in labels)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/library.so")  # then Python kernels have two dtypes
    result = verify(mlp, batch_sizes=[2], dtypes=["float64", "bfloat16"], compile_backend=None)
    labels = {(row.backend, row.inputs) for row in result.rows}
    assert ("python", "each node alone, in float64") in labels
    assert ("python", "each node alone, in bfloat16") not in labels


def test_the_first_node_that_diverges_is_named(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three layers is the only one that takes 16 features and no bias."""
    matmul = np.matmul

    def wrong_in_the_second(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result = matmul(a, b)
        return result * np.float32(1.0001) if a.dtype == np.float32 and b.shape == (16, 16) else result

    monkeypatch.setattr(np, "matmul", wrong_in_the_second)
    result = verify(mlp, batch_sizes=[7])
    (row,) = [row for row in result.rows if row.backend == "python" and row.inputs == "batch 7"]
    assert row.diverges_at == "first at node '/2/MYLINEAR' (MYLINEAR)"
    assert row.diverges_at in row.verdict
    with pytest.raises(ParityError, match=r"python, batch 7: .* first at node '/2/MYLINEAR'"):
        result.check()


def test_a_wrong_backward_is_found(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {FINITE_DIFFERENCES, NN_LINEAR} <= {row.inputs for row in verify(mlp, batch_sizes=[2]).rows}
    right = autograd.linear_gradients

    def wrong(*arguments: Any) -> Any:
        grad_x, grad_weight, grad_bias = right(*arguments)
        return grad_x, None if grad_weight is None else grad_weight * (1 + 1e-5), grad_bias

    monkeypatch.setattr(autograd.PlainLinearF, "backward", staticmethod(wrong))
    violated = {row.inputs for row in verify(mlp, batch_sizes=[2]).rows if row.comparison and row.verdict != "ok"}
    assert violated == {FINITE_DIFFERENCES, NN_LINEAR}


def test_the_result_as_json_junit_and_html(mlp: Path, tmp_path: Path) -> None:
    model = onnx.load(mlp)
    model.functions[0].node[-1].op_type = "Sub"
    onnx.save(model, mlp)
    result = verify(mlp, batch_sizes=[2])
    data = json.loads(result.to_json())
    assert data["is_ok"] is False
    assert {"backend", "road", "inputs", "comparison", "ulp", "histogram", "verdict"} <= set(data["rows"][0])
    suite = ElementTree.fromstring(to_junit(result))
    assert int(suite.attrib["tests"]) == len(result.rows)
    failures = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failures
    assert all(case.attrib["classname"].endswith("body") for case in failures)
    write_html(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 2, "histograms and the graph"
    assert "http" not in page.replace("http://www.w3.org/2000/svg", ""), "it opens offline"
    assert "/2/MYLINEAR" in page
    assert "values are off" in page


def test_ulp_and_histogram() -> None:
    float32 = MYLINEAR.element_type("float32")
    one = np.array([1.0, 3.0])
    assert max_ulp((one + np.array([2**-23, 0])).astype(np.float32), one, float32) == 1
    assert max_ulp((one + np.array([0, 2**-22])).astype(np.float32), one, float32) == 1
    assert max_ulp(np.array([np.nan, np.inf], np.float32), one, float32) == 0
    counts = histogram(np.array([1.0, 3.5, 5.0]), np.array([1.0, 3.0, 3.0]), np.ones(3))
    assert sum(counts) == 3
    assert (counts[0], counts[7], counts[-1]) == (1, 1, 1)


def test_the_kernels_named_here_are_those_that_sessions_have() -> None:
    assert [kernel.name for kernel in session.available_kernels()][-1] == "body"
