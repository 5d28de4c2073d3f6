"""export of models with any registered operator, with several, and with none."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from exporter.errors import ExportError, NoOperatorWarning
from exporter.operators.mylinear.module import MyLinear
from exporter.to_onnx.export import export
from exporter.torch_ops.kit import torch_kit, torch_kits
from ort_ops.models.nodes import check_operator_nodes
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import ContractError, DefinitionError
from ort_ops.session import InferenceSession
from tests.torch_ops.toy_operator import KIT, SQUARE, TORCH, Square, square

ENGINES = ["dynamo", "torchscript"]
LINEAR = "mylinear::MYLINEAR"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    registry.add(KIT)
    yield
    registry.remove(KIT)


class Mixed(nn.Module):
    """Both operators, one after the other."""

    def __init__(self, count: int | None = None) -> None:
        super().__init__()
        self.first, self.second = Square(gain=0.75, count=count), MyLinear(3, 2)

    def forward(self, x: Tensor) -> Any:
        found = self.first(x)
        if isinstance(found, tuple):
            return self.second(found[0]), found[1]
        return self.second(found)


def serve(path: Path, x: Tensor) -> list[Any]:
    result: list[Any] = InferenceSession(path, kernels="body").run(None, {"x": x.numpy()})
    return result


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("count", [None, 4])
def test_a_node_of_each_operator(engine: str, count: int | None, tmp_path: Path) -> None:
    model, path = Mixed(count).eval(), tmp_path / "m.onnx"
    result = export(model, torch.rand(2, 3), path, engine=engine)
    assert result.num_nodes == {SQUARE.op_type: 1, LINEAR: 1}
    assert result.num_linear == 1
    assert "1 SQUARE node" in result.nodes_in_words
    assert all(comparison.max_in_bounds <= 1 for comparison in result.comparisons.values())
    proto = onnx.load(path)
    (node,) = [found for found in check_operator_nodes(proto) if found.operator == SQUARE]
    assert node.attributes == {"gain": 0.75}
    assert len([name for name in node.outputs if name]) == (1 if count is None else 2)
    assert sorted((f.domain, f.name) for f in proto.functions) == [
        ("exporter.tests", "SQUARE"),
        ("mylinear", "MYLINEAR"),
    ]
    x = torch.rand(5, 3) * 2  # another batch than the example's
    expected = model(x)
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    for got, wanted in zip(serve(path, x), expected, strict=True):
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_plain_torch_onnx_export_knows_an_operator_that_was_added_late(dynamo: bool) -> None:
    file, model = io.BytesIO(), Square(gain=0.5, count=2).eval()
    if dynamo:
        proto = torch.onnx.export(model, (torch.rand(2, 3),), dynamo=True, verbose=False).model_proto  # type: ignore[union-attr]
    else:
        torch.onnx.export(model, (torch.rand(2, 3),), file, dynamo=False)  # type: ignore[arg-type]
        proto = onnx.load_model_from_string(file.getvalue())
    nodes = [node for node in proto.graph.node if node.domain == SQUARE.domain]
    assert [(node.op_type, len(node.output)) for node in nodes] == [("SQUARE", 2)]
    assert [(a.name, a.f) for a in nodes[0].attribute] == [("gain", 0.5)]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exported_program_and_many_calls_are_counted(engine: str, tmp_path: Path) -> None:
    model = nn.Sequential(Square(), MyLinear(3, 3), Square(0.5), MyLinear(3, 3), Square(0.25)).eval()
    result = export(model, torch.rand(2, 3), tmp_path / "m.onnx", engine=engine)
    assert result.num_nodes == {SQUARE.op_type: 3, LINEAR: 2}
    if engine == "dynamo":
        program = torch.export.export(model, (torch.rand(2, 3),))
        assert export(program, path=tmp_path / "m.onnx").num_nodes == result.num_nodes


class Dissolved(nn.Module):
    """Says that it calls the operator, and exports as multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Square()

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            found: Tensor = TORCH.plain(x * self.layer.factor)  # type: ignore[misc]
            return found
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_node_that_dissolved_is_an_error(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="calls SQUARE 1 times and the exported graph has 0 nodes of it"):
        export(Dissolved().eval(), torch.rand(2, 3), tmp_path / "m.onnx", engine=engine)
    mixed = nn.Sequential(Dissolved(), Square()).eval()
    with pytest.raises(ExportError, match="calls SQUARE 2 times and the exported graph has 1 node of it"):
        export(mixed, torch.rand(2, 3), tmp_path / "m.onnx", engine=engine)
    assert list(tmp_path.iterdir()) == []


