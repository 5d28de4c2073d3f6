"""Derivatives of every kind and order against finite differences and against F.linear; nothing silently wrong.

Long because it is every kind of derivative of one function, against the same reference.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from exporter.operators.mylinear import functional
from exporter.operators.mylinear.functional import LinearF, linear
from exporter.operators.mylinear.module import MyLinear
from exporter.torch_ops.gradients import check_gradients

# torch's own forward-mode code calls torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

OP = torch.ops.mylinear.linear.default
FUNCTIONS = {"linear": linear, "LinearF": LinearF.apply, "op": OP}
LEADING = [(), (3,), (0,), (2, 3), (2, 1, 2), (2, 1, 2, 2)]
Transform = Callable[[Callable[..., Tensor]], Any]


def sample(leading: tuple[int, ...] = (3,), *, bias: bool = True, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Fresh tensors, always the same; not drawn by torch, which does not draw under vmap."""
    rng = np.random.default_rng(0)
    shapes = [(*leading, 2), (4, 2), (4,)][: 3 if bias else 2]
    values = [rng.normal(size=shape) + 1j * rng.normal(size=shape) for shape in shapes]
    # clone: the strides of an empty array are 0, which gradcheck refuses
    return [
        torch.from_numpy(v if dtype.is_complex else v.real).to(dtype).clone(memory_format=torch.contiguous_format)
        for v in values
    ]


def with_bias(tensors: list[Tensor]) -> list[Tensor | None]:
    return [*tensors, None][:3]


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_derivatives_of_both_modes_also_batched(
    name: str, dtype: torch.dtype, bias: bool, leading: tuple[int, ...]
) -> None:
    tensors = with_bias([t.requires_grad_() for t in sample(leading, bias=bias, dtype=dtype)])
    # F.linear itself, which the op is here, returns a wrong shape for vmap of jvp of a vector without bias.
    is_batched = 0 not in leading and not (name == "op" and leading == () and not bias)
    gradcheck(
        FUNCTIONS[name],
        tensors,
        check_forward_ad=True,
        check_batched_grad=0 not in leading,
        check_batched_forward_grad=is_batched,
    )


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_reverse_over_reverse_and_forward_over_reverse(
    name: str, dtype: torch.dtype, leading: tuple[int, ...]
) -> None:
    tensors = [t.requires_grad_() for t in sample(leading, dtype=dtype)]
    gradgradcheck(FUNCTIONS[name], tensors, check_fwd_over_rev=True, check_batched_grad=0 not in leading)


def test_check_gradients_takes_complex_numbers() -> None:
    check_gradients(linear, sample(dtype=torch.complex64))
    check_gradients(MyLinear(2, 4, dtype=torch.complex64), torch.rand(3, 2, dtype=torch.complex64))


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_subset_of_requires_grad(name: str, wanted: tuple[bool, ...], bias: bool) -> None:
    ours, theirs = (
        [t.requires_grad_(flag) for t, flag in zip(sample((2, 3), bias=bias), wanted, strict=False)] for _ in range(2)
    )
    out, expected = FUNCTIONS[name](*with_bias(ours)), F.linear(*with_bias(theirs))
    assert out.requires_grad is expected.requires_grad
    if not out.requires_grad:
        return
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream)
    for tensor, other in zip(ours, theirs, strict=True):
        assert (tensor.grad is None) == (other.grad is None)
        assert tensor.grad is None or torch.equal(tensor.grad, other.grad)


def test_inputs_that_are_one_tensor_get_the_sum_of_their_gradients() -> None:
    ours, theirs = (torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) for _ in "ab")
    for function, tensor in ((linear, ours), (F.linear, theirs)):
        tensor.requires_grad_()
        function(tensor, tensor, tensor[0]).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    gradcheck(lambda a: linear(a, a, a[0]), [ours])


