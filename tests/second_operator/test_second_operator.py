"""A second operator goes all the way, and no file outside its folder knows it.

Long because it is the whole proof in one place: each test is one thing that the project does for any operator.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporter import MyLinear, check_gradients, export, verify
from exporter.promises.kernels import library_promises
from exporter.promises.result import Outcome
from exporter.promises.subject import Subject
from exporter.verification.row import Part
from ort_ops import MYLINEAR, ContractError, InferenceSession, KernelError
from ort_ops.cli import main as cli
from ort_ops.models.checks import check_shapes, function_difference
from ort_ops.models.nodes import attach_functions, check_operator_nodes, operator_nodes
from ort_ops.native import library as native
from ort_ops.numerics.faults import Unwritten
from ort_ops.opdef import registry
from ort_ops.opdef.onnx_objects import make_node
from ort_ops.python_kernels.decorator import implements
from tests.every_operator import KERNELS, combinations, complaints, in_words, one_node, sample_calls
from tests.operator_fuzz import fuzz
from tests.operators import test_every_operator as every

from .operator import KIT, SCALED_CLIP, Count, Real
from .torch_side import ScaledClip, scaled_clip, scaled_clip_op

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OVERLOADS = combinations(KIT)
IDS = [in_words(types) for types in OVERLOADS]


def compiled(source: Path, path: Path) -> Path:
    """Compile a C++ kernel as its author would: against the project's headers, into a library of its own."""
    command = ["c++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{ROOT / 'cpp_ops'}"]
    done = subprocess.run([*command, source, "-o", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ kernel."""
    return compiled(HERE / "kernel.cc", tmp_path_factory.mktemp("library") / "libexample_ops.so")


@pytest.fixture(autouse=True)
def registered(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the operator for one test."""
    monkeypatch.setenv("EXAMPLE_OPS_LIBRARY", str(built))
    registry.add(KIT)
    yield
    registry.remove(KIT)


def two_operators(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A linear layer, then the second operator, in one model."""
    rng = np.random.default_rng(0)
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    tensors = {"w": rng.standard_normal((4, 3)), "b": rng.standard_normal(4), "shift": rng.standard_normal(4)}
    stored = [numpy_helper.from_array(v.astype(numpy_type), k) for k, v in tensors.items()]
    graph = helper.make_graph(
        [
            make_node(MYLINEAR, ["x", "w", "b"], ["h"], "linear"),
            make_node(SCALED_CLIP, ["h", "count", "shift"], ["y", "mask"], "clip", alpha=-0.5),
        ],
        "two",
        [helper.make_tensor_value_info("x", dtype, ["batch", 3])],
        [
            helper.make_tensor_value_info("y", dtype, ["batch", 4]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", 4]),
        ],
        [*stored, numpy_helper.from_array(np.array(3), "count")],
    )
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(o.domain, 1) for o in (MYLINEAR, SCALED_CLIP))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


# --- What it is: shapes, messages, function body.

X, COUNT, SHIFT = np.ones((2, 3)), np.array(1), np.ones(3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([X.astype(int), COUNT, SHIFT], "SCALED_CLIP: X must be float64, float32 or float16, got int64"),
        ([X, COUNT, SHIFT.astype(np.float32)], r"SCALED_CLIP: SHIFT must be float64 \(the dtype of X\), got float32"),
        ([X, COUNT.astype(np.int8), SHIFT], "SCALED_CLIP: COUNT must be int32 or int64, got int8"),
        ([X[0, 0], COUNT, None], r"SCALED_CLIP: X must be of rank 1 or more, got \[\]"),
        ([X, COUNT[None], SHIFT], r"SCALED_CLIP: COUNT must be a scalar, got \[1\]"),
        ([X, COUNT, SHIFT[:2]], r"SCALED_CLIP: SHIFT must be \[3\], got \[2\]"),
    ],
)
def test_messages(arrays: list[Any], message: str, built: Path) -> None:
    shapes, names = ([None if a is None else f(a) for a in arrays] for f in (np.shape, lambda a: a.dtype.name))
    with pytest.raises(ContractError, match=f"^{message}$"):
        SCALED_CLIP.check_arguments(shapes, names)
    with pytest.raises(ContractError, match=f"^{message}$"):
        scaled_clip(*(None if a is None else torch.from_numpy(np.asarray(a)) for a in arrays))


def test_the_c_library_describes_the_same_operator(built: Path) -> None:
    (described,) = native.describe(str(built), "mylinear_operators")
    formal = [
        [{"name": p.name, "type": p.type.name, "optional": p.is_optional, "argument": p.argument} for p in parameters]
        for parameters in (SCALED_CLIP.inputs, SCALED_CLIP.outputs)
    ]
    assert (described["domain"], described["name"], described["since_version"]) == SCALED_CLIP.key
    assert [described["inputs"], described["outputs"]] == formal
    assert described["types"] == [{"name": v.name, "types": [*v.dtypes]} for v in SCALED_CLIP.variables]
    assert [a["name"] for a in described["attributes"]] == ["alpha"]


def test_wrong_nodes_are_refused() -> None:
    model = one_node(sample_calls(KIT, OVERLOADS[0])[0])
    node = model.graph.node[0]
    for change, message in (
        (lambda: node.attribute.append(helper.make_attribute("beta", 1.0)), "must be among alpha, got beta"),
        (lambda: node.attribute.append(helper.make_attribute("alpha", 1)), "attribute alpha must be float, got int"),
        (lambda: node.input.extend(["X"]), "the inputs must be X, COUNT and optionally SHIFT"),
    ):
        before = node.SerializeToString()
        del node.attribute[:]
        change()
        with pytest.raises(ContractError, match=message):
            check_operator_nodes(model)
        node.ParseFromString(before)
    model.opset_import[1].version = 2
    with pytest.raises(
        ContractError, match=r"the version of domain 'example.ops' must be 1, got 2; update example-ops"
    ):
        check_operator_nodes(model)


def test_wrong_shapes_in_a_model_name_the_node() -> None:
    model = two_operators()
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "shift"))
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 4]))
    with pytest.raises(ContractError, match=r"SHIFT must be \[4\], got \[2\] \(node 'clip'\)"):
        check_shapes(model)


def test_one_body_serves_several_element_types() -> None:
    graphs = [one_node(sample_calls(KIT, types)[0]).graph for types in OVERLOADS]
    model = one_node(sample_calls(KIT, OVERLOADS[0])[0])
    for number, graph in enumerate(graphs):
        graph.node[0].name += str(number)
        for value in (*graph.input, *graph.output):
            value.name += str(number)
        for names in (graph.node[0].input, graph.node[0].output):
            names[:] = [f"{name}{number}" for name in names]
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    for graph in graphs:
        model.graph.MergeFrom(graph)
    attach_functions(model)
    assert function_difference(model) is None
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [sample_calls(KIT, types)[0] for types in OVERLOADS]
    feed = {
        f"{parameter.argument}{number}": array
        for number, call in enumerate(found)
        for parameter, array in zip(SCALED_CLIP.inputs, call.arrays, strict=True)
    }
    results = session.run(None, feed)
    for number, call in enumerate(found):
        assert complaints(KIT, call, results[2 * number : 2 * number + 2]) == []


# --- What runs it: Python, C++, body, torch; alone and beside another operator.


@pytest.mark.parametrize("types", OVERLOADS, ids=IDS)
def test_it_passes_the_tests_of_every_operator(types: Any) -> None:
    for kernels in KERNELS:
        every.test_each_kernel_is_within_the_bound(KIT, types, kernels)
    every.test_constants_of_the_model_give_the_same(KIT, types)
    every.test_the_schema_infers_what_the_model_states(KIT, types)
    every.test_an_output_that_is_optional_may_be_absent(KIT, types)
    for opset in (13, 15, 17, 20):
        every.test_the_function_body_is_right_in_plain_onnxruntime(KIT, types, opset)


def test_it_passes_the_fuzz_of_every_operator() -> None:
    every.test_the_samples_are_worth_trying(KIT)
    outcomes, faults = fuzz(200, kits=("tests.second_operator.operator:KIT",))
    assert not faults, faults[:5]
    assert min(outcomes["right"], outcomes["error"]) > 20, outcomes


@pytest.mark.parametrize("types", OVERLOADS, ids=IDS)
def test_the_python_function_and_torch_are_within_the_bound(types: Any) -> None:
    kernel = KIT.python_kernel()
    for call in sample_calls(KIT, types):
        assert complaints(KIT, call, kernel(*call.arrays, **call.attributes)) == []
        tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in call.arrays]
        results = [t.numpy() for t in scaled_clip(*tensors, **call.attributes)]
        assert complaints(KIT, call, results) == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_operators_run_in_one_model(kernel: str) -> None:
    model = two_operators()
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    y, mask = InferenceSession(model.SerializeToString(), kernels=kernel).run(None, {"x": x})
    w, b, shift = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer[:3])
    np.testing.assert_array_equal(mask, np.where(y > 0, 3, 0))
    np.testing.assert_allclose(y, -0.5 * (x @ w.T + b) + shift, rtol=1e-5, atol=1e-6)


def test_each_operator_runs_by_the_best_kernel_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXAMPLE_OPS_LIBRARY")
    session = InferenceSession(two_operators().SerializeToString())
    assert session.kernels == {"mylinear::MYLINEAR": "cpp", "example.ops::SCALED_CLIP": "python"}
    with pytest.raises(KernelError, match="SCALED_CLIP is not built; set EXAMPLE_OPS_LIBRARY"):
        InferenceSession(two_operators().SerializeToString(), kernels="cpp")


def test_a_python_kernel_s_own_error_is_raised_as_it_was() -> None:
    model = one_node(sample_calls(KIT, OVERLOADS[0])[0])
    for value in model.graph.input:
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.ClearField("shape")
    for kernel in ("cpp", "python"):
        session = InferenceSession(model.SerializeToString(), kernels=kernel)
        with pytest.raises(Exception, match=r"SCALED_CLIP: SHIFT must be \[3\], got \[2\]"):
            session.run(None, {"X": np.ones((2, 3)), "COUNT": np.array(1, np.int32), "SHIFT": np.ones(2)})


# --- What describes it: inspect, doctor, run.


def test_inspect_lists_its_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(two_operators(), tmp_path / "two.onnx")
    assert cli.main(["inspect", str(tmp_path / "two.onnx")]) == 0
    text = capsys.readouterr().out
    assert "SCALED_CLIP" in text
    assert "MYLINEAR" in text
    assert cli.main(["inspect", str(tmp_path / "two.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "example.ops::SCALED_CLIP" in json.dumps(found["running"])


def test_doctor_lists_its_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["doctor"]) == 0
    assert "SCALED_CLIP" in capsys.readouterr().out
    monkeypatch.delenv("EXAMPLE_OPS_LIBRARY")
    cli.main(["doctor"])
    assert "set EXAMPLE_OPS_LIBRARY to its library" in capsys.readouterr().out


def test_run_runs_it(tmp_path: Path) -> None:
    onnx.save(two_operators(), tmp_path / "two.onnx")
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    for kernel in KERNELS:
        arguments = ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy"), "--kernels", kernel]
        assert cli.main(["run", str(tmp_path / "two.onnx"), *arguments]) == 0
        expected = InferenceSession(tmp_path / "two.onnx", kernels=kernel).run(["y"], {"x": x})[0]
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


# --- What proves it: verify, with every backend; it catches a wrong kernel, and tells what went untested.


def test_verify_proves_each_node_and_the_whole_model(tmp_path: Path) -> None:
    onnx.save(two_operators(), tmp_path / "two.onnx")
    result = verify(tmp_path / "two.onnx")
    assert result.is_ok, result.table()
    assert result.num_nodes == 2
    assert not result.untested
    backends = {
        row.backend.replace("cpp[baseline]", "cpp") for row in result.rows if row.part is Part.NODES and row.is_ok
    }
    assert backends >= {"torch eager", "torch.compile[aot_eager]", "reference", "cpp", "python", "body"}
    gradients = [row for row in result.rows if row.part is Part.GRADIENTS]
    assert {row.inputs for row in gradients} >= {"gradients, finite differences in float64", "gradients, exact"}
    assert all(row.is_ok for row in gradients)


@pytest.mark.parametrize("factor", [1.00001, np.nan])
def test_verify_catches_a_wrong_python_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    @implements(SCALED_CLIP)
    def wrong(x: Real, count: Count, shift: Real | None = None, *, alpha: float = 1.0) -> tuple[Real, Count | None]:
        y, mask = KIT.python_kernel()(x, count, shift, alpha=alpha)
        return (y * factor).astype(y.dtype), mask

    registry.remove(KIT)
    broken = replace(KIT, python_kernel=lambda: wrong)
    registry.add(broken)
    try:
        onnx.save(two_operators(), tmp_path / "two.onnx")
        result = verify(tmp_path / "two.onnx")
        assert not result.is_ok
        assert {row.backend for row in result.rows if row.is_violated} == {"python"}
        assert any("clip" in row.diverges_at for row in result.rows if row.is_violated)
    finally:
        registry.remove(broken)


def test_verify_catches_a_wrong_function_body(tmp_path: Path) -> None:
    model = two_operators()
    attach_functions(model)
    (function,) = (f for f in model.functions if f.name == "SCALED_CLIP")
    next(node for node in function.node if node.op_type == "Add").op_type = "Sub"
    onnx.save(model, tmp_path / "two.onnx")
    result = verify(tmp_path / "two.onnx", batch_sizes=[2], compile_backend=None)
    assert {row.backend for row in result.rows if row.is_violated} == {"body"}


def test_verify_tells_which_nodes_no_input_reached(tmp_path: Path) -> None:
    model = two_operators()
    # Only where x has a sum beyond all numbers is the node reached, with a COUNT that is computed.
    del model.graph.node[1:]
    clip = make_node(SCALED_CLIP, ["h", "n", "shift"], ["then_y", ""], "clip", alpha=-0.5)
    del clip.output[1:]
    then = helper.make_graph(
        [helper.make_node("Size", ["x"], ["n"]), clip],
        "then",
        [],
        [helper.make_tensor_value_info("then_y", TensorProto.FLOAT, None)],
    )
    identity = helper.make_node("Identity", ["h"], ["else_y"])
    otherwise = helper.make_graph(
        [identity], "else", [], [helper.make_tensor_value_info("else_y", TensorProto.FLOAT, None)]
    )
    model.graph.node.extend(
        [
            helper.make_node("Constant", [], ["never"], value=helper.make_tensor("never", TensorProto.BOOL, [], [0])),
            helper.make_node("If", ["never"], ["y"], then_branch=then, else_branch=otherwise),
        ]
    )
    del model.graph.output[1:]
    onnx.save(model, tmp_path / "never.onnx")
    result = verify(tmp_path / "never.onnx")
    told = {**result.untested, **dict(enumerate(result.notes))}
    assert any("clip" in f"{where} {why}" for where, why in told.items()), result.table()


def test_verify_holds_no_parity_while_only_its_definition_runs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.remove(KIT)
    operator = replace(SCALED_CLIP, make_body=None)
    bare = replace(KIT, operator=operator, python_kernel=None, library=None, torch="")
    registry.add(bare)
    try:
        onnx.save(two_operators(), tmp_path / "two.onnx")
        command = ["verify", str(tmp_path / "two.onnx"), "--compile", "none", "--batch-size", "1"]
        assert cli.main(command) == 1
        told = capsys.readouterr().out
        assert "untested: node 'clip'" in told
        assert "parity holds" not in told
        assert cli.main([*command, "--allow-untested"]) == 0
    finally:
        registry.remove(bare)


# --- What rewrites it: lower, and not adopt.


def test_lower_makes_standard_operators_of_it(tmp_path: Path) -> None:
    from ort_ops.rewrite.rewrite import lower

    onnx.save(two_operators(), tmp_path / "two.onnx")
    result = lower(tmp_path / "two.onnx", tmp_path / "standard.onnx")
    assert len(result.rewritten) == 2
    model = onnx.load(tmp_path / "standard.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    expected = InferenceSession(tmp_path / "two.onnx", kernels="body").run(None, {"x": x})
    plain = onnxruntime.InferenceSession(tmp_path / "standard.onnx", providers=["CPUExecutionProvider"])
    for got, wanted in zip(plain.run(None, {"x": x}), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_adopt_leaves_it_alone(tmp_path: Path) -> None:
    from ort_ops.rewrite.rewrite import adopt

    onnx.save(two_operators(), tmp_path / "two.onnx")
    adopt(tmp_path / "two.onnx", tmp_path / "adopted.onnx")
    nodes = [n for n in onnx.load(tmp_path / "adopted.onnx").graph.node if n.op_type == "SCALED_CLIP"]
    assert [n.SerializeToString() for n in nodes] == [two_operators().graph.node[1].SerializeToString()]


# --- What makes it: torch, and both exporters.


def test_torch_s_own_checks_pass() -> None:
    x, count, shift = torch.randn(4, 3, dtype=torch.float64), torch.tensor(2), torch.randn(3, dtype=torch.float64)
    torch.library.opcheck(scaled_clip_op, (x.requires_grad_(), count, shift.requires_grad_(), 0.5))
    torch.library.opcheck(scaled_clip_op, (x, count, None, 0.5))
    check_gradients(lambda x, shift: scaled_clip(x, count, shift, alpha=-0.3)[0], (x.detach(), shift.detach()))
    check_gradients(ScaledClip(3), x.detach())


def test_the_exact_gradient_is_torch_s() -> None:
    for call in sample_calls(KIT, OVERLOADS[0])[:7]:
        tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in call.arrays]
        wanted = [t for t in tensors if t is not None and t.is_floating_point()]
        for tensor in wanted:
            tensor.requires_grad_()
        y, _ = scaled_clip(*tensors, **call.attributes)
        direction = torch.randn_like(y)
        got = torch.autograd.grad(y, wanted, direction)
        exact = [g for g in KIT.gradient(call, [direction.numpy(), None]) if g is not None]
        for one, other in zip(got, exact, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-12, atol=1e-12)


class Both(nn.Module):
    """A linear layer, then the second operator."""

    def __init__(self, *, with_mask: bool) -> None:
        super().__init__()
        self.linear, self.clip = MyLinear(3, 4), ScaledClip(4, alpha=0.25, count=5, with_mask=with_mask)

    def forward(self, x: torch.Tensor) -> Any:
        """Return Y, and MASK where it was asked for."""
        return self.clip(self.linear(x))


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_export_makes_one_node_of_it(engine: str, with_mask: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = export(Both(with_mask=with_mask).eval(), torch.rand(2, 3), tmp_path / "both.onnx", engine=engine)
    nodes = operator_nodes(onnx.load(tmp_path / "both.onnx"))
    assert [n.operator.name for n in nodes] == ["MYLINEAR", "SCALED_CLIP"]
    assert nodes[1].attributes == {"alpha": 0.25}
    assert dict(result.num_nodes) == {"mylinear::MYLINEAR": 1, "example.ops::SCALED_CLIP": 1}
    assert verify(tmp_path / "both.onnx", batch_sizes=[2]).is_ok


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("dynamo", [True, False])
def test_plain_torch_onnx_export_makes_one_node_of_it(dynamo: bool, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    x = torch.rand(2, 3)
    model = Both(with_mask=True).eval()
    torch.onnx.export(model, (x,), path, dynamo=dynamo, input_names=["x"], verbose=False)
    nodes = operator_nodes(onnx.load(path))
    assert [n.operator.name for n in nodes] == ["MYLINEAR", "SCALED_CLIP"]
    assert nodes[1].attributes == {"alpha": 0.25}
    for got, wanted in zip(InferenceSession(path).run(None, {"x": x.numpy()}), model(x), strict=True):
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-5, atol=1e-6)


# --- Where it comes from: an installed package; and who knows it.


@pytest.mark.long
def test_an_installed_package_brings_it(tmp_path: Path, built: Path) -> None:
    """Install a package of these files with an entry point, and use it in a process that knows nothing of it."""
    package = tmp_path / "source" / "example_ops"
    package.mkdir(parents=True)
    for name in ("__init__.py", "operator.py", "torch_side.py"):
        shutil.copy(HERE / name, package)
    info = tmp_path / "site" / "example_ops-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copytree(package, tmp_path / "site" / "example_ops")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-ops\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mylinear.operators]\nexample = example_ops.operator:KIT\n")
    onnx.save(two_operators(), tmp_path / "two.onnx")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ort_ops.opdef import registry\n"
        "assert registry.find('example.ops', 'SCALED_CLIP') is not None, registry.failures()\n"
        "from ort_ops.cli.main import main\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    environment = {**os.environ, "EXAMPLE_OPS_LIBRARY": str(built), "PYTHONPATH": str(ROOT)}
    for verb, expected in (("inspect", "SCALED_CLIP"), ("verify", "parity holds")):
        command = [sys.executable, "-c", code, str(tmp_path / "site"), verb, str(tmp_path / "two.onnx")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout


def test_no_file_outside_this_folder_knows_it() -> None:
    words = re.compile(r"scaled.?clip|example[._-]ops", re.IGNORECASE)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    own = HERE.relative_to(ROOT).as_posix() + "/"
    paths = [p for p in listed.splitlines() if not p.startswith(own) and (ROOT / p).is_file()]
    assert len(paths) > 300
    assert [p for p in paths if words.search((ROOT / p).read_bytes().decode(errors="replace"))] == []


def test_a_kernel_that_leaves_an_element_as_it_was_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = (HERE / "kernel.cc").read_text()
    # Memory may hold the right value by chance: here it does, except where an output was filled beforehand.
    write = "y.as<S>()[i] = rounded;"
    filled = "*reinterpret_cast<unsigned char*>(y.as<S>() + i)"
    wrong = right.replace(write, f"if (i + 1 < x.count() || ({filled} != 0xFF && {filled} != 0x5A)) {write}")
    assert wrong != right
    (tmp_path / "wrong.cc").write_text(wrong)
    monkeypatch.setenv("EXAMPLE_OPS_LIBRARY", str(compiled(tmp_path / "wrong.cc", tmp_path / "libwrong.so")))
    found = {p.subject: p.detail for p in library_promises(Subject(KIT), "wrong") if p.outcome is Outcome.BROKEN}
    assert len(found) == len(OVERLOADS)
    assert all(re.search(r"1 of \d+ values of Y are never written", detail) for detail in found.values()), found
    onnx.save(two_operators(), tmp_path / "two.onnx")
    rows = verify(tmp_path / "two.onnx", compile_backend=None, batch_sizes=[2]).rows
    found_rows = [row for row in rows if row.is_violated and row.backend.startswith("cpp") and row.part is Part.NODES]
    assert found_rows
    assert all(row.comparison is not None and isinstance(row.comparison.fault, Unwritten) for row in found_rows)