class Unread(nn.Module):
    """Calls the operator once more, for nobody."""

    def forward(self, x: Tensor) -> Tensor:
        square(x, gain=3.0)
        return square(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_that_no_output_reads_need_not_be_there(engine: str, tmp_path: Path) -> None:
    assert export(Unread(), torch.rand(2, 3), tmp_path / "m.onnx", engine=engine).num_nodes[SQUARE.op_type] in (1, 2)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_without_any_operator_is_exported_and_said_to_be_so_once(engine: str, tmp_path: Path) -> None:
    model, path = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval(), tmp_path / "m.onnx"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = export(model, torch.rand(2, 3), path, engine=engine)
    (warning,) = [entry for entry in caught if issubclass(entry.category, NoOperatorWarning)]
    assert re.search(r"calls no registered operator \(.*MYLINEAR\b.*\).*swap_linear", str(warning.message))
    assert warning.filename == __file__
    assert (result.num_nodes, result.num_linear) == ({}, 0)
    assert result.nodes_in_words == "no node of a registered operator"
    assert result.comparisons["y"].max_in_bounds <= 1
    assert not onnx.load(path).functions
    x = torch.rand(5, 3)
    np.testing.assert_allclose(serve(path, x)[0], model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


class Counting(nn.Module):
    """Takes integers as well."""

    def forward(self, x: Tensor, count: Tensor) -> Any:
        return square(x, count, gain=1.5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_inputs_of_any_type(engine: str, dtype: torch.dtype, tmp_path: Path) -> None:
    x, count, path = torch.rand(2, 3, dtype=torch.float64) * 2, torch.tensor(3, dtype=dtype), tmp_path / "m.onnx"
    result = export(Counting(), (x, count), path, engine=engine)
    assert result.num_nodes == {SQUARE.op_type: 1}
    got = InferenceSession(path, kernels="body").run(None, {"x": x.numpy(), "count": count.numpy()})
    for value, wanted in zip(got, square(x, count, gain=1.5), strict=True):
        np.testing.assert_array_equal(value, wanted.numpy())
        assert value.dtype == wanted.numpy().dtype


def test_an_attribute_that_follows_a_size_is_a_constant_which_the_comparison_refuses(tmp_path: Path) -> None:
    class Computed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return square(x, gain=x.shape[0] * 0.5)  # type: ignore[no-any-return]

    with pytest.raises(ExportError, match="torch's output 'y' is not what the exported graph gives"):
        export(Computed(), torch.rand(2, 3), tmp_path / "m.onnx")


def test_what_a_kit_names_must_be_its_torch_part() -> None:
    assert torch_kit(KIT) is TORCH
    assert TORCH in torch_kits()
    assert torch_kit(replace(KIT, torch="")) is None
    for name, message in (
        ("tests.torch_ops.toy_operator:SQUARE", "must be its TorchKit, got Operator"),
        ("tests.torch_ops.toy_operator:NONE", "must be 'module:attribute' of a TorchKit, got"),
        ("exporter.operators.mylinear.kit:KIT", f"must be its TorchKit, got {LINEAR}"),
    ):
        with pytest.raises(DefinitionError, match=message):
            torch_kit(replace(KIT, torch=name))


def add_and_load(kit: OperatorKit) -> None:
    registry.add(kit)
    torch_kits()


def test_a_torch_part_that_cannot_be_imported_is_said_once_and_stops_no_other(tmp_path: Path) -> None:
    broken = replace(KIT, operator=replace(SQUARE, name="BROKEN"), torch="tests.no_such_module:KIT")
    with pytest.warns(UserWarning, match=r"exporter\.tests::BROKEN: .*models that call it cannot be exported"):
        add_and_load(broken)
    try:
        export(Square(), torch.rand(2, 3), tmp_path / "m.onnx")
    finally:
        registry.remove(broken)


def test_sizes_that_break_the_contract_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="SQUARE: x must be float64 or float32, got float16"):
        export(Unread(), torch.rand(2, 3).half(), tmp_path / "m.onnx")
