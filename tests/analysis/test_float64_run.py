"""The bound of a whole model: honest at any depth, sharp, and silent on nothing that it cannot decide.

Long because each model here tries one way in which a bound could be too small, on the same few helpers.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from exporter.operators.mylinear.module import MyLinear
from exporter.to_onnx.checks.agreement import ExportError, compare_with_torch
from exporter.to_onnx.export import export
from exporter.verification.backends import base as backends
from exporter.verification.verify import verify
from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64 import tracker
from ort_ops.analysis.float64.local_error import _FROM_ONE, _FUNCTIONS, _GATED, local_error
from ort_ops.analysis.float64.tracker import Tracker
from ort_ops.analysis.float64_run import RUNS, Float64Run
from ort_ops.analysis.rows import with_input
from ort_ops.errors import ModelError
from ort_ops.models.nodes import attach_functions
from ort_ops.numerics import sums
from ort_ops.numerics.compare import Verdict
from ort_ops.numerics.sums import sum_size
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.session import InferenceSession

Array = NDArray[Any]
FLOAT32 = MYLINEAR.element_type("float32")


def chain(depth: int, width: int, *, relu: bool = True, dtype: Any = np.float32) -> onnx.ModelProto:
    """Layers that keep the size of what goes through them, of seeded random weights."""
    rng = np.random.default_rng(0)
    nodes, tensors, value = [], [], "x"
    for i in range(depth):
        weight = rng.standard_normal((width, width)) * np.sqrt((2 if relu else 1) / width)
        tensors.append(numpy_helper.from_array(weight.astype(dtype), f"w{i}"))
        tensors.append(numpy_helper.from_array((rng.standard_normal(width) / 10).astype(dtype), f"b{i}"))
        nodes.append(helper.make_node(NAME, [value, f"w{i}", f"b{i}"], [f"h{i}"], f"layer{i}", domain=DOMAIN))
        value = f"h{i}"
        if relu and i < depth - 1:
            nodes.append(helper.make_node("Relu", [value], [f"a{i}"]))
            value = f"a{i}"
    nodes[-1].output[0] = "y"
    model = model_of(nodes, {"x": ["n", width]}, tensors, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    attach_functions(model)
    return model


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any] | None],
    tensors: list[onnx.TensorProto] | None = None,
    element_type: int = TensorProto.FLOAT,
    outputs: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of these nodes with the output ``y``."""
    values = [helper.make_tensor_value_info(name, element_type, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(n, t, None) for n, t in (outputs or {"y": element_type}).items()]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", values, results, tensors or [])
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def run_in_onnxruntime(model: onnx.ModelProto, **feed: Array) -> list[Array]:
    results: list[Array] = InferenceSession(model.SerializeToString(), kernels="body").run(None, feed)
    return results


def rows(count: int, width: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(1).standard_normal((count, width)).astype(dtype)


def slack(model: onnx.ModelProto, x: Array) -> float:
    """How many times the real error the bound is, as root mean squares; onnxruntime must be within it."""
    value = Float64Run(model)({"x": x}).outputs["y"]
    got = run_in_onnxruntime(model, x=x)[0]
    comparison = value.compare(got)
    assert comparison.verdict is Verdict.OK, comparison.text
    error = got.astype(np.float64) - value.exact
    return float(np.sqrt(np.mean(value.error**2) / np.mean(error**2)))


def test_the_bound_grows_as_the_real_error_does() -> None:
    found = {depth: slack(chain(depth, 8), rows(16, 8)) for depth in (1, 10, 100, 300)}
    assert all(3 < ratio < 100 for ratio in found.values()), found
    assert found[300] < 4 * found[1], found


def test_the_bound_of_float64_models_is_as_sharp() -> None:
    """Against the same model in float128, which NumPy's matmul has."""
    model, x = chain(30, 8, dtype=np.float64), rows(16, 8, np.float64)
    value = Float64Run(model)({"x": x}).outputs["y"]
    exact, tensors = x.astype(np.longdouble), [numpy_helper.to_array(t) for t in model.graph.initializer]
    for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
        exact = exact @ weight.T.astype(np.longdouble) + bias
        exact = np.maximum(exact, 0) if weight is not tensors[-2] else exact
    got = run_in_onnxruntime(model, x=x)[0]
    assert value.compare(got).verdict is Verdict.OK
    error = np.sqrt(np.mean((got - exact).astype(np.float64) ** 2))
    assert 3 < np.sqrt(np.mean(value.error**2)) / error < 100


@pytest.mark.long
def test_a_thousand_layers() -> None:
    assert 3 < slack(chain(1000, 8), rows(4, 8)) < 100


@pytest.mark.parametrize("depth", [4, 8])
def test_a_branch_that_export_lost_is_found(depth: int, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(nn.Sequential(MyLinear(256, 256), nn.ReLU()) for _ in range(depth)))

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] > 2:
                x = x * 2
            return self.layers(x)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    with pytest.raises(ExportError, match="values are off"):
        export(Branching(), torch.randn(2, 256), tmp_path / "m.onnx", engine="torchscript")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("depth", "width"),
    [
        (40, 8),
        pytest.param(60, 256, marks=pytest.mark.slow),
        pytest.param(300, 8, marks=pytest.mark.slow),
        pytest.param(400, 8, marks=pytest.mark.slow),
    ],
)
def test_deep_models_are_exported(depth: int, width: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(MyLinear(width, width), nn.ReLU()) for _ in range(depth)]
    result = export(nn.Sequential(*layers), torch.randn(2, width), tmp_path / "m.onnx", engine="torchscript")
    assert result.comparisons["y"].verdict is Verdict.OK
    assert result.comparisons["y"].max_in_bounds < 1


