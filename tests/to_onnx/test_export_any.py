"""Any model exports: arguments of every kind, control flow, tied weights, modes, programs, targets, large files.

Long because each test brings a small model of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import ort_ops
from exporter.errors import ExportError
from exporter.operators.mylinear.module import MyLinear
from exporter.to_onnx import export as onnx_export
from exporter.to_onnx.export import export
from ort_ops.models.nodes import operator_nodes
from ort_ops.models.runtimes import TargetError, newest_versions, oldest_runtime
from ort_ops.operators.mylinear.contract import DOMAIN, NAME
from ort_ops.session import InferenceSession

ENGINES = ("dynamo", "torchscript")


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def serve(path: Path, **feed: Tensor) -> list[np.ndarray]:
    session = ort_ops.InferenceSession(path, kernels="body")
    return session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})


class Nested(nn.Module):
    """Takes a dict and a list, a keyword and a number; gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = MyLinear(3, 4), MyLinear(4, 2)

    def forward(
        self, batch: dict[str, Tensor], states: list[Tensor], *, scale: float, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        hidden = self.first(batch["left"] - batch["right"]) * scale
        if mask is not None:
            hidden = hidden * mask
        return {"y": self.second(hidden), "states": hidden + states[0]}


@pytest.mark.parametrize("engine", ENGINES)
def test_nested_arguments_keywords_and_outputs(engine: str, tmp_path: Path) -> None:
    model, path = Nested().eval(), tmp_path / "m.onnx"
    batch = {"left": torch.rand(2, 3), "right": torch.rand(2, 3)}
    states, mask = [torch.rand(2, 4)], torch.rand(2, 4)
    result = export(model, (batch, states), path, kwargs={"scale": 2.0, "mask": mask}, engine=engine)
    assert result.num_linear == 2
    proto = onnx.load(path)
    assert [value.name for value in proto.graph.input] == ["batch_left", "batch_right", "states_0", "mask"]
    assert [dims(value) for value in proto.graph.output] == [["batch", 2], ["batch", 4]]
    assert "first.weight" in {tensor.name for tensor in proto.graph.initializer}, "the caller's own names"
    expected = model(batch, states, scale=2.0, mask=mask)
    got = serve(path, batch_left=batch["left"], batch_right=batch["right"], states_0=states[0], mask=mask)
    for a, b in zip(got, (expected["y"], expected["states"]), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_tied_weights_are_stored_once(engine: str, tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = MyLinear(64, 64), MyLinear(64, 64)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(torch.relu(self.encode(x)))

    export(Tied(), torch.rand(2, 64), tmp_path / "m.onnx", engine=engine)
    first, second = (linear.node for linear in operator_nodes(onnx.load(tmp_path / "m.onnx")))
    assert first.input[1] == second.input[1]
    assert (tmp_path / "m.onnx").stat().st_size < 2 * 64 * 64 * 4


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_that_no_output_needs_is_not_missed(engine: str, tmp_path: Path) -> None:
    class Pooler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = MyLinear(3, 4), MyLinear(4, 4)
            self.unused.weight.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.used(x)
            self.unused(hidden)
            return hidden

    model = Pooler()
    assert export(model, torch.rand(2, 3), tmp_path / "m.onnx", engine=engine).num_linear == 1
    assert not model.unused.weight.requires_grad
    assert model.used.weight.requires_grad


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = MyLinear(3, 4), MyLinear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda v: self.yes(v), lambda v: self.no(v), (x,))


class Scanned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = MyLinear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        from torch._higher_order_ops.scan import scan

        def step(carry: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            new = torch.tanh(self.layer(carry) + row)
            return new, new.clone()

        return scan(step, torch.zeros(3), x, dim=0)[1]


@pytest.mark.filterwarnings("ignore")  # torch's own cond warns of its insides in eager mode
def test_both_branches_of_cond_hold_their_node(tmp_path: Path) -> None:
    model = Conditional().eval()
    result = export(model, torch.rand(2, 3), tmp_path / "m.onnx")
    assert result.num_linear == 2
    for x in (torch.rand(2, 3), -torch.rand(5, 3)):
        np.testing.assert_allclose(serve(tmp_path / "m.onnx", x=x)[0], model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # torch's own scan warns of its insides
def test_the_body_of_scan_holds_the_node(tmp_path: Path) -> None:
    model, x = Scanned().eval(), torch.rand(5, 3)
    result = export(model, x, tmp_path / "m.onnx", dynamic_shapes={})
    assert result.num_linear == 1
    assert operator_nodes(onnx.load(tmp_path / "m.onnx"))[0].container.name != "main_graph"
    np.testing.assert_allclose(serve(tmp_path / "m.onnx", x=x)[0], model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_a_recurrent_model_with_a_head(engine: str, layer: Any, tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = layer(3, 8, batch_first=True), MyLinear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recurrent(x)[0][:, -1])

    model = Recurrent().eval()
    # torch's own LSTM takes its batch size from the example under TorchScript, and warns of it.
    shapes: dict[str, dict[int, str]] = {} if engine == "torchscript" else {"x": {0: "batch"}}
    export(model, torch.rand(2, 5, 3), tmp_path / "m.onnx", engine=engine, dynamic_shapes=shapes)
    x = torch.rand(2, 5, 3)
    np.testing.assert_allclose(serve(tmp_path / "m.onnx", x=x)[0], model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_names_of_dimensions_reach_an_output_that_shape_inference_does_not(engine: str, tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = MyLinear(3, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.layer(x)
            return hidden.reshape(x.shape[0], x.shape[1], 2, 2).transpose(1, 2), hidden.mean(1)

    path = tmp_path / "m.onnx"
    export(Pooled(), torch.rand(2, 5, 3), path, engine=engine, dynamic_shapes={"x": {0: "batch", 1: "sequence"}})
    assert [dims(value) for value in onnx.load(path).graph.output] == [["batch", 2, "sequence", 2], ["batch", 4]]


@pytest.mark.parametrize("engine", ENGINES)
def test_training_mode_exports_what_training_does(engine: str, tmp_path: Path) -> None:
    model = nn.Sequential(MyLinear(3, 4), nn.Dropout(0.5), MyLinear(4, 2)).eval()
    result = export(model, torch.rand(2, 3), tmp_path / "m.onnx", engine=engine, training=True)
    assert result.comparisons == {}, "what is random cannot be compared"
    operators = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert "Dropout" in operators or "RandomUniformLike" in operators or "Bernoulli" in operators, operators
    assert [module.training for module in model.modules()] == [False] * 4
    same = export(nn.Sequential(MyLinear(3, 4)), torch.rand(2, 3), tmp_path / "m.onnx", engine=engine, training=True)
    assert same.comparisons["y"].max_in_bounds <= 1


def test_an_exported_program_keeps_names_of_dimensions(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    model = nn.Sequential(MyLinear(3, 4), nn.ReLU(), MyLinear(4, 2)).eval()
    program = torch.export.export(model, (torch.rand(2, 3),), dynamic_shapes=({0: batch},))
    result = export(program, path=tmp_path / "m.onnx")
    assert result.num_linear == 2
    proto = onnx.load(tmp_path / "m.onnx")
    assert dims(proto.graph.input[0]) == ["batch", 3]
    assert dims(proto.graph.output[0]) == ["batch", 2]
    x = torch.rand(7, 3)
    np.testing.assert_allclose(serve(tmp_path / "m.onnx", x=x)[0], model(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    fixed = torch.export.export(model, (torch.rand(2, 3),))
    export(fixed, path=tmp_path / "m.onnx")
    assert dims(onnx.load(tmp_path / "m.onnx").graph.input[0]) == [2, 3]
    with pytest.raises(ExportError, match="an exported program takes engine='dynamo'"):
        export(program, path=tmp_path / "m.onnx", engine="torchscript")


PLAIN = """
import io, json, sys, warnings
import {first}
import {second}
import onnx, torch
from exporter.errors import ExportError
from exporter.operators.mylinear.module import MyLinear
warnings.simplefilter("ignore")

class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = MyLinear(3, 4), MyLinear(4, 2, bias=False)
    def forward(self, x):
        return self.last(self.layer(x)) + torch.ops.mylinear.linear(x, self.layer.weight[:2], None)

found = {{}}
file = io.BytesIO()
torch.onnx.export(Both(), (torch.rand(2, 3),), file, dynamo=False)
found["torchscript"] = onnx.load_model_from_string(file.getvalue())
found["dynamo"] = torch.onnx.export(Both(), (torch.rand(2, 3),), dynamo=True, verbose=False).model_proto
print(json.dumps({{k: [[n.domain, n.op_type, len(n.input)] for n in m.graph.node] for k, m in found.items()}}))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "second"),
    [("exporter", "onnxscript"), ("torch.onnx", "exporter"), ("onnxscript, torch.onnx", "exporter")],
)
def test_plain_torch_onnx_export_emits_the_operator(first: str, second: str, tmp_path: Path) -> None:
    code = PLAIN.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for engine, nodes in json.loads(done.stdout.splitlines()[-1]).items():
        linear = [node for node in nodes if node[:2] == [DOMAIN, NAME]]
        assert sorted(count for _, _, count in linear) == [2, 2, 3], (engine, nodes)


def test_importing_the_package_loads_no_exporter(tmp_path: Path) -> None:
    code = "import sys, exporter; exporter.MyLinear; print([m for m in ('onnxscript', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "onnxscript" not in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("target", "engine", "opset", "ir_version"),
    [
        ("1.17", "dynamo", 20, 9),
        ("1.17.3", "torchscript", 20, 9),
        ("1.20", "dynamo", 21, 10),
        ("1.23.2", "dynamo", 23, 11),
    ],
)
def test_a_target_picks_opset_and_ir_version(
    target: str, engine: str, opset: int, ir_version: int, tmp_path: Path
) -> None:
    result = export(MyLinear(3, 4), torch.rand(2, 3), tmp_path / "m.onnx", engine=engine, target=target)
    assert (result.opset, result.ir_version) == (opset, ir_version)
    newest_opset, newest_ir = newest_versions(target)
    assert result.opset <= newest_opset
    assert result.ir_version <= newest_ir


def test_the_table_of_runtimes() -> None:
    assert oldest_runtime(*newest_versions("1.20")) == "1.20"
    assert oldest_runtime(9, 4) == "1.17"
    for bad, message in (
        ("1.16", "1.17 or newer"),
        ("new", "a version of onnxruntime such as"),
        ("", "such as '1.17'"),
    ):
        with pytest.raises(TargetError, match=message):
            newest_versions(bad)
    with pytest.raises(TargetError, match=r"opset 21 is too new for onnxruntime 1\.17, which loads 20"):
        export(MyLinear(3, 4), torch.rand(2, 3), opset=21, target="1.17")


def test_the_target_s_own_python_runs_the_file(tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "m.onnx"
    export(MyLinear(3, 4), torch.rand(2, 3), path, target=onnxruntime.__version__, target_python=sys.executable)
    path.unlink()
    with pytest.raises(TargetError, match=r"has onnxruntime .*, and the target is 1\.17"):
        export(MyLinear(3, 4), torch.rand(2, 3), path, target="1.17", target_python=sys.executable)
    with pytest.raises(TargetError, match="is no Python that runs"):
        export(MyLinear(3, 4), torch.rand(2, 3), path, target="1.17", target_python=tmp_path / "python")
    assert list(tmp_path.iterdir()) == []


def test_the_target_s_result_has_the_bound_of_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factor = 1.0

    def run(python: Any, model: Any, feed: dict[str, Any], target: str) -> list[Any]:
        return [InferenceSession(model, kernels="body").run(None, feed)[0] * np.float32(factor)]

    monkeypatch.setattr(onnx_export, "run_elsewhere", run)
    torch.manual_seed(0)
    path, layer, x = tmp_path / "m.onnx", MyLinear(3, 4), torch.rand(2, 3)
    export(layer, x, path, target="1.22", target_python=sys.executable)
    factor = 1 + 2e-6
    with pytest.raises(TargetError, match=r"1\.22 gives another output 'y' than the graph in float64: .* are off"):
        export(layer, x, path, target="1.22", target_python=sys.executable)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.17.3", "1.20.1"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_old_onnxruntime_runs_what_was_exported_for_it(version: str, engine: str, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "build" / "runtimes" / version
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={version}", "numpy<2"], check=True)
    model = nn.Sequential(MyLinear(3, 16), nn.GELU(), MyLinear(16, 2))
    export(model, torch.rand(2, 3), tmp_path / "m.onnx", engine=engine, target=version, target_python=python)


@pytest.mark.parametrize("engine", ENGINES)
def test_large_weights_lie_in_one_file_beside_the_model(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MAX_NBYTES_INSIDE", 1000)
    model = nn.Sequential(MyLinear(30, 40), nn.ReLU(), MyLinear(40, 30, bias=False)).eval()
    result = export(model, torch.rand(2, 30), tmp_path / "m.onnx", engine=engine)
    assert result.num_linear == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 5000
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert dims(proto.graph.output[0]) == ["batch", 30]
    x = torch.rand(7, 30)
    np.testing.assert_allclose(serve(tmp_path / "m.onnx", x=x)[0], model(x).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_of_more_than_two_gigabytes(engine: str, tmp_path: Path) -> None:
    model = MyLinear(24_000, 24_000, bias=False)
    result = export(model, torch.rand(2, 24_000), tmp_path / "m.onnx", engine=engine)
    assert result.num_linear == 1
    assert (tmp_path / "m.onnx.data").stat().st_size > 2**31
    x = torch.rand(3, 24_000)
    got = ort_ops.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-3, atol=1e-4)
