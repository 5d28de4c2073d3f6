"""Shapes, layouts, dtypes, devices, autocast and tensor subclasses, each against F.linear; errors in our words.

Long because it is every kind of tensor given to one function, against the same reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exporter.operators.mylinear.functional import linear
from exporter.operators.mylinear.module import MyLinear
from ort_ops.opdef.operator import ContractError

OP = torch.ops.mylinear.linear.default
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
COMPLEX = [torch.complex64, torch.complex128]
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NEEDS_CUDA])]


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.complex128 if dtype.is_complex else None).to(dtype)


def run(function: Callable[..., Tensor], *tensors: Tensor | None) -> list[Tensor | None]:
    """The output and the gradients of a call on leaves of the same layout."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    out = function(*leaves)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape).to(out)
    out.backward(upstream)
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def assert_same(ours: list[Tensor | None], theirs: list[Tensor | None]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a is not None
        assert b is not None
        assert a.dtype == b.dtype
        assert torch.equal(a, b), (a - b).abs().max()


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=str)
@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3), (2, 1, 3), (2, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_every_rank_and_dtype_gives_the_bits_of_f_linear(
    dtype: torch.dtype, leading: tuple[int, ...], bias: bool
) -> None:
    tensors = [randn(*leading, 5, dtype=dtype), randn(4, 5, dtype=dtype), randn(4, dtype=dtype) if bias else None]
    expected = run(F.linear, *tensors)
    assert_same(run(linear, *tensors), expected)
    assert_same(run(OP, *tensors), expected)


@pytest.mark.parametrize("shape", list(itertools.product([0, 3], [0, 2], [0, 4])), ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("more", [(), (2,), (0,)], ids=str)
def test_zero_in_every_dimension(shape: tuple[int, int, int], bias: bool, more: tuple[int, ...]) -> None:
    rows, in_features, out_features = shape
    tensors = [randn(*more, rows, in_features), randn(out_features, in_features), randn(out_features) if bias else None]
    assert_same(run(linear, *tensors), run(F.linear, *tensors))


LAYOUTS: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor]]] = {
    "x transposed": lambda: (randn(2, 3).t(), randn(4, 2), randn(4)),
    "x expanded": lambda: (randn(1, 2).expand(3, 2), randn(4, 2), randn(4)),
    "x of stride 0": lambda: (randn(3, 1).expand(3, 2), randn(4, 2), randn(4)),
    "x every other": lambda: (randn(6, 4)[::2, ::2], randn(4, 2), randn(4)),
    "x with an offset": lambda: (randn(4, 3)[1:, 1:], randn(4, 2), randn(4)),
    "x channels last": lambda: (
        randn(2, 2, 3, 3).to(memory_format=torch.channels_last).permute(0, 2, 3, 1),
        randn(4, 2),
        randn(4),
    ),
    "x channels last, 4-d": lambda: (randn(2, 3, 3, 2).to(memory_format=torch.channels_last), randn(4, 2), randn(4)),
    "x channels last, 5-d": lambda: (
        randn(2, 3, 2, 3, 2).to(memory_format=torch.channels_last_3d),
        randn(4, 2),
        randn(4),
    ),
    "x permuted": lambda: (randn(2, 3, 5).permute(1, 2, 0), randn(4, 2), randn(4)),
    "x flipped": lambda: (randn(3, 2).flip(0), randn(4, 2), randn(4)),
    "weight transposed": lambda: (randn(3, 2), randn(2, 4).t(), randn(4)),
    "weight expanded": lambda: (randn(3, 2), randn(1, 2).expand(4, 2), randn(4)),
    "weight every other": lambda: (randn(3, 2), randn(8, 4)[::2, ::2], randn(4)),
    "bias expanded": lambda: (randn(3, 2), randn(4, 2), randn(1).expand(4)),
    "bias every other": lambda: (randn(3, 2), randn(4, 2), randn(8)[::2]),
    "all of one storage": lambda: (randn(40)[:6].view(3, 2), randn(40)[6:14].view(4, 2), randn(40)[14:18]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_values_and_gradients_of_f_linear(layout: str) -> None:
    tensors = LAYOUTS[layout]()
    for ours, theirs in zip(run(linear, *tensors), run(F.linear, *tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)  # the order of the sums may be another


@pytest.mark.parametrize("upstream", ["ones", "expanded", "transposed", "every other"])
@pytest.mark.parametrize("leading", [(3,), (2, 3)], ids=str)
def test_upstream_gradients_of_any_layout(upstream: str, leading: tuple[int, ...]) -> None:
    shape = (*leading, 4)
    grad = {
        "ones": torch.ones(shape, dtype=torch.float64),
        "expanded": torch.ones((), dtype=torch.float64).expand(shape),
        "transposed": randn(*shape[::-1]).permute(*reversed(range(len(shape)))),
        "every other": randn(*(2 * size for size in shape))[(slice(None, None, 2),) * len(shape)],
    }[upstream]
    results = []
    for function in (linear, F.linear):
        leaves = [randn(*leading, 2).requires_grad_(), randn(4, 2).requires_grad_(), randn(4).requires_grad_()]
        function(*leaves).backward(grad)
        results.append([leaf.grad for leaf in leaves])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    leading=st.lists(st.integers(0, 3), max_size=4),
    in_features=st.integers(0, 9),
    out_features=st.integers(0, 9),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.complex128]),
)
def test_any_shape_gives_the_bits_of_f_linear(
    leading: list[int], in_features: int, out_features: int, bias: bool, dtype: torch.dtype
) -> None:
    tensors = [
        randn(*leading, in_features, dtype=dtype),
        randn(out_features, in_features, dtype=dtype),
        randn(out_features, dtype=dtype) if bias else None,
    ]
    assert_same(run(linear, *tensors), run(F.linear, *tensors))


