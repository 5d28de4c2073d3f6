"""fuse_activations: the same numbers, parameters and training; and whatever is not certain to be the same is left.

Long because every module that must be told from a plain one stands here.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from exporter.operators.mylinear.module import MyLinear
from exporter.operators.mylinear.swap import restore_linear, swap_linear
from exporter.operators.mylinear.version_2.fuse import FuseReport, fuse_activations

EVERY = {
    "relu": nn.ReLU(inplace=True),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
}


def fused(model: nn.Module, x: Any, *more: Any) -> FuseReport:
    """Fuse, and check that values, gradients and the state stay what they were, bit for bit."""
    other = copy.deepcopy(model)
    names = {name: id(value) for name, value in model.named_parameters()}
    report = fuse_activations(model)
    assert {name: id(value) for name, value in model.named_parameters()} == names
    assert list(model.state_dict()) == list(other.state_dict())
    for copied in (model, copy.deepcopy(model)):
        results = [m(x, *more) for m in (copied, other)]
        assert torch.equal(*results)
        for m, result in zip((copied, other), results, strict=True):
            m.zero_grad()
            result.square().sum().backward()
        for mine, theirs in zip(copied.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]
    return report


def test_a_sequential_of_every_activation_trains_on() -> None:
    torch.manual_seed(0)
    layers = [module for act in EVERY.values() for module in (nn.Linear(4, 4), act)]
    model = nn.Sequential(*layers, nn.Linear(4, 2)).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    report = fused(model, torch.randn(5, 4))
    assert dict(report.fused) == {str(2 * i): name for i, name in enumerate(EVERY)}
    assert not report.left
    assert [type(m) for m in model] == [MyLinear, nn.Identity] * len(EVERY) + [nn.Linear]
    before = model[0].weight.clone()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    assert swap_linear(model).swapped == (str(2 * len(EVERY)),)
    assert restore_linear(model).skipped["0"] == "applies relu, which nn.Linear does not"
    assert model[0].activation == "relu"
    assert not fuse_activations(model).fused
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(torch.ones(1, 4)), model(torch.ones(1, 4)))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_swapped_and_parametrized_layers_and_all_names_of_a_shared_block() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    report = fused(nn.Sequential(block, nn.Dropout(0), block), torch.randn(2, 3))
    assert dict(report.fused) == {"0.0": "relu", "2.0": "relu"}
    swapped = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    swap_linear(swapped)
    assert dict(fused(swapped, torch.randn(2, 3)).fused) == {"0": "tanh"}
    assert restore_linear(swapped).swapped == ()
    for make in (parametrizations.weight_norm, parametrizations.orthogonal, torch.nn.utils.weight_norm):
        model = nn.Sequential(make(nn.Linear(3, 3)), nn.SiLU())
        other = copy.deepcopy(model) if parametrize.is_parametrized(model[0]) else None
        x = torch.randn(2, 3)
        before = model(x)
        assert dict(fuse_activations(model).fused) == {"0": "silu"}
        assert torch.equal(model(x), before)
        assert other is None or (torch.equal(other(x), before) and isinstance(other[1], nn.SiLU))


class Intermediate(nn.Module):  # as transformers has it for BERT, ViT and others
    def __init__(self, act: Any = None) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 4)
        self.intermediate_act_fn = act or nn.GELU()

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.dense(hidden_states)
        hidden_states = self.intermediate_act_fn(hidden_states)
        return hidden_states


class Gated(nn.Module):  # as Llama has it
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.gate(x)) * self.up(x))
        return y * self.gate.weight.shape[0]


class Returned(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            y = self.dense(x)
            x = self.intermediate_act_fn(y) + x
        return x


def test_modules_whose_source_says_so() -> None:
    x = torch.randn(3, 4)
    assert dict(fused(Intermediate(), x).fused) == {"dense": "gelu"}
    assert dict(fused(Intermediate(F.gelu), x).fused) == {"dense": "gelu"}
    assert dict(fused(nn.Sequential(Gated(), Intermediate(nn.Tanh())), x).fused) == {
        "0.gate": "silu",
        "1.dense": "tanh",
    }


class UsesTheSum(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x)
        return self.intermediate_act_fn(y) + y  # type: ignore[no-any-return]


class UsesItLater(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x)
        z = self.intermediate_act_fn(y)
        return z + y  # type: ignore[no-any-return]


class CallsItTwice(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(x)) + self.dense(x)  # type: ignore[no-any-return]


class ActsTwice(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(self.intermediate_act_fn(x)))  # type: ignore[no-any-return]


class GivesItAway(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        return self.chunked(self.dense, x) + self.intermediate_act_fn(self.dense(x))  # type: ignore[no-any-return]

    def chunked(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)


class WalksOver(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        x = self.intermediate_act_fn(self.dense(x))
        for child in self.children():
            x = child(x)
        return x


class Scales(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        x = self.dense(x)
        x = self.intermediate_act_fn(x * 2)
        return x


@pytest.mark.parametrize(
    "kind", [UsesTheSum, UsesItLater, CallsItTwice, ActsTwice, GivesItAway, WalksOver, Scales, Returned]
)
def test_other_forwards_stay_as_they_are(kind: type[Intermediate]) -> None:
    x = torch.randn(3, 4)
    report = fused(kind(), x)
    if kind is not Returned:
        assert not report.fused
        assert "may apply it to more than the result of one layer" in report.left["intermediate_act_fn"]


class TakesApart(nn.Module):
    def __init__(self, *, deep: bool) -> None:
        super().__init__()
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.net = nn.ModuleList([net]) if deep else net
        self.deep = deep

    def forward(self, x: Tensor) -> Tensor:
        return self.net[0][0](x) if self.deep else self.net[0](x)  # type: ignore[no-any-return,operator,index]


class Walks(TakesApart):
    def forward(self, x: Tensor) -> Tensor:
        for net in self.net:  # type: ignore[union-attr]
            x = net(x)
        return x


def test_a_sequential_that_is_taken_apart() -> None:
    for deep in (False, True):
        report = fused(TakesApart(deep=deep), torch.randn(3, 4))
        assert list(report.left.values()) == ["TakesApart takes its nn.Sequential apart by an index"]
    made: dict[str, Any] = {"Base": TakesApart}
    exec("class Net(Base):\n    def forward(self, x):\n        return self.net(x)", made)
    report = fused(made["Net"](deep=False), torch.randn(3, 4))
    assert report.left == {"net.1": "the source of Net, which holds its nn.Sequential, cannot be read"}


def layer_hook(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda *_: None)


def backward_hook(layer: nn.Module) -> None:
    layer.register_full_backward_hook(lambda *_: None)


def quantized(layer: nn.Module) -> None:
    layer.qconfig = object()  # type: ignore[assignment]


class Lora(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def test_what_is_left_and_why() -> None:
    def after(change: Callable[[Any], Any], index: int = 0) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        change(model[index])
        return model

    shared = nn.Linear(4, 4)
    cases: list[tuple[nn.Module, str]] = [
        (after(layer_hook), "the layer has a hook, which would get the result after the activation"),
        (after(backward_hook), "the layer has a hook"),
        (after(layer_hook, 1), "has a hook, which would no longer be called"),
        (after(lambda act: act.register_forward_pre_hook(lambda *_: None), 1), "has a hook"),
        (after(quantized), "the layer is about to be quantized"),
        (after(lambda layer: setattr(layer, "forward", F.relu)), "a forward was replaced on the instance"),
        (nn.Sequential(shared, nn.ReLU(), shared, nn.Tanh()), "the layer is used in several places: 0 and 2"),
        (nn.Sequential(Lora(4, 4), nn.ReLU()), "follows Lora, a subclass of nn.Linear that may compute something else"),
        (nn.Sequential(nn.LazyLinear(4), nn.ReLU()), "follows a layer that has no weight yet"),
        (nn.Sequential(nn.Linear(4, 4), nn.ELU()), "nn.ELU is no activation of MYLINEAR, which has relu, gelu"),
        (nn.Sequential(nn.Linear(4, 4, dtype=torch.cfloat), nn.Tanh()), "MYLINEAR has no complex64 with an activation"),
        (nn.Sequential(MyLinear(4, 4, activation="silu"), nn.Tanh()), "follows a layer that applies silu"),
        (nn.Sequential(NotLinear(), nn.ReLU()), f"follows {__name__}.NotLinear, which is no nn.Linear"),
    ]
    for model, reason in cases:
        before = [type(m) for m in model.modules()]
        report = fuse_activations(model)
        assert not report.fused
        assert set(report.left) <= {"1", "3"}
        assert all(reason in found for found in report.left.values()), (reason, report)
        assert report.left
        assert [type(m) for m in model.modules()] == before
    assert not fuse_activations(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Linear(2, 2))).left
    assert not fuse_activations(nn.Linear(2, 2)).fused


class NotLinear(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated, says torch
def test_quantized_modules_stay() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear})
    x = torch.randn(2, 4)
    before = model(x)
    assert "is no nn.Linear" in fuse_activations(model).left["1"]
    assert torch.equal(model(x), before)
    prepared = copy.deepcopy(plain).eval()
    prepared.qconfig = torch.ao.quantization.default_qconfig  # type: ignore[assignment]
    torch.ao.quantization.prepare(prepared, inplace=True)
    assert "hook" in fuse_activations(prepared).left["1"]
    together = torch.ao.nn.intrinsic.LinearReLU(nn.Linear(4, 4), nn.ReLU())
    assert "torch's quantization" in fuse_activations(together).left["1"]


@pytest.mark.parametrize("act", ["relu", "gelu", F.silu])
def test_torch_s_transformer_layers(act: Any) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=act, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=act != F.silu)
    decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, activation=act, batch_first=True)
    x, mask = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    name = act if isinstance(act, str) else "silu"
    assert dict(fused(decoder, x, x).fused) == {"linear1": name}
    if name != "silu":
        assert "set_fastpath_enabled" in fuse_activations(encoder).left["layers.1.activation"]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        report = fused(encoder, x, None, mask)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert dict(report.fused) == {"layers.0.linear1": name, "layers.1.linear1": name}
    encoder.eval()
    with torch.no_grad():
        slow = encoder(x, None, mask)
        again = pickle.loads(pickle.dumps(encoder))
        for copied in (copy.deepcopy(encoder), again):
            assert torch.equal(copied(x, None, mask), slow)