class Block(nn.Module):
    """A transformer's layer, with its attention written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = MyLinear(width, 3 * width), MyLinear(width, width)
        self.up, self.down = MyLinear(width, 4 * width), MyLinear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape
        q, k, v = (
            part.reshape(size[0], size[1], self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.first(x)).chunk(3, -1)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) / (size[-1] // self.heads) ** 0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(size))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))  # type: ignore[no-any-return]


def transformer(layers: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width, 4) for _ in range(layers)), nn.LayerNorm(width), MyLinear(width, 10)).eval()


def mlp(layers: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (MyLinear(width, width), nn.ReLU())]
    for part in parts:
        if isinstance(part, MyLinear):
            nn.init.kaiming_normal_(part.weight)
    return nn.Sequential(*parts, MyLinear(width, 10)).eval()


def wrong_weights(model: nn.Module, example: Tensor, path: Path) -> None:
    """Check that three layers in turn are found by export's check, where their weights are not compared as such."""
    export(model, example, path, engine="torchscript")
    taken = [node.input[1] for node in onnx.load(path).graph.node if node.op_type == NAME]
    for name in {taken[0], taken[len(taken) // 2], taken[-1]}:
        spoiled = onnx.load(path)
        (tensor,) = (t for t in spoiled.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.0001), "renamed"))
        for node in spoiled.graph.node:
            node.input[:] = ["renamed" if value == name else value for value in node.input]
        with pytest.raises(ExportError, match="torch's output 'y' is not what the exported graph gives in float64"):
            compare_with_torch(spoiled, model, (example,), ["x"], {"x": {}})


