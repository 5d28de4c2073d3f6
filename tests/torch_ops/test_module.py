"""MyLinear as a drop-in for nn.Linear: state, copies, pickles, parametrizations, pruning, checkpointing, bits."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from exporter.operators.mylinear.module import MyLinear
from exporter.torch_ops.counting import count_calls


def mlp(layer: type[nn.Linear], dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(layer(8, 16, dtype=dtype), nn.ReLU(), layer(16, 3, bias=False, dtype=dtype))


def assert_same_bits(a: nn.Module, b: nn.Module) -> None:
    assert list(a.state_dict()) == list(b.state_dict())
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


@pytest.mark.parametrize("bias", [True, False])
def test_state_goes_both_ways_strictly(bias: bool) -> None:
    ours, theirs = MyLinear(2, 4, bias=bias), nn.Linear(2, 4, bias=bias)
    assert not any(ours.load_state_dict(theirs.state_dict(), strict=True))
    assert_same_bits(ours, theirs)
    ours.reset_parameters()
    assert not any(theirs.load_state_dict(ours.state_dict(), strict=True))
    assert_same_bits(ours, theirs)
    assert repr(ours) == repr(theirs).replace("Linear", "MyLinear")


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dtype": torch.float64}, {"device": "meta"}], ids=str)
def test_the_constructor_is_nn_linear_s(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = MyLinear(2, 4, **options)
    torch.manual_seed(0)
    theirs = nn.Linear(2, 4, **options)
    for (name, a), (other_name, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert (name, a.shape, a.dtype, a.device) == (other_name, b.shape, b.dtype, b.device)
        assert a.is_meta or torch.equal(a, b)


def test_copies_and_pickles_compute_the_same_and_share_nothing() -> None:
    model, x = mlp(MyLinear), torch.rand(5, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert type(other[0]) is MyLinear
        with torch.no_grad():
            other[0].weight.add_(1)
        assert not torch.equal(other(x), model(x))


def test_torch_save_of_the_state_and_of_the_module_with_weights_only() -> None:
    model, x = mlp(MyLinear), torch.rand(5, 8)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = mlp(nn.Linear)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), model(x))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="add_safe_globals"):
        torch.load(buffer, weights_only=True)
    buffer.seek(0)
    with torch.serialization.safe_globals([MyLinear, nn.Sequential, nn.ReLU]):
        assert torch.equal(torch.load(buffer, weights_only=True)(x), model(x))


def test_functional_call_takes_other_parameters() -> None:
    layer, x = MyLinear(2, 4), torch.rand(3, 2)
    other = {"weight": torch.rand(4, 2, requires_grad=True), "bias": torch.zeros(4)}
    out = functional_call(layer, other, (x,))
    assert torch.equal(out, nn.functional.linear(x, other["weight"], other["bias"]))
    (grad,) = torch.autograd.grad(out.sum(), other["weight"])
    assert grad.shape == (4, 2)


@pytest.mark.parametrize(
    "parametrization",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
    ids=lambda p: p.__name__,
)
def test_parametrizations_train_as_with_nn_linear(parametrization: Callable[[nn.Module], nn.Module]) -> None:
    models = []
    for layer in (MyLinear, nn.Linear):
        torch.manual_seed(0)
        model = parametrization(layer(8, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            with count_calls() as calls:
                model(torch.rand(5, 8)).square().sum().backward()
            assert calls.total() == (layer is MyLinear)
            optimizer.step()
        models.append(model)
    if parametrization is not parametrizations.orthogonal:
        assert_same_bits(*models)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(
            ours, theirs
        )  # orthogonal makes a weight by columns, whose sums torch orders otherwise
    parametrize.remove_parametrizations(models[0], "weight")
    assert type(models[0]) is MyLinear


def test_pruning_masks_the_weight_and_its_gradient() -> None:
    models = []
    for layer in (MyLinear, nn.Linear):
        torch.manual_seed(0)
        model = layer(8, 4)
        prune.l1_unstructured(model, "weight", amount=0.5)
        model(torch.rand(5, 8)).sum().backward()
        assert (model.get_parameter("weight_orig").grad == 0).sum() == 16  # type: ignore[union-attr]
        prune.remove(model, "weight")
        models.append(model)
    assert_same_bits(*models)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_gives_the_same_bits(use_reentrant: bool) -> None:
    grads = []
    for is_checkpointed in (False, True):
        model, x = mlp(MyLinear), torch.rand(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = checkpoint(model, x, use_reentrant=use_reentrant) if is_checkpointed else model(x)
        assert isinstance(out, Tensor)
        out.sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("leading", [(), (32,), (4, 8)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_training_gives_the_bits_of_nn_linear(
    dtype: torch.dtype, optimizer: str, leading: tuple[int, ...], threads: int
) -> None:
    models = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for layer in (MyLinear, nn.Linear):
            model = mlp(layer, dtype)
            step = OPTIMIZERS[optimizer](model.parameters())
            for _ in range(20):
                step.zero_grad()
                x = torch.rand(*leading, 8, dtype=dtype)
                (model(x) - x[..., :3]).square().mean().backward()
                step.step()
            models.append(model)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(*models)


def test_training_of_a_wide_layer_gives_the_bits_of_nn_linear() -> None:
    models = []
    for layer in (MyLinear, nn.Linear):
        torch.manual_seed(0)
        model = nn.Sequential(layer(256, 512), nn.GELU(), layer(512, 256))
        step = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            step.zero_grad()
            model(torch.rand(64, 256)).square().mean().backward()
            step.step()
        models.append(model)
    assert_same_bits(*models)


def test_a_frozen_layer_keeps_nothing_of_its_input() -> None:
    """The memory of fine-tuning: nn.Linear saves no input for a weight without gradient, and neither do we."""
    for layer in (MyLinear, nn.Linear):
        model = layer(8, 4).requires_grad_(False)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()), lambda _: None):
            model(torch.rand(5, 8, requires_grad=True) * 1)
        assert kept == [32]
