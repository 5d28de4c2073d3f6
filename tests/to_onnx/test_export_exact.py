"""An exported graph computes what the model computes, to the last bit that matters, also at the edge of its inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from exporter import ExportError, MyLinear, export
from exporter.to_onnx import dynamo as export_dynamo
from exporter.to_onnx.checks.agreement import compare_with_torch, root_cause
from exporter.to_onnx.checks.trials import trials

ENGINES = ("dynamo", "torchscript")


class Of(nn.Module):
    """A function of a layer's result."""

    def __init__(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = MyLinear(3, 4, bias=False, dtype=dtype), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def normalized(y: Tensor) -> Tensor:
    return y / (y.abs().amax(-1, keepdim=True) + 1e-8)


def run(path: Path, x: Tensor) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "function", [normalized, lambda y: y * (1 + 1e-6), lambda y: y - 1e-9], ids=["normalized", "scaled", "shifted"]
)
def test_small_constants_stay(engine: str, function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    model = Of(function).eval()
    export(model, torch.rand(4, 3), tmp_path / "m.onnx", engine=engine)
    x = torch.zeros(2, 3)
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", x), model(x).detach().numpy())
    assert {"Add", "Sub", "Mul"} & {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


@pytest.mark.parametrize("shapes", [None, {}], ids=["dynamic", "fixed"])
def test_the_comparison_sees_what_inexact_rules_delete(
    shapes: dict[str, dict[int, str]] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_dynamo, "simplify", optimizer.optimize_ir)
    with pytest.raises(ExportError, match=r"in float64 on (rows|inputs) of 0.* instead of nan"):
        export(Of(normalized), torch.rand(4, 3), tmp_path / "m.onnx", dynamic_shapes=shapes)
    assert list(tmp_path.iterdir()) == []


def test_equal_values_are_tried_only_where_their_order_is_defined(tmp_path: Path) -> None:
    export(Of(lambda y: torch.topk(y, 2).values), torch.rand(4, 3), tmp_path / "m.onnx")
    x = torch.rand(2, 3)
    whats = [trial.what for trial in trials([x], ["x"], {"x": {0: "batch"}}, with_ties=False)]
    assert whats == ["", "", "rows of large values"]
    rows = list(trials([x, torch.tensor([[1], [2]])], ["x", "i"], {"x": {0: "n"}, "i": {0: "n"}}))[-1]
    assert rows.tensors[0].tolist() == [[0.0] * 3, [1.0] * 3, [1e4] * 3]
    assert rows.tensors[1].tolist() == [[1]] * 3


def test_constants_of_numbers_are_folded_only_by_moving_them() -> None:
    def kept() -> list[str]:
        constant = ir.Value(name="c", const_value=ir.tensor(np.array([0.3], np.float32), name="c"))
        constant.shape, constant.dtype = ir.Shape([1]), ir.DataType.FLOAT
        x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
        last, made = constant, []
        for node in ("Identity", "Erf", "Neg"):
            made.append(ir.node(node, [last]))
            last = made[-1].outputs[0]
        made.append(ir.node("Add", [x, last]))
        graph = ir.Graph([x], made[-1].outputs, nodes=made, initializers=[constant], opset_imports={"": 20}, name="g")
        made[-1].outputs[0].name = "y"
        model = ir.Model(graph, ir_version=9)
        export_dynamo.simplify(model)
        return [node.op_type for node in model.graph]

    assert kept() == ["Erf", "Neg", "Add"], "onnx's evaluator rounds Erf through float32"


def test_the_cause_names_the_dimension(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"static shape of 8 for dimension .*shape\[0\]\.; name in dynamic_shapes"
    ) as e:
        export(Of(lambda y: y.view(8, 4)), torch.rand(8, 3), tmp_path / "m.onnx")
    assert "\n" not in str(e.value)


def test_the_cause_is_one_line_of_its_first_paragraph() -> None:
    error = ValueError("one:\n  - two\n  File 'x.py'\n\nadvice")
    assert root_cause(error) == "ValueError: one: - two"
    assert len(root_cause(ValueError("long " * 1000))) < 700


def test_a_file_that_onnxruntime_cannot_run_on_other_sizes_is_said_in_a_line(tmp_path: Path) -> None:
    def fixed_by_tracing(y: Tensor) -> Tensor:
        return y + torch.ones(y.shape[0] + 0, 4) if not torch.jit.is_tracing() else y + torch.ones(int(y.shape[0]), 4)

    with pytest.raises(ExportError, match=r"onnxruntime does not run .* on 'x' of \[5, 3\].*name the dimensions") as e:
        export(Of(fixed_by_tracing), torch.rand(4, 3), tmp_path / "m.onnx", engine="torchscript")
    assert "\n" not in str(e.value)


SCALARS: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda y: y + 0.1,
    "sub": lambda y: 0.1 - y,
    "mul": lambda y: y * 0.1,
    "div": lambda y: y / 0.3,
    "reciprocal": lambda y: 0.3 / (y * y + 2),
    "pow": lambda y: y.abs() ** 0.3,
    "base of pow": lambda y: 0.3**y,
    "alpha of add": lambda y: torch.add(y, y, alpha=0.1),
    "alpha of sub": lambda y: torch.sub(y, y * y, alpha=0.1),
    "clamp": lambda y: y.clamp(-0.1, 0.1),
    "clamp from below": lambda y: y.clamp_min(0.1),
    "full": lambda y: y + torch.full((4,), 0.1, dtype=y.dtype),
    "full_like": lambda y: y + torch.full_like(y, 0.1),
    "new_full": lambda y: y + y.new_full((4,), 0.1),
    "where": lambda y: torch.where(y > 0.1, y, 0.1),
    "masked_fill": lambda y: y.masked_fill(y > 0.1, 0.1),
    "addmm": lambda y: torch.addmm(y[:, :1], y, y.new_ones(4, 4), beta=0.1, alpha=0.3),
    "baddbmm": lambda y: torch.baddbmm(y[None], y[None], y.new_ones(1, 4, 4), beta=0.1, alpha=0.3),
    "addcmul": lambda y: torch.addcmul(y, y, y, value=0.1),
    "addcdiv": lambda y: torch.addcdiv(y, y, y * y + 2, value=0.1),
    "lerp": lambda y: torch.lerp(y, y * y, 0.1),
    "layer_norm": lambda y: nn.functional.layer_norm(y, (4,), eps=1e-3),
    "layer_norm with weights": lambda y: nn.functional.layer_norm(y, (4,), y[0], y[1], eps=1e-3),
    "rms_norm": lambda y: nn.functional.rms_norm(y, (4,), eps=1e-3),
    "batch_norm": lambda y: nn.functional.batch_norm(y, y.new_ones(4) * 0.1, y.new_ones(4) * 0.7, eps=1e-3),
    "hardtanh": lambda y: nn.functional.hardtanh(y, -0.1, 0.3),
    "softshrink": lambda y: nn.functional.softshrink(y, 0.1),
    "threshold": lambda y: nn.functional.threshold(y, 0.1, 0.3),
    "log2": lambda y: torch.log2(y.abs() + 1),
    "log10": lambda y: torch.log10(y.abs() + 1),
    "deg2rad": torch.deg2rad,
    "vector_norm": lambda y: torch.linalg.vector_norm(y, 0.3, dim=-1),
    "attention": lambda y: nn.functional.scaled_dot_product_attention(*[y[None, None]] * 3, scale=0.1),
    "linspace": lambda y: y + torch.linspace(0.1, 0.7, 4, dtype=y.dtype),
    "arange": lambda y: y.sum() + torch.arange(0.1, 1.0, 0.1, dtype=y.dtype),
    "xlogy": lambda y: torch.xlogy(0.1, y.abs() + 0.3),
    "index_fill": lambda y: y.index_fill(1, torch.tensor([1]), 0.1),
    "triu_indices": lambda y: y[tuple(torch.triu_indices(4, 4, 1))],
    "tril_indices": lambda y: y[tuple(torch.tril_indices(4, 3, -1))],
    "gelu": lambda y: nn.functional.gelu(y, approximate="tanh"),
    "celu": lambda y: nn.functional.celu(y, 0.3),
    "group_norm": lambda y: nn.functional.group_norm(y[:, :, None], 2, y[0], y[1], eps=1e-3),
    "instance_norm": lambda y: nn.functional.instance_norm(y[None], weight=y[:, 0], bias=y[:, 1], eps=1e-3),
}


@pytest.mark.parametrize("name", SCALARS)
def test_scalars_stay_exact_in_float64(name: str, tmp_path: Path) -> None:
    model = Of(SCALARS[name], torch.float64).eval()
    x = torch.rand(4, 3, dtype=torch.float64) - 0.5
    export(model, x, tmp_path / "m.onnx", dynamic_shapes={})
    got, expected = run(tmp_path / "m.onnx", x), model(x).detach().numpy()
    size = np.maximum(np.abs(expected), 0.05)  # of what is added up
    assert np.max(np.abs(got - expected) / size) <= 64 * 2.0**-53


@pytest.mark.parametrize("error", [0.0, 1e-12])
def test_a_wrong_value_on_an_edge_row_is_refused_in_float64(error: float, tmp_path: Path) -> None:
    """On zeros BatchNorm computes with constants alone, each of whose roundings counts."""
    x = torch.rand(4, 3, dtype=torch.float64)
    right = Of(SCALARS["batch_norm"], torch.float64).eval()
    export(right, x, tmp_path / "m.onnx", dynamic_shapes={})

    class Other(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return right(x) + error * (x == 0).all().to(x.dtype)

    proto = onnx.load(tmp_path / "m.onnx")
    refused = pytest.raises(ExportError, match=r"torch's output 'y' is not .* in float64 on inputs of 0: 16 of 16")
    with refused if error else contextlib.nullcontext():
        compare_with_torch(proto, Other(), (x,), ["x"], {"x": {}})


OF_SIZES: dict[str, tuple[Callable[[Tensor], Tensor], str | None]] = {
    "quotient": (lambda y: y / y.shape[0], None),
    "root": (lambda y: y * (1 / y.shape[0] ** 0.5), "sym_float"),
    "mean": (lambda y: y.mean(0), None),
    "as a tensor": (lambda y: y * torch.tensor(y.shape[0], dtype=y.dtype) ** 0.3, None),
    "power": (lambda y: y * y.shape[0] ** 0.3, "sym_float"),
    "filled": (lambda y: y + torch.full((4,), y.shape[0] / 3, dtype=y.dtype), "truediv"),
}


@pytest.mark.parametrize("name", OF_SIZES)
def test_numbers_made_of_dynamic_sizes_are_exact_in_float64_or_refused(name: str, tmp_path: Path) -> None:
    function, refused = OF_SIZES[name]
    model = Of(function, torch.float64).eval()
    if refused is not None:
        with pytest.raises(ExportError, match=f"computes .*{refused}.*in float32 where .* in float64; make the size"):
            export(model, torch.rand(4, 3, dtype=torch.float64), tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []
        return
    export(model, torch.rand(4, 3, dtype=torch.float64), tmp_path / "m.onnx")
    x = torch.rand(7, 3, dtype=torch.float64)
    got, expected = run(tmp_path / "m.onnx", x), model(x).detach().numpy()
    assert np.max(np.abs(got - expected) / np.maximum(np.abs(expected), 0.05)) <= 64 * 2.0**-53


def test_what_is_float32_in_the_model_may_be_so_in_the_graph(tmp_path: Path) -> None:
    model = Of(lambda y: nn.functional.celu(y.float(), 0.3).double(), torch.float64).eval()
    export(model, torch.rand(4, 3, dtype=torch.float64), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "function", [torch.nn.functional.celu, lambda y: y * y.shape[0] ** 0.3], ids=["celu", "power of a size"]
)
def test_the_older_exporter_s_detours_by_a_smaller_type_are_refused(
    function: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="in float32, where the model does all in float64; export with engine='dyn"):
        export(Of(function, torch.float64).eval(), torch.rand(4, 3).double(), tmp_path / "m.onnx", engine="torchscript")


def test_detours_that_the_model_itself_takes_are_exported(tmp_path: Path) -> None:
    def detour(y: Tensor) -> Tensor:
        return y * y.float().double().mean()

    export(Of(detour, torch.float64).eval(), torch.rand(4, 3).double(), tmp_path / "m.onnx", engine="torchscript")
