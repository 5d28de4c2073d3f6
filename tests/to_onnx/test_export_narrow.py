"""export(weight_dtype=...): weights in 16 bits, stated, compared with the model as it was; wrong ones are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from exporter.errors import ExportError
from exporter.operators.mylinear.module import MyLinear
from exporter.to_onnx import export as export_module
from exporter.to_onnx.checks import narrow
from exporter.to_onnx.export import export
from ort_ops.models import narrow_weights as narrow_weights_module
from ort_ops.opdef.operator import ContractError
from ort_ops.session import InferenceSession

TYPES = {"bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    layers = (MyLinear(12, 40, activation="gelu"), nn.LayerNorm(40), MyLinear(40, 40), nn.Tanh(), MyLinear(40, 5))
    return nn.Sequential(*layers)


def types_of(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(("engine", "dtype"), [("dynamo", "bfloat16"), ("torchscript", "float16")])
def test_weights_are_rounded_and_the_result_says_how_far(engine: str, dtype: str, tmp_path: Path) -> None:
    model, x = make_model(), torch.randn(3, 12)
    result = export(model, x, tmp_path / "model.onnx", engine=engine, weight_dtype=dtype)
    wanted = dict.fromkeys(("0.weight", "2.weight", "4.weight"), TYPES[dtype])
    stored = types_of(result.path)
    assert {name: stored[name] for name in wanted} == wanted
    assert {number for name, number in stored.items() if name not in wanted} == {TensorProto.FLOAT}
    assert result.weights is not None
    weights = [model.get_parameter(name).detach() for name in wanted]
    changes = [((w.to(getattr(torch, dtype)).double() - w.double()) / w.double()).abs().max() for w in weights]
    assert result.weights.change == pytest.approx(float(max(changes)), rel=1e-12)
    assert f"3 weights in {dtype}, changed by" in str(result)
    assert 0.02 < result.comparisons["y"].max_in_bounds <= 1  # the bound has room for the change, and not for much more
    got = InferenceSession(result.path).run(None, {"x": x.numpy()})[0]
    assert 0 < np.abs(got - model(x).detach().numpy()).max() < 0.05


@pytest.mark.parametrize(("engine", "dtype"), [("dynamo", "bfloat16"), ("torchscript", "float16")])
def test_weights_beside_the_model_are_the_same(
    engine: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = make_model(), torch.randn(3, 12)
    inside = export(model, x, tmp_path / "small.onnx", engine=engine, weight_dtype=dtype)
    monkeypatch.setattr(export_module, "MAX_NBYTES_INSIDE", 1000)
    result = export(model, x, tmp_path / "large.onnx", engine=engine, weight_dtype=dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data", "small.onnx"]
    assert (result.weights, result.num_nodes) == (inside.weights, inside.num_nodes)
    assert result.comparisons["y"].max_in_bounds == pytest.approx(inside.comparisons["y"].max_in_bounds, rel=1e-3)
    for wanted, got in zip(*(onnx.load(found.path).graph.initializer for found in (inside, result)), strict=True):
        assert (got.name, got.data_type, list(got.dims)) == (wanted.name, wanted.data_type, list(wanted.dims))
        np.testing.assert_array_equal(numpy_helper.to_array(got), numpy_helper.to_array(wanted))
    largest = max(parameter.nbytes for parameter in model.parameters()) // 2
    assert largest <= (tmp_path / "large.onnx.data").stat().st_size < 4096 + sum(p.nbytes for p in model.parameters())
    outputs = [InferenceSession(found.path).run(None, {"x": x.numpy()})[0] for found in (inside, result)]
    np.testing.assert_array_equal(*outputs)


def test_wrong_weights_beside_the_model_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "MAX_NBYTES_INSIDE", 1000)
    model, x = make_model(), torch.randn(3, 12)
    for scale, is_compared, complaint in (
        (1.01, True, r"'0.weight' of the exported graph is not that of the model, rounded"),
        (1.05, False, "not what the graph with the model's own weights gives"),
    ):
        monkeypatch.setattr(narrow_weights_module, "_round", scaled(scale))
        if not is_compared:
            monkeypatch.setattr(narrow, "check_rounded", lambda *_: None)
        with pytest.raises(ExportError, match=complaint):
            export(model, x, tmp_path / "model.onnx", weight_dtype="bfloat16")
        monkeypatch.undo()
        monkeypatch.setattr(export_module, "MAX_NBYTES_INSIDE", 1000)
    assert list(tmp_path.iterdir()) == []


class Tied(nn.Module):
    def __init__(self, *, embeds: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = MyLinear(6, 6), MyLinear(6, 6), MyLinear(6, 6)
        self.second.weight = self.first.weight
        self.table = self.third.weight if embeds else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(self.second(self.first(x)))
        return y if self.table is None else y + x @ self.table


def test_tied_weights_stay_one_and_a_weight_that_others_take_stays(tmp_path: Path) -> None:
    for embeds in (False, True):
        result = export(Tied(embeds=embeds), torch.randn(2, 6), tmp_path / "model.onnx", weight_dtype="bfloat16")
        proto = onnx.load(result.path)
        matrices = [tensor for tensor in proto.graph.initializer if len(tensor.dims) == 2]
        first, second, third = (node.input[1] for node in proto.graph.node if node.op_type == "MYLINEAR")
        assert (len(matrices), first) == (2, second)
        assert result.weights is not None
        assert result.weights.left == ({third: "others take it as it is"} if embeds else {})
        assert types_of(result.path)[third] == (TensorProto.FLOAT if embeds else TensorProto.BFLOAT16)


def test_equal_weights_which_are_all_rounded_one_way(tmp_path: Path) -> None:
    layer = MyLinear(300, 4, bias=False)
    nn.init.constant_(layer.weight, 0.1)
    result = export(layer, torch.rand(3, 300), tmp_path / "model.onnx", weight_dtype="bfloat16")
    assert result.comparisons["y"].text == "ok"


def test_refusals(tmp_path: Path) -> None:
    x, path = torch.ones(2, 3), tmp_path / "model.onnx"
    layer = MyLinear(3, 2, bias=False)
    with pytest.raises(ExportError, match="weight_dtype must be bfloat16 or float16, got 'int8'"):
        export(layer, x, path, weight_dtype="int8")
    nn.init.constant_(layer.weight, 65520.0)
    with pytest.raises(
        ContractError, match="'weight' must be at most 65504 in size to be stored in float16, got 65520"
    ):
        export(layer, x, path, weight_dtype="float16")
    for model in (MyLinear(3, 2).double(), nn.Linear(3, 2)):
        with pytest.raises(ExportError, match="the model has no weight to be stored in bfloat16"):
            export(model, x.to(model.weight.dtype), path, weight_dtype="bfloat16")
    assert not path.exists()


def scaled(scale: float) -> Any:
    def wrong(tensor: TensorProto, dtype: str) -> float:
        array = numpy_helper.to_array(tensor) * np.float32(scale)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return right(tensor, dtype)

    right = narrow_weights_module._round
    return wrong


def test_wrong_weights_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, x, path = make_model(), torch.randn(3, 12), tmp_path / "model.onnx"
    with monkeypatch.context() as patched:
        patched.setattr(narrow_weights_module, "_round", scaled(1.01))
        with pytest.raises(ExportError, match=r"'0.weight' of the exported graph is not that of the model, rounded"):
            export(model, x, path, weight_dtype="bfloat16")
        patched.setattr(narrow, "check_rounded", lambda *_: None)
        patched.setattr(narrow_weights_module, "_round", scaled(1.05))
        with pytest.raises(ExportError, match="not what the graph with the model's own weights gives"):
            export(model, x, path, weight_dtype="bfloat16")

        def swapped(proto: onnx.ModelProto, *given: Any) -> Any:
            found = right(proto, *given)
            (second,) = (node for node in proto.graph.node if "2.weight" in node.input)
            second.input[1] = "other"
            (tensor,) = (t for t in proto.graph.initializer if t.name == "2.weight")
            other = proto.graph.initializer.add()
            other.CopyFrom(tensor)
            other.name = "other"
            other.raw_data = np.frombuffer(tensor.raw_data, np.int16).reshape(40, 40).T.tobytes()
            return found

        right = narrow.narrow_weights
        patched.setattr(narrow_weights_module, "_round", scaled(1.0))
        patched.setattr(narrow, "narrow_weights", swapped)
        with pytest.raises(ExportError, match="not what the graph with the model's own weights gives"):
            export(model, x, path, weight_dtype="bfloat16")
    assert not path.exists()
    export(model, x, path, weight_dtype="bfloat16")
