"""swap_linear and restore_linear: what is swapped, what is not and why, and that nothing else changes.

Long because each test brings a small module of its own.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from exporter.operators.mylinear import swap
from exporter.operators.mylinear.module import MyLinear
from exporter.operators.mylinear.swap import restore_linear, swap_linear
from exporter.torch_ops.counting import count_calls


class Own(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Tied(nn.Module):
    """One module under two names, and one parameter in two modules and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, index: Tensor) -> Tensor:
        y: Tensor = self.head(self.again(torch.relu(self.first(self.embedding(index)))))
        return y


def classes(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def test_every_linear_is_swapped_and_computes_the_same_bits_by_our_operator() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2)))
    x = torch.rand(5, 3)
    before, state, layers = model(x), copy.deepcopy(model.state_dict()), list(model.modules())
    report = swap_linear(model)
    assert report.swapped == ("0", "2.0", "2.1")
    assert not report.skipped
    with count_calls() as calls:
        assert torch.equal(model(x), before)
        assert calls.total() == 3
    assert list(model.modules()) == layers
    assert list(model.state_dict()) == list(state)
    restored = restore_linear(model)
    assert restored.swapped == report.swapped
    assert type(model[0]) is type(model[2][0]) is type(model[2][1]) is nn.Linear  # type: ignore[index]


def test_the_model_itself_may_be_the_linear() -> None:
    model = nn.Linear(2, 3)
    assert swap_linear(model).swapped == ("",)
    assert type(model) is MyLinear
    assert str(restore_linear(model)) == "1 swapped, 0 skipped\nswapped (the model)"
    assert type(model) is nn.Linear


def test_restore_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(2, 3), MyLinear(3, 3), Own(3, 1))
    before = classes(model), [dict(vars(module)) for module in model.modules()]
    swap_linear(model)
    report = restore_linear(model)
    assert (classes(model), [dict(vars(module)) for module in model.modules()]) == before
    assert report.skipped == {"1": "was built as a MyLinear"}


def test_tied_parameters_and_shared_modules_stay_tied() -> None:
    model = Tied()
    report = swap_linear(model)
    assert report.swapped == ("first", "again", "head")
    assert model.first is model.again
    assert model.head.weight is model.embedding.weight
    index = torch.arange(7)
    model(index).sum().backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert restore_linear(model).swapped == report.swapped
    model.zero_grad()
    model(index).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, ours[name]), name  # type: ignore[arg-type]


def test_a_filter_chooses() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    report = swap_linear(model, lambda name, module: name != "0" and module.out_features == 1)
    assert report.swapped == ("1",)
    assert report.skipped == {"0": "left out by filter_fn"}


def test_what_is_not_swapped_is_reported_with_the_reason() -> None:
    replaced = nn.Linear(2, 2)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    integers = nn.Linear(2, 2)
    integers.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    other = type("Linear", (nn.Module,), {"__module__": "elsewhere"})()
    model = nn.ModuleDict(
        {
            "mine": MyLinear(2, 2),
            "own": Own(2, 2),
            "lazy": nn.LazyLinear(2),
            "replaced": replaced,
            "integers": integers,
            "other": other,
            "attention": nn.MultiheadAttention(4, 2),
        }
    )
    report = swap_linear(model)
    assert report.swapped == ()
    assert report.skipped == {
        "mine": "is a MyLinear already",
        "own": "Own is a subclass of nn.Linear, and may compute something else",
        "lazy": "has no weight yet; call the model once, then swap",
        "replaced": "its forward was replaced on the instance",
        "integers": "MYLINEAR has no int8",
        "other": "elsewhere.Linear is no nn.Linear",
        "attention.in_proj_weight": "is a parameter of nn.MultiheadAttention, which gives it to "
        "torch.nn.functional.linear; `mylinear adopt` makes a node of it in the exported file",
        "attention.out_proj": "nn.MultiheadAttention reads its weight and never calls it",
    }


class Conv1D(nn.Module):
    """As in transformers: a linear layer whose weight is ``[in_features, out_features]``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(3, 4)), nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], 4)


class TiedHead(nn.Module):
    """Calls F.linear in a method of its own, within a comprehension."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.linear = nn.Identity()

    def head(self, x: Tensor) -> Tensor:
        return torch.stack([functional.linear(row, self.embedding.weight) for row in x])

    def forward(self, index: Tensor) -> Tensor:
        return self.head(functional.relu(self.linear(self.embedding(index))))