TRANSFORMS: dict[str, Transform] = {
    "jvp": lambda f: jvp(f, tuple(sample()), tuple(2 * t for t in sample())),
    "jvp of one": lambda f: jvp(lambda w: f(sample()[0], w, sample()[2]), (sample()[1],), (sample()[1],)),
    "vjp": lambda f: vjp(f, *sample())[1](torch.ones(3, 4, dtype=torch.float64)),
    "jacfwd": lambda f: jacfwd(f, (0, 1, 2))(*sample()),
    "jacrev": lambda f: jacrev(f, (0, 1, 2))(*sample()),
    "grad": lambda f: grad(lambda *a: f(*a).square().sum(), (0, 1, 2))(*sample()),
    "hessian": lambda f: hessian(lambda *a: f(*a).pow(3).sum(), (0, 1, 2))(*sample()),
    "jacrev of jacrev": lambda f: jacrev(jacrev(lambda *a: f(*a).pow(3).sum(), (0, 1)), (0, 1))(*sample()),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(lambda *a: f(*a).pow(3).sum(), (0, 1)), (0, 1))(*sample()),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(lambda *a: f(*a).pow(3).sum(), (0, 1)), (0, 1))(*sample()),
    "per-sample gradients": lambda f: vmap(grad(lambda w, x: f(x, w, None).square().sum()), (None, 0))(
        sample()[1], sample()[0]
    ),
    "grad of vmap": lambda f: grad(lambda w: vmap(lambda x: f(x, w, None))(sample()[0]).square().sum())(sample()[1]),
    "jvp of vmap": lambda f: jvp(lambda x: vmap(f, (0, None, None))(x, *sample()[1:]), (sample()[0],), (sample()[0],)),
    "vmap of jvp": lambda f: vmap(lambda x: jvp(lambda y: f(y, *sample()[1:]), (x,), (x,)))(sample()[0]),
    "nested vmap": lambda f: vmap(vmap(f, (0, None, None)), (0, 0, None))(
        torch.stack([sample()[0]] * 2), torch.stack([sample()[1], -sample()[1]]), sample()[2]
    ),
    "nested vmap of grad": lambda f: vmap(vmap(grad(lambda x, w: f(x, w, None).square().sum()), (0, None)), (None, 0))(
        sample()[0], torch.stack([sample()[1]] * 2)
    ),
    "torch.autograd.functional.jacobian": lambda f: torch.autograd.functional.jacobian(f, tuple(sample())),
    "torch.autograd.functional.hvp": lambda f: torch.autograd.functional.hvp(
        lambda *a: f(*a).pow(3).sum(), tuple(sample()), tuple(sample())
    ),
    "is_grads_batched": lambda f: batched_gradients(f),
}


def batched_gradients(f: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    tensors = [t.requires_grad_() for t in sample()]
    out = f(*tensors)
    upstream = torch.eye(out.numel(), dtype=out.dtype).reshape(-1, *out.shape)
    return torch.autograd.grad(out, tensors, upstream, is_grads_batched=True)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_give_what_f_linear_gives(name: str, transform: str) -> None:
    if (name, transform) == ("LinearF", "jacfwd of jacfwd"):
        with pytest.raises(NotImplementedError, match="call linear instead"):
            TRANSFORMS[transform](FUNCTIONS[name])
        return
    torch.testing.assert_close(TRANSFORMS[transform](FUNCTIONS[name]), TRANSFORMS[transform](F.linear))


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_with_every_subset_of_tangents(name: str, records: bool, wanted: tuple[bool, ...]) -> None:
    def tangent(function: Callable[..., Tensor]) -> Tensor | None:
        with forward_ad.dual_level():
            tensors = [t.requires_grad_(records) for t in sample()]
            duals = [
                forward_ad.make_dual(t, t.detach() + 1) if flag else t for t, flag in zip(tensors, wanted, strict=True)
            ]
            found = forward_ad.unpack_dual(function(*duals)).tangent
            return None if found is None else found.detach()

    torch.testing.assert_close(tangent(FUNCTIONS[name]), tangent(F.linear))


IN_DIMS = [
    dims for dims in itertools.product([None, 0, 1, -1], [None, 0, 2], [None, 0, 1]) if any(d is not None for d in dims)
]


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (2, 3)], ids=str)
def test_vmap_over_any_argument_and_dimension(leading: tuple[int, ...], in_dims: tuple[int | None, ...]) -> None:
    tensors = []
    for tensor, dim in zip(sample(leading), in_dims, strict=True):
        tensors.append(tensor if dim is None else torch.stack([tensor, 2 * tensor, tensor - 1], dim))
    expected = vmap(F.linear, in_dims)(*tensors)
    for function in FUNCTIONS.values():
        torch.testing.assert_close(vmap(function, in_dims)(*tensors), expected)


def test_an_ensemble_of_modules_by_stack_module_state() -> None:
    models = [MyLinear(2, 4, dtype=torch.float64) for _ in range(3)]
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]
    x = sample()[0]
    out = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(out, torch.stack([model(x) for model in models]))


def test_anomaly_mode_names_the_call_whose_gradient_is_nan() -> None:
    x, weight, bias = sample()
    weight[0, 0] = float("inf")
    with torch.autograd.set_detect_anomaly(True):
        out = linear(x.requires_grad_(), weight, bias)
        with (
            pytest.warns(UserWarning, match="(?s)Error detected in PlainLinearFBackward.*out = linear"),
            pytest.raises(RuntimeError, match="'PlainLinearFBackward' returned nan values in its 0th output"),
        ):
            out.backward(torch.zeros_like(out))  # 0 times infinity