@pytest.mark.parametrize("bias", [True, False])
def test_meta_tensors_have_shapes_and_gradients_without_numbers(bias: bool) -> None:
    layer = MyLinear(2, 4, bias=bias, device="meta")
    x = torch.empty(5, 3, 2, device="meta", requires_grad=True)
    out = layer(x)
    assert out.shape == (5, 3, 4)
    assert out.is_meta
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert OP(x, layer.weight, layer.bias).shape == out.shape


def test_fake_tensors_have_shapes_without_numbers() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        tensors = [torch.empty(3, 2), torch.empty(4, 2), torch.empty(4)]
        assert linear(*tensors).shape == OP(*tensors).shape == (3, 4)
        with pytest.raises(ContractError, match="is it transposed"):
            OP(tensors[0], torch.empty(2, 4), None)


BROKEN: dict[str, tuple[tuple[Tensor, Tensor, Tensor | None], str]] = {
    "scalar x": ((randn(), randn(4, 2), randn(4)), r"x must be \[..., in_features\] with rank 1 or more, got \[\]"),
    "flat weight": ((randn(3, 2), randn(2), None), r"weight must be \[out_features, in_features\], got \[2\]"),
    "3-d weight": ((randn(3, 2), randn(1, 4, 2), None), r"weight must be .*, got \[1, 4, 2\]"),
    "transposed": ((randn(3, 2), randn(2, 4), None), r"weight must be \[out_features, 2\].*is it transposed\?"),
    "in_features": ((randn(3, 2), randn(4, 3), None), r"weight must be \[out_features, 2\] \(x has in_features 2\)"),
    "bias that broadcasts": ((randn(3, 2), randn(4, 2), randn(1)), r"bias must be \[4\].*, got \[1\]"),
    "bias of rank 2": ((randn(3, 2), randn(4, 2), randn(3, 4)), r"bias must be \[4\].*, got \[3, 4\]"),
    "bias that widens": ((randn(2), randn(1, 2), randn(5)), r"bias must be \[1\].*, got \[5\]"),
    "integers": ((randn(3, 2).long(), randn(4, 2).long(), None), "x must be float64, .*, got int64"),
    "bool": ((randn(3, 2).bool(), randn(4, 2).bool(), None), "x must be float64, .*, got bool"),
    "mixed weight": (
        (randn(3, 2), randn(4, 2).float(), None),
        r"weight must be float64 \(the dtype of x\), got float32",
    ),
    "mixed bias": (
        (randn(3, 2), randn(4, 2), randn(4).float()),
        r"bias must be float64 \(the dtype of x\), got float32",
    ),
    "mixed bias of a strided x": (
        (randn(2, 3, 2).transpose(0, 1), randn(4, 2), randn(4).float()),
        r"bias must be float64 \(the dtype of x\), got float32",
    ),
    "real and complex": ((randn(3, 2), randn(4, 2).to(torch.complex128), None), "weight must be float64.*complex128"),
    "half and bfloat16": ((randn(3, 2).half(), randn(4, 2).bfloat16(), None), "weight must be float16.*bfloat16"),
    "meta weight": (
        (randn(3, 2), randn(4, 2).to("meta"), None),
        r"weight must be on cpu \(the device of x\), got one on",
    ),
    "meta bias": ((randn(3, 2), randn(4, 2), randn(4).to("meta")), r"bias must be on cpu .*, got one on meta"),
    "meta x": ((randn(3, 2).to("meta"), randn(4, 2), None), r"weight must be on meta .*, got one on cpu"),
    "mixed and empty": ((randn(0, 2), randn(4, 2).float(), None), "weight must be float64"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("function", [linear, OP], ids=["linear", "op"])
def test_a_broken_contract_is_told_in_the_contract_s_words(name: str, function: Callable[..., Tensor]) -> None:
    tensors, message = BROKEN[name]
    with pytest.raises(ContractError, match=f"^MYLINEAR: {message}"):
        function(*tensors)


@pytest.mark.parametrize("wrong", range(3))
def test_what_is_no_tensor_is_a_type_error(wrong: int) -> None:
    arguments: list[object] = [randn(3, 2), randn(4, 2), randn(4)]
    arguments[wrong] = arguments[wrong].tolist()  # type: ignore[attr-defined]
    name = ("x", "weight", "bias")[wrong]
    with pytest.raises(TypeError, match=f"MYLINEAR: {name} must be a torch.Tensor, got list"):
        linear(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("inputs", FLOATS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
@pytest.mark.parametrize("leading", [(3,), (2, 3)], ids=str)
def test_autocast_is_f_linear_s(
    device: str, dtype: torch.dtype, inputs: torch.dtype, bias: bool, inside: bool, leading: tuple[int, ...]
) -> None:
    results = []
    for function in (F.linear, linear, OP):
        shapes = [(*leading, 5), (4, 5), (4,)]
        leaves = [randn(*shape, dtype=inputs).to(device).requires_grad_() for shape in shapes[: 2 + bias]]
        with torch.autocast(device, dtype):
            out = function(*leaves, *([] if bias else [None]))
            if inside:
                out.float().square().sum().backward()
        if not inside:
            out.float().square().sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


def test_autocast_takes_mixed_dtypes_that_f_linear_takes_and_refuses_the_others() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        mixed = (randn(3, 2).bfloat16(), randn(4, 2).float(), randn(4).half())
        assert torch.equal(linear(*mixed), F.linear(*mixed))
        with pytest.raises(ContractError, match="weight must be float64"):
            linear(randn(3, 2), randn(4, 2).float(), None)
        with torch.autocast("cpu", enabled=False):
            assert linear(*(t.float() for t in mixed)).dtype is torch.float32
        meta = [t.to("meta") for t in mixed[1:]]
        with pytest.raises(ContractError, match="weight must be float16"):  # meta has no autocast
            linear(randn(3, 2).half().to("meta"), meta[0], None)


def test_a_weight_that_is_used_twice_under_autocast_gets_both_gradients() -> None:
    grads = []
    for function in (linear, F.linear):
        x, weight = randn(3, 4).float(), randn(4, 4).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            F.linear(function(function(x, weight), weight), weight).sum().backward()
        grads.append(weight.grad)
    # Not to the bit: torch caches the cast of a weight, and so adds the two gradients in bfloat16; ours in float32.
    torch.testing.assert_close(*grads, rtol=2**-7, atol=2**-7 * grads[1].abs().max().item())  # type: ignore[union-attr]


def test_an_autocast_training_gives_the_weights_of_nn_linear_to_the_bit() -> None:
    results = []
    for layer in (MyLinear, nn.Linear):
        torch.manual_seed(0)
        model = nn.Sequential(layer(8, 16), nn.ReLU(), layer(16, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(torch.rand(32, 8)).float().square().mean()
            loss.backward()
            optimizer.step()
        results.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Tagged(Tensor):
    """A tensor subclass of the default kind."""


class Counting(Tensor):
    """A tensor subclass that sees every function that is called on it."""

    seen: list[object]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_tensor_subclasses_stay_what_they_are_and_see_the_call() -> None:
    x, weight, bias = randn(3, 2), randn(4, 2), randn(4)
    assert type(linear(x.as_subclass(Tagged), weight, bias)) is Tagged
    Counting.seen = []
    out = linear(x, weight.as_subclass(Counting), bias)
    assert type(out) is Counting
    assert Counting.seen == [linear]


def test_a_torch_function_mode_sees_the_call() -> None:
    from torch.overrides import TorchFunctionMode

    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        linear(randn(3, 2), randn(4, 2), randn(4))
    assert linear in seen


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_cuda_gives_what_f_linear_gives(dtype: torch.dtype) -> None:
    tensors = [t.cuda() for t in (randn(64, 32, dtype=dtype), randn(16, 32, dtype=dtype), randn(16, dtype=dtype))]
    for ours, theirs in zip(run(linear, *tensors), run(F.linear, *tensors), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ContractError, match="weight must be on cuda:0"):
        linear(tensors[0], tensors[1].cpu(), None)