class Named(nn.Module):
    """Names a submodule as torch's function is named, which is no call of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.linear(x))


def test_what_calls_the_function_itself_is_named() -> None:
    model = nn.ModuleDict(
        {
            "conv1d": Conv1D(), "tied": TiedHead(), "named": Named(), "bilinear": nn.Bilinear(2, 2, 2),
            "attention": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        }
    )  # fmt: skip
    report = swap_linear(model)
    assert report.swapped == ("named.linear",)
    calls = {name: reason.split("calls ")[-1].split(" itself")[0] for name, reason in report.skipped.items()}
    assert calls["conv1d"] == "torch.addmm"
    assert calls["tied"] == "torch.nn.functional.linear"
    weights = {f"attention.{letter}_proj_weight" for letter in "qkv"}
    assert set(report.skipped) == {"conv1d", "tied", *weights, "attention.out_proj"}
    assert "Conv1D calls torch.addmm itself" in str(report)


def test_a_lazy_linear_is_swapped_once_it_has_a_weight() -> None:
    model = nn.Sequential(nn.LazyLinear(2))
    model(torch.rand(1, 3))
    assert swap_linear(model).swapped == ("0",)
    assert model(torch.rand(1, 3)).shape == (1, 2)


@pytest.mark.parametrize("has_grad", [True, False])
def test_a_transformer_is_swapped_with_a_note_where_torch_goes_around_it(has_grad: bool) -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    report = swap_linear(model)
    assert report.swapped == ("linear1", "linear2")
    assert set(report.notes) == set(report.swapped)
    with count_calls() as calls, torch.set_grad_enabled(has_grad):
        model(torch.rand(1, 3, 8))
        assert calls.total() == (2 if has_grad else 0)  # what the note says


def test_the_transformer_s_fast_path_can_be_stopped() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    swap_linear(model)
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with count_calls() as calls, torch.no_grad():
            model(torch.rand(1, 3, 8))
            assert calls.total() == 2
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@pytest.mark.parametrize("parametrization", [weight_norm, spectral_norm])
def test_parametrized_layers_are_swapped_and_restored(parametrization: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(parametrization(nn.Linear(3, 4))).eval()  # type: ignore[operator]
    twin = copy.deepcopy(model)
    x = torch.rand(2, 3)
    before, name = model(x), type(model[0]).__name__
    assert swap_linear(model).swapped == ("0",)
    assert isinstance(model[0], MyLinear)
    assert not isinstance(twin[0], MyLinear)  # a copy shares the class that parametrize made
    with count_calls() as calls:
        assert torch.equal(model(x), before)
        assert calls.total() == 1
    restore_linear(model)
    assert not isinstance(model[0], MyLinear)
    assert type(model[0]).__name__ == name
    assert torch.equal(model(x), before)
    swap_linear(model)
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is MyLinear
    assert restore_linear(model).swapped == ("0",)
    assert type(model[0]) is nn.Linear


def test_a_parametrization_added_after_the_swap_stays_when_restored() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    swap_linear(model)
    weight_norm(model[0])
    restore_linear(model)
    assert type(model[0]).__bases__ == (nn.Linear,)
    assert parametrize.is_parametrized(model[0])
    model(torch.rand(2, 3)).sum().backward()


def test_a_class_that_changed_since_is_reported_and_left() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    swap_linear(model)
    model[0].__class__ = type("Wrapped", (MyLinear,), {})
    assert restore_linear(model).skipped == {"0": "has become a Wrapped since"}


def test_hooks_pruning_and_the_optimizer_go_on() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    calls = []
    model[1].register_forward_hook(lambda *args: calls.append(1))
    before = [parameter.clone() for parameter in model.parameters()]
    assert swap_linear(model).swapped == ("0", "1")
    model(torch.rand(2, 3)).sum().backward()
    optimizer.step()
    assert calls == [1]
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert (model[0].weight == 0).sum() == 6


def test_copies_and_pickles_of_a_swapped_model_can_be_restored() -> None:
    model = nn.Sequential(nn.Linear(3, 4), MyLinear(4, 1))
    swap_linear(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert restore_linear(other).swapped == ("0",)
        assert classes(other)["1"] is MyLinear
    assert type(model[0]) is MyLinear


def test_a_traced_graph_is_swapped_as_well() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)))
    x = torch.rand(2, 3)
    before = graph(x)
    assert swap_linear(graph).swapped == ("0", "2")
    assert torch.equal(graph(x), before)


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_a_compiled_model_is_compiled_anew() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.rand(2, 3)
    before = compiled(x)
    assert swap_linear(compiled).swapped == ("_orig_mod.0",)
    assert torch.equal(compiled(x), before)


def test_the_mark_is_no_name_of_torch_s() -> None:
    assert not hasattr(nn.Linear(1, 1), swap._MARK)
    assert swap._MARK not in nn.Linear(1, 1).state_dict()
