"""Export: both engines x dtypes x ranks x bias, what the file holds, and every way in which it must refuse.

Long because it is one table of exports and one of refusals, on the same models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import ort_ops
from exporter.errors import ExportError, NoOperatorWarning
from exporter.operators.mylinear.module import MyLinear
from exporter.to_onnx import export as export_module
from exporter.to_onnx.export import export
from ort_ops.models.nodes import has_function, operator_nodes
from ort_ops.opdef.onnx_objects import register_schema
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR

ENGINES = ("dynamo", "torchscript")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Mlp(nn.Module):
    """Two layers; the second is called twice on equal values, which an optimiser may merge."""

    def __init__(self, dtype: torch.dtype = torch.float32, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = MyLinear(3, 4, bias=bias, dtype=dtype)
        self.second = MyLinear(4, 2, bias=bias, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.second(hidden) - 0.5 * self.second(hidden)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", [(2,), (2, 5), ()], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_every_dtype_rank_and_bias(
    engine: str, dtype: torch.dtype, leading: tuple[int, ...], bias: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(MyLinear(3, 4, bias=bias, dtype=dtype), MyLinear(4, 2, bias=bias, dtype=dtype))
    x = torch.rand(*leading, 3).to(dtype)
    result = export(model, x, tmp_path / "model.onnx", engine=engine)
    proto = onnx.load(tmp_path / "model.onnx")
    assert result.num_linear == len(operator_nodes(proto)) == 2
    assert all(not linear.lacks_input for linear in operator_nodes(proto))
    assert has_function(proto, MYLINEAR)
    leading_names: list[int | str] = ["batch", *leading[1:]] if leading else []
    assert dims(proto.graph.input[0]) == [*leading_names, 3]
    assert dims(proto.graph.output[0]) == [*leading_names, 2]
    assert all(comparison.max_in_bounds <= 1 for comparison in result.comparisons.values())


@pytest.mark.parametrize(
    ("engine", "opset", "ir_version"),
    [("dynamo", 18, 8), ("dynamo", 20, 9), ("dynamo", 21, 10), ("dynamo", 23, 11), ("dynamo", 25, 13)]
    + [("torchscript", opset, 9 if opset > 18 else 8) for opset in (9, 11, 13, 17, 20)],
)
def test_every_opset(engine: str, opset: int, ir_version: int, tmp_path: Path) -> None:
    result = export(Mlp(), torch.rand(2, 3), tmp_path / "model.onnx", engine=engine, opset=opset)
    proto = onnx.load(tmp_path / "model.onnx")
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": opset, DOMAIN: 1}
    assert result.ir_version == proto.ir_version == ir_version
    (function,) = proto.functions
    assert {entry.domain: entry.version for entry in function.opset_import} == {"": opset}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_default_file(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Mlp(), torch.rand(2, 3), path, engine=engine, metadata={"accuracy": "0.9"})
    proto = onnx.load(path)
    assert [value.name for value in proto.graph.input] == ["x"]
    assert [value.name for value in proto.graph.output] == ["y"]
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"accuracy": "0.9"}
    known = {value.name: dims(value) for value in (*proto.graph.value_info, *proto.graph.output)}
    for node in proto.graph.node:
        assert node.output[0] in known, f"the shape behind {node.op_type} is unknown"
        if node.op_type == MYLINEAR.name:
            assert known[node.output[0]][0] == "batch"
    register_schema(MYLINEAR)
    onnx.checker.check_model(proto, full_check=True, check_custom_domain=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_file_tells_nothing_of_this_machine(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Mlp(), torch.rand(2, 3), path, engine=engine)
    content = path.read_bytes()
    here = str(Path(__file__).parents[2]).encode()
    assert here not in content
    assert str(Path(torch.__file__).parent).encode() not in content
    assert b".py" not in content
    assert b"stack_trace" not in content


@pytest.mark.parametrize("engine", ENGINES)
def test_any_batch_size_runs_with_and_without_kernel(engine: str, tmp_path: Path) -> None:
    model = Mlp().eval()
    export(model, torch.rand(2, 3), tmp_path / "model.onnx", engine=engine)
    plain = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    ours = ort_ops.InferenceSession(tmp_path / "model.onnx", kernels="python")
    for batch in (0, 1, 2, 9):
        x = torch.rand(batch, 3)
        expected = model(x).detach().numpy()
        for session in (plain, ours):
            np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_example_of_one_row_stays_dynamic(engine: str, tmp_path: Path) -> None:
    export(MyLinear(2, 1), torch.rand(1, 2), tmp_path / "model.onnx", engine=engine)
    assert dims(onnx.load(tmp_path / "model.onnx").graph.output[0]) == ["batch", 1]


@pytest.mark.parametrize("engine", ENGINES)
def test_dimension_names_of_the_caller(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Mlp(), torch.rand(2, 5, 3), path, engine=engine, dynamic_shapes={"x": {0: "N", 1: "sequence"}})
    proto = onnx.load(path)
    assert dims(proto.graph.input[0]) == ["N", "sequence", 3]
    assert dims(proto.graph.output[0]) == ["N", "sequence", 2]
    export(Mlp(), torch.rand(2, 3), path, engine=engine, dynamic_shapes={})
    assert dims(onnx.load(path).graph.input[0]) == [2, 3]


@pytest.mark.parametrize("engine", ENGINES)
def test_several_inputs_and_outputs(engine: str, tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = MyLinear(3, 2)

        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(left), self.layer(right) + self.layer(left)

    path = tmp_path / "model.onnx"
    export(Two(), (torch.rand(2, 3), torch.rand(2, 3)), path, engine=engine)
    proto = onnx.load(path)
    assert [value.name for value in proto.graph.input] == ["left", "right"]
    assert [value.name for value in proto.graph.output] == ["y0", "y1"]
    export(Two(), (torch.rand(2, 3),) * 2, path, engine=engine, input_names=["a", "b"], output_names=["c", "d"])
    assert [value.name for value in onnx.load(path).graph.output] == ["c", "d"]


@pytest.mark.parametrize("engine", ENGINES)
def test_dtypes_may_be_mixed_in_one_model(engine: str, tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = MyLinear(3, 4, dtype=torch.float64), MyLinear(4, 2, dtype=torch.float16)

        def forward(self, x: Tensor) -> Tensor:
            return self.narrow(self.wide(x).to(torch.float16))

    export(Mixed(), torch.rand(2, 3, dtype=torch.float64), tmp_path / "model.onnx", engine=engine)
    (function,) = onnx.load(tmp_path / "model.onnx").functions
    assert [node.op_type for node in function.node][-1] == "CastLike"


def test_operators_without_a_rule_are_compared_with_float64(tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = MyLinear(3, 4), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.norm(self.layer(x)), -1)

    result = export(Normed(), torch.rand(2, 3), tmp_path / "model.onnx")
    assert result.comparisons["y"].max_in_bounds <= 1


def test_the_model_keeps_its_modes(tmp_path: Path) -> None:
    model = nn.Sequential(MyLinear(3, 4), nn.Dropout(), MyLinear(4, 2)).train()
    model[2].eval()
    export(model, torch.rand(2, 3), tmp_path / "model.onnx")
    assert [module.training for module in model] == [True, True, False]


class Lost(MyLinear):
    """Calls the operator in eager mode only, as fused fast paths do the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return torch.nn.functional.linear(x, self.weight, self.bias)
        return super().forward(x)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lost_node_is_an_error_and_leaves_no_file(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="calls MYLINEAR 2 times and the exported graph has 1 node of it"):
        export(nn.Sequential(MyLinear(3, 4), Lost(4, 2)), torch.rand(2, 3), tmp_path / "model.onnx", engine=engine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_without_the_operator_is_exported_with_a_warning(engine: str, tmp_path: Path) -> None:
    with pytest.warns(NoOperatorWarning, match="calls no registered operator"):
        export(nn.Linear(3, 4), torch.rand(2, 3), tmp_path / "model.onnx", engine=engine)
    assert not operator_nodes(onnx.load(tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "onnx"}, "engine must be dynamo or torchscript, got 'onnx'"),
        ({"opset": 11}, "opset must be 18 to 25 for engine 'dynamo', got 11; engine='torchscript' has it"),
        ({"opset": 26}, "opset must be 18 to 25 for engine 'dynamo', got 26"),
        ({"opset": 21, "engine": "torchscript"}, "opset must be 9 to 20 for engine 'torchscript', got 21"),
        ({"input_names": ["a", "b"]}, "input_names must be 1 names, got 2"),
        ({"output_names": [""]}, "output_names must be distinct and not empty"),
        ({"input_names": ["v"], "output_names": ["v"]}, "name 'v' stands for two values"),
        ({"input_names": ["v"], "output_names": ["v"], "engine": "torchscript"}, "name 'v' stands for two values"),
        ({"dynamic_shapes": {"z": {0: "batch"}}}, r"dynamic_shapes must name inputs of \['x'\], got \['z'\]"),
        ({"dynamic_shapes": {"x": {2: "batch"}}}, "dynamic_shapes of 'x' must be dimensions 0 to 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_options_leave_no_file(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(Mlp(), torch.rand(2, 3), tmp_path / "model.onnx", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_output_may_have_the_name_of_an_inner_value_where_the_engine_renames_that(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Mlp(), torch.rand(2, 3), path, output_names=["relu"])
    assert onnx.load(path).graph.output[0].name == "relu"
    with pytest.raises(ExportError, match="name '/Relu_output_0' stands for two values"):
        export(Mlp(), torch.rand(2, 3), path, engine="torchscript", output_names=["/Relu_output_0"])


def test_an_opset_that_was_not_reached_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = export_module.export_torchscript

    def stop_at_17(*arguments: object) -> onnx.ModelProto:
        proto = real(*arguments)  # type: ignore[arg-type]
        next(entry for entry in proto.opset_import if entry.domain == "").version = 17
        return proto

    monkeypatch.setattr(export_module, "export_torchscript", stop_at_17)
    with pytest.raises(ExportError, match="opset 20 was not reached, the exporter stopped at 17"):
        export(Mlp(), torch.rand(2, 3), tmp_path / "model.onnx", engine="torchscript")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_failed_parity_keeps_the_file_that_was_there(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("the old file")
    real = export_module.export_dynamo if engine == "dynamo" else export_module.export_torchscript

    def spoil(*arguments: object) -> onnx.ModelProto:
        proto = real(*arguments)  # type: ignore[arg-type]
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("second.bias"))
        bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) * 1.0001).tobytes()
        return proto

    monkeypatch.setattr(export_module, real.__name__, spoil)
    with pytest.raises(ExportError, match=r"the weight '.*second\.bias' of the exported graph is not"):
        export(Mlp(), torch.rand(2, 3), path, engine=engine)
    assert path.read_text() == "the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(proto: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(OSError, match="No space left on device; free some space"):
        export(Mlp(), torch.rand(2, 3), tmp_path / "model.onnx", engine="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_what_onnxruntime_cannot_run_is_an_error_that_names_the_operator_and_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Relu.* no kernel for that operator in bfloat16: export in float32 or") as e:
        export(Mlp(torch.bfloat16), torch.rand(2, 3).bfloat16(), tmp_path / "model.onnx")
    assert "mylinear export --dtype float32" in str(e.value)
    assert "torch.relu(x.float()).to(torch.bfloat16)" in str(e.value)
    assert list(tmp_path.iterdir()) == []

    class WithCasts(nn.Module):  # each remedy does help
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = MyLinear(3, 4), MyLinear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x).float()).to(torch.bfloat16))

    for model, dtype in ((WithCasts().bfloat16(), torch.bfloat16), (Mlp().half(), torch.half), (Mlp(), torch.float)):
        assert export(model, torch.rand(2, 3).to(dtype), tmp_path / "model.onnx").num_linear >= 2


def test_bad_example_shapes_give_the_contract_s_message(tmp_path: Path) -> None:
    with pytest.raises(ort_ops.ContractError, match=r"weight must be \[out_features, 5\]"):
        export(Mlp(), torch.rand(2, 5), tmp_path / "model.onnx")


class _Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = MyLinear(3, 4)

    def forward(self, x: Tensor, extra: dict[str, Tensor], half: Tensor) -> Tensor:
        return self.linear(x) + extra["read"]


@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_that_no_node_reads_stay_inputs(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    extra = {"unread": torch.zeros(2, 5, dtype=torch.int64), "read": torch.ones(2, 4)}
    export(_Unread(), (torch.rand(2, 3), extra, torch.tensor(1.0, dtype=torch.bfloat16)), path, engine=engine)
    found = [(value.name, value.type.tensor_type.elem_type, dims(value)) for value in onnx.load(path).graph.input]
    assert found == [
        ("x", onnx.TensorProto.FLOAT, ["batch", 3]),
        ("extra_unread", onnx.TensorProto.INT64, ["batch", 5]),
        ("extra_read", onnx.TensorProto.FLOAT, ["batch", 4]),
        ("half", onnx.TensorProto.BFLOAT16, []),
    ]