def saved(function: Callable[..., Tensor], *tensors: Tensor | None) -> list[tuple[int, torch.dtype]]:
    """Size and dtype of each tensor that the call saves for backward."""
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append((tensor.numel(), tensor.dtype))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*tensors)
    return sorted(kept, key=str)


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("name", "autocast"), [("linear", False), ("linear", True), ("LinearF", False), ("op", False), ("op", True)]
)
def test_no_more_is_saved_than_f_linear_saves(
    name: str, leading: tuple[int, ...], wanted: tuple[bool, ...], autocast: bool
) -> None:
    tensors = [t.requires_grad_(flag) for t, flag in zip(sample(leading, dtype=torch.float32), wanted, strict=True)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = saved(FUNCTIONS[name], *tensors), saved(F.linear, *tensors)
    assert ours == theirs


def test_saved_tensor_hooks_may_pack_and_move() -> None:
    tensors = [t.requires_grad_() for t in sample()]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True), torch.from_numpy):
        linear(*tensors).square().sum().backward()
    with torch.autograd.graph.save_on_cpu():
        again = [t.detach().clone().requires_grad_() for t in tensors]
        linear(*again).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(tensors, again, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [0, 1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_in_place_change_of_a_saved_tensor_raises(name: str, changed: int) -> None:
    tensors = [t.requires_grad_() for t in sample()]
    out = FUNCTIONS[name](*tensors).sum()
    with torch.no_grad():
        tensors[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize(("changed", "wanted"), [(0, 0), (1, 1)])
def test_an_in_place_change_of_what_is_not_needed_does_not_raise(changed: int, wanted: int) -> None:
    tensors = sample()
    tensors[wanted].requires_grad_()
    for function in (F.linear, linear):
        out = function(*tensors).sum()
        with torch.no_grad():
            tensors[changed].add_(1)
        out.backward()


def test_the_output_may_be_changed_in_place() -> None:
    tensors = [t.requires_grad_() for t in sample()]
    gradcheck(lambda *a: linear(*a).mul_(2).relu_(), tensors)


def test_a_second_backward_needs_retain_graph() -> None:
    tensors = [t.requires_grad_() for t in sample()]
    out = linear(*tensors).sum()
    out.backward(retain_graph=True)
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(use_reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = nn.Sequential(MyLinear(2, 4), nn.ReLU(), MyLinear(4, 1)), torch.rand(3, 2, requires_grad=True)
    model(x).sum().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    checkpoint(model, x, use_reentrant=use_reentrant).sum().backward()
    assert all(torch.equal(p.grad, other) for p, other in zip(model.parameters(), expected, strict=True))  # type: ignore[arg-type]


def test_backward_in_another_thread() -> None:
    import threading

    tensors = [t.requires_grad_() for t in sample()]
    out = linear(*tensors).sum()
    thread = threading.Thread(target=out.backward)
    thread.start()
    thread.join()
    assert all(t.grad is not None for t in tensors)


@pytest.mark.parametrize(
    ("owner", "name"), [(functional, "are_transforms_active"), (torch.autograd.forward_ad, "_current_level")]
)
def test_where_a_private_name_does_not_say_the_complete_function_serves(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "_current_level":
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, lambda: True)
    monkeypatch.setattr(functional, "_fast_apply", lambda *a: pytest.fail("the fast apply"))
    tensors = [t.requires_grad_() for t in sample()]
    out = linear(*tensors)
    assert out.grad_fn.name() == "LinearFBackward"  # type: ignore[union-attr]
    gradgradcheck(linear, tensors)


@pytest.mark.parametrize("transform", ["jvp", "jacfwd", "grad", "hessian", "jacfwd of jacfwd", "grad of vmap"])
def test_where_torch_does_not_say_how_transforms_are_nested_the_results_are_the_same(
    transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch._C._functorch, "get_interpreter_stack")
    assert functional.forward_mode_depth() is None
    monkeypatch.undo()
    monkeypatch.setattr(functional, "forward_mode_depth", lambda: None)
    torch.testing.assert_close(TRANSFORMS[transform](linear), TRANSFORMS[transform](F.linear))


@pytest.mark.long
def test_all_private_names_may_be_gone_when_the_module_is_imported() -> None:
    script = """
import torch
from torch.autograd.function import Function
names = ["_are_functorch_transforms_active", "_is_any_autocast_enabled", "_ExcludeDispatchKeyGuard",
         "_AutoDispatchBelowAutograd"]
kept = {name: getattr(torch._C, name) for name in names}
for name in names:
    delattr(torch._C, name)
from exporter.operators.mylinear import functional
for name in names:  # torch itself goes on with them
    setattr(torch._C, name, kept[name])
assert functional.is_any_autocast_enabled() and functional.are_transforms_active()
x, weight, bias = (torch.rand(s, dtype=torch.float64, requires_grad=True) for s in [(3, 2), (4, 2), (4,)])
for function in (functional.linear, torch.ops.mylinear.linear.default):
    assert torch.autograd.gradcheck(function, (x, weight, bias))
with torch.autocast("cpu", torch.bfloat16):
    assert functional.linear(x.float(), weight.float(), bias.float()).dtype is torch.bfloat16
torch.library.opcheck(torch.ops.mylinear.linear.default, (x, weight, bias))
grad = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
assert torch.autograd.gradgradcheck(torch.ops.mylinear.linear.default, (x, weight, bias))
torch.library.opcheck(torch.ops.mylinear.linear_backward.default, (grad, x, weight, [True, False, True]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