def wrong_in_verify(path: Path, batch_size: int) -> None:
    """Check that the whole-model row of `verify` finds it in the middle layer of one runtime."""
    model = onnx.load(path)
    taken = [node.input[1] for node in model.graph.node if node.op_type == NAME]
    (tensor,) = (t for t in model.graph.initializer if t.name == taken[len(taken) // 2])
    weight = numpy_helper.to_array(tensor)

    def wrong(kit: OperatorKit, call: Call) -> list[Array]:
        given = call.array(1)
        assert given is not None
        if given.shape == weight.shape and np.array_equal(given, weight):
            call = with_input(call, 1, given * given.dtype.type(1.0001))
        return right(kit, call)

    right = backends.reference_outputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "reference_outputs", wrong)
        result = verify(path, batch_sizes=[batch_size], compile_backend=None, device="cpu")
    (row,) = (r for r in result.rows if r.backend == "reference" and r.inputs == f"batch {batch_size}")
    assert row.comparison is not None
    assert row.comparison.verdict is Verdict.VIOLATED


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch's own, of traced sizes
def test_a_weight_off_by_a_ten_thousandth_is_found(tmp_path: Path) -> None:
    wrong_weights(transformer(1, 16), torch.randn(2, 6, 16), tmp_path / "transformer.onnx")
    wrong_weights(mlp(6, 16), torch.randn(8, 16), tmp_path / "mlp.onnx")
    wrong_in_verify(tmp_path / "mlp.onnx", 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, of traced sizes
@pytest.mark.parametrize("name", ["transformer", "mlp"])
def test_a_weight_off_by_a_ten_thousandth_is_found_in_a_deep_model(name: str, tmp_path: Path) -> None:
    models = {"transformer": (transformer(12, 128), (4, 16, 128)), "mlp": (mlp(60, 256), (8, 256))}
    model, shape = models[name]
    wrong_weights(model, torch.randn(shape), tmp_path / "m.onnx")
    wrong_in_verify(tmp_path / "m.onnx", 4)


def test_one_number_of_a_weight_off_by_a_ten_thousandth_is_found(tmp_path: Path) -> None:
    """Deep in a model it changes the outputs by less than rounding: the weights themselves are compared."""
    model, example = mlp(12, 8), torch.randn(4, 8)
    export(model, example, tmp_path / "m.onnx", engine="torchscript")
    proto = onnx.load(tmp_path / "m.onnx")
    (tensor,) = (t for t in proto.graph.initializer if t.name == "6.weight")
    spoiled = numpy_helper.to_array(tensor).copy()
    spoiled[3, 5] *= np.float32(1.0001)
    tensor.CopyFrom(numpy_helper.from_array(spoiled, tensor.name))
    with pytest.raises(ExportError, match=r"the weight '6\.weight' of the exported graph is not that of the model"):
        compare_with_torch(proto, model, (example,), ["x"], {"x": {}})


def test_a_cast_to_float16_before_a_layer(tmp_path: Path) -> None:
    """Edge values overflow in the cast: infinity is what is exact there."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = MyLinear(16, 4).half()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.half())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    export(Half(), torch.randn(2, 16), tmp_path / "m.onnx")
    result = verify(tmp_path / "m.onnx", compile_backend=None, device="cpu")
    assert result.is_ok, result.table()
    rows_of = [row for row in result.rows if row.comparison is not None]
    assert {row.verdict for row in rows_of} == {"ok"}
    assert {("reference", "edge values"), ("body", "edge values")} <= {(row.backend, row.inputs) for row in rows_of}


@pytest.mark.parametrize(
    ("depth", "width", "relu"),
    [
        (20, 8, True),
        pytest.param(500, 8, False, marks=pytest.mark.slow),
        pytest.param(25, 1024, True, marks=pytest.mark.slow),
    ],
)
def test_deep_chains_verify_on_every_input(depth: int, width: int, relu: bool, tmp_path: Path) -> None:
    onnx.save(chain(depth, width, relu=relu), tmp_path / "m.onnx")
    result = verify(tmp_path / "m.onnx", compile_backend=None, device="cpu", batch_sizes=[1, 7])
    assert {row.verdict for row in result.rows if row.inputs in ("batch 1", "batch 7", "edge values")} == {"ok"}


def test_results_that_hang_on_a_decision_are_undecided() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "tenth"], ["h"]),
        helper.make_node("ArgMax", ["h"], ["i"], axis=1, keepdims=0),
        helper.make_node("Greater", ["h", "limit"], ["c"]),
        helper.make_node("Where", ["c", "h", "other"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(np.float32(0.1), "tenth"),
        numpy_helper.from_array(np.float32(0.3), "limit"),
        numpy_helper.from_array(np.float32(-5), "other"),
    ]
    outputs = {"y": TensorProto.FLOAT, "i": TensorProto.INT64}
    model = model_of(nodes, {"x": ["n", 3]}, tensors, outputs=outputs)
    near = np.float32(3.0)
    x = np.array([[1, 2, 3.5], [near, 1, np.nextafter(near, np.float32(0))], [-1, -2, -3]], np.float32)
    found = Float64Run(model)({"x": x}).outputs
    assert found["i"].undecided.tolist() == [False, True, False]
    assert found["y"].undecided.tolist() == [[False] * 3, [True, False, True], [False] * 3]
    right = run_in_onnxruntime(model, x=x)
    for value, got in zip((found["y"], found["i"]), right, strict=True):
        comparison = value.compare(got)
        assert comparison.verdict is Verdict.UNDECIDED
        assert comparison.is_within_bound
    right[1][0] = 0
    assert found["i"].compare(right[1]).verdict is Verdict.VIOLATED


def test_decisions_on_equal_numbers_are_decided() -> None:
    """What is compared with itself, and what is exact, does not turn."""
    nodes = [
        helper.make_node("Mul", ["x", "tenth"], ["h"]),
        helper.make_node("ReduceMax", ["h"], ["most"], keepdims=1),
        helper.make_node("Equal", ["h", "most"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": ["n", 3]}, [numpy_helper.from_array(np.float32(0.1), "tenth")])
    value = Float64Run(model)({"x": rows(4, 3)}).outputs["y"]
    assert not value.undecided.any()
    assert not value.error.any()


def test_overflow_is_decided_before_any_bound() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)
    model = model_of([cast], {"x": ["n"]}, outputs={"y": TensorProto.FLOAT16})
    x = np.array([65519.0, 65520.0, -1e30, np.inf, np.nan, 1.0], np.float32)
    value = Float64Run(model)({"x": x}).outputs["y"]
    np.testing.assert_array_equal(np.isinf(value.exact), [False, True, True, True, False, False])
    with np.errstate(over="ignore"):
        right = x.astype(np.float16)
    assert value.compare(right).is_within_bound
    assert value.compare(np.nan_to_num(right)).verdict is Verdict.VIOLATED


def test_partial_sums_that_may_overflow_leave_what_follows_undecided() -> None:
    largest = np.float32(FLOAT32.largest)
    weight = numpy_helper.from_array(np.array([[1, 1, -1, -1], [0.5, 0, 0, 0]], np.float32), "w")
    nodes = [
        helper.make_node(NAME, ["x", "w"], ["h"], domain=DOMAIN),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["n", 4]}, [weight])
    x = np.array([[largest, largest, largest, largest], [1, 2, 3, 4]], np.float32)
    value = Float64Run(model)({"x": x}).outputs["y"]
    assert value.undecided.tolist() == [[True, False], [False, False]]


def test_a_sum_that_overflows_is_undecided_where_partial_sums_of_both_signs_do() -> None:
    node = helper.make_node(NAME, ["x", "w"], ["y"], domain=DOMAIN)
    weight = numpy_helper.from_array(np.full((1, 3), 3e38, np.float32), "w")
    model = model_of([node], {"x": ["n", 3]}, [weight])
    x = np.array([[2, 3, -2], [-2, -3, 2], [2, 2, 0], [-2, 0, -2]], np.float32)
    value = Float64Run(model)({"x": x}).outputs["y"]
    np.testing.assert_array_equal(value.undecided[:, 0], [True, True, False, False])
    nan = np.full((2, 1), np.nan, np.float32)
    right = np.concatenate([nan, np.array([[np.inf], [-np.inf]], np.float32)])
    assert value.compare(right).verdict is Verdict.UNDECIDED
    assert value.compare(np.concatenate([nan, nan])).verdict is Verdict.VIOLATED


def test_a_bound_as_large_as_the_values_proves_nothing_and_says_so() -> None:
    """(1 + x) - 1 for tiny x has lost everything."""
    one = numpy_helper.from_array(np.float32(1), "one")
    nodes = [helper.make_node("Add", ["x", "one"], ["h"]), helper.make_node("Sub", ["h", "one"], ["y"])]
    x = rows(4, 3) * np.float32(1e-9)
    value = Float64Run(model_of(nodes, {"x": ["n", 3]}, [one]))({"x": x}).outputs["y"]
    comparison = value.compare(np.zeros((4, 3), np.float32))
    assert comparison.verdict is Verdict.UNBOUNDED
    assert comparison.text == "12 unbounded of 12 values, no other is off"
    assert value.compare(np.full((4, 3), np.nan, np.float32)).verdict is Verdict.VIOLATED


def test_an_operator_of_onnxruntime_only_is_run_by_it() -> None:
    nodes = [
        helper.make_node("QuickGelu", ["x"], ["h"], domain="com.microsoft", alpha=1.7),
        helper.make_node("Mul", ["h", "h"], ["y"]),
    ]
    model, x = model_of(nodes, {"x": ["n", 5]}), rows(6, 5)
    value = Float64Run(model)({"x": x}).outputs["y"]
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert value.compare(got).verdict is Verdict.OK
    assert value.compare(got * np.float32(1.0001)).verdict is Verdict.VIOLATED


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize(
    ("op_type", "count", "attribute"),
    [("Softmax", 1, "axis"), ("Concat", 2, "axis"), ("ReduceSum", 1, "keepdims"), ("Gemm", 2, "transA")],
)
def test_attributes_that_a_function_takes_from_its_call(op_type: str, count: int, attribute: str, chosen: int) -> None:
    inner = helper.make_node(op_type, ["x"] * count, ["y"])
    inner.attribute.add(name=attribute, ref_attr_name="chosen", type=onnx.AttributeProto.INT)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Call", ["x"], ["y"], [inner], opsets, ["chosen"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    call = helper.make_node("Call", ["x"], ["y"], domain="own", chosen=chosen)
    graph = helper.make_graph([call], "calls", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[function])
    x = rows(3, 3)
    comparison = Float64Run(model)({"x": x}).outputs["y"].compare(run_in_onnxruntime(model, x=x)[0])
    assert comparison.verdict is Verdict.OK, comparison.text


def test_an_operator_that_nothing_runs_is_named() -> None:
    model = model_of([helper.make_node("NoSuch", ["x"], ["y"], "strange", domain="com.microsoft")], {"x": ["n", 5]})
    with pytest.raises(ModelError, match=r"node 'strange' \(NoSuch\) can be run neither by onnx's evaluator nor alone"):
        Float64Run(model)({"x": rows(6, 5)})


@pytest.mark.parametrize("op_type", sorted((_FUNCTIONS | _GATED | _FROM_ONE) - {"FastGelu", "QuickGelu", "Swish"}))
def test_functions_of_onnxruntime_keep_their_local_error(op_type: str) -> None:
    """A factor of 4 lies between this and what a whole model allows."""
    x = np.concatenate([np.linspace(-30, 30, 4001), rows(1, 2000)[0] / 1000, -np.logspace(-30, 1.5, 500)])
    domains = {"Acosh": 1 + abs(x), "Log": abs(x), "Pow": abs(x)}
    domains |= dict.fromkeys(("Acos", "Asin", "Atanh"), x / 32)
    x = domains.get(op_type, x).astype(np.float32)
    inputs = ["x", "x"] if op_type in ("Pow", "Sum", "Mean") else ["x"]
    model = model_of([helper.make_node(op_type, inputs, ["y"])], {"x": ["n"]})
    exact = Float64Run(model)({"x": x}).outputs["y"].exact
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0].astype(np.float64)
    size = local_error(op_type, {}, [x.astype(np.float64)], FLOAT32).size(exact, [x.astype(np.float64)], FLOAT32)
    finite = np.isfinite(exact)
    x, got, exact, size = x[finite], got[finite], exact[finite], size[finite]
    within = (np.abs(got - exact) <= size) | (got == exact)
    assert within.all(), (x[~within][:3], got[~within][:3], exact[~within][:3])


def test_the_size_of_a_sum_s_error_knows_the_order_of_the_terms() -> None:
    """Partial sums that grow and fall again err more than the terms let expect, and real errors stay within."""
    terms = np.concatenate([np.full(500, 0.1), np.full(500, -0.1)]).astype(np.float32)
    x = (np.random.default_rng(0).uniform(0.5, 1.5, (200, 1000)) * 10).astype(np.float32)
    exact, size = sum_size(x.astype(np.float64), terms.astype(np.float64)[:, None], FLOAT32)
    running = np.zeros(200, np.float32)
    for k in range(1000):
        running = running + x[:, k] * terms[k]
    error = np.abs(running - exact[:, 0])
    assert (error <= 4 * size[:, 0]).all()
    assert np.sqrt(np.mean(error**2)) > size.mean() / 20


def test_equal_terms_are_rounded_one_way() -> None:
    x, weight = np.full((1, 30_000), 0.3, np.float32), np.full((30_000, 1), 0.1, np.float32)
    exact, size = sum_size(x.astype(np.float64), weight.astype(np.float64), FLOAT32)
    running = np.add.accumulate((x * weight.T)[0], dtype=np.float32)[-1]
    assert 1.5 * size[0, 0] / 4 < abs(running - exact[0, 0]) < 4 * size[0, 0]


def test_the_number_of_runs_is_small_and_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    start = Tracker.start
    monkeypatch.setattr(Tracker, "start", lambda self, p: started.append(p) or start(self, p))
    Float64Run(chain(5, 8))({"x": rows(2, 8)})
    assert len(started) == 1 + len(RUNS) == 9


def test_error_sizes_are_computed_once_and_no_more_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Any] = []
    monkeypatch.setattr(sums, "sum_size", lambda *a: computed.append(a[0].shape) or sum_size(*a))
    model, x = chain(5, 8), rows(2, 8)
    kept = Float64Run(model)({"x": x}).outputs["y"].error
    assert len(computed) == 5
    monkeypatch.setattr(tracker, "_SIZES_NBYTES", 2 * 8 * 8 * 2)
    computed.clear()
    anew = Float64Run(model)({"x": x}).outputs["y"].error
    assert len(computed) == 2 + 3 * len(RUNS)
    np.testing.assert_allclose(kept, anew, rtol=1e-3)


def test_one_weight_at_a_time_is_held_in_float64() -> None:
    model, x = chain(24, 128), rows(2, 128)
    nbytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    run = Float64Run(model)
    run({"x": x})
    tracemalloc.start()
    try:
        run({"x": x})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < nbytes / 2, (peak, nbytes)


def test_values_of_another_shape_or_type_are_violations() -> None:
    value = Value(np.array([1, 2]), np.zeros(2), None)
    assert value.compare(np.array([1, 2])).verdict is Verdict.OK
    assert value.compare(np.array([1, 3])).text == "1 of 2 values differ, the first at [1]: got 3 instead of 2"
    assert value.compare(np.array([[1, 2]])).verdict is Verdict.VIOLATED


def test_float64_rounds_what_is_computed_from_fractions() -> None:
    """A result in float64 is rounded already, and so looks exact."""
    unit = MYLINEAR.element_type("float64").unit_roundoff
    a, whole = np.array([0.1, 1.0, 3.0, 0.0]), np.array([0.2, 2.0, 1.0, 0.0])
    sizes = local_error("Add", {}, [a, whole], MYLINEAR.element_type("float64")).size(
        a + whole, [a, whole], MYLINEAR.element_type("float64")
    )
    assert sizes[0] >= unit * 0.3
    assert sizes[1:].tolist() == [0.0] * 3


@pytest.mark.parametrize("attributes", [{}, {"body": onnx.GraphProto(name="body")}], ids=["plain", "with a body"])
def test_an_unknown_operator_with_the_name_of_a_known_one_is_named(attributes: dict[str, Any]) -> None:
    """Its attributes are its own, and not those of the operator of that name in ONNX."""
    node = helper.make_node("Scan", ["x"], ["y"], "strange", domain=DOMAIN, **attributes)
    run = Float64Run(model_of([node], {"x": ["n", 5]}))
    with pytest.raises(ModelError, match=r"node 'strange' \(Scan\) can be run neither by onnx's evaluator nor alone"):
        run({"x": rows(6, 5)})


def test_what_levels_off_stays_within_its_bound() -> None:
    """As in a step of Adam: the sum of a softmax less 1 is a rounding error alone, and becomes 1 or -1."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=-1),
        helper.make_node("ReduceSum", ["p", "axis"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["sum", "one"], ["g"]),
        helper.make_node("Abs", ["g"], ["size"]),
        helper.make_node("Add", ["size", "eps"], ["divisor"]),
        helper.make_node("Div", ["g", "divisor"], ["direction"]),
        helper.make_node("Mul", ["direction", "rate"], ["change"]),
        helper.make_node("Sub", ["weight", "change"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    constants = {"axis": np.array([-1]), "one": np.array(1, np.float32), "eps": np.array(1e-12, np.float32)}
    constants |= {"rate": np.array(0.01, np.float32), "weight": rng.standard_normal(4000).astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "levels off",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4000, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4000])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    feed = {"x": rng.standard_normal((4000, 7)).astype(np.float32)}
    value = Float64Run(model)(feed).outputs["y"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    comparison = value.compare(session.run(None, feed)[0])
    assert comparison.is_within_bound, comparison.text
    assert comparison.max_error > 0.009
    assert not comparison.num_unbounded
