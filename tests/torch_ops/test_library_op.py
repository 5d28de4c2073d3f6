"""define_library_op: values, derivatives and transforms of an operator that is described and computed, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from exporter.torch_ops.counting import count_calls
from exporter.torch_ops.gradients import GradientError, check_gradients
from exporter.torch_ops.library_ops.define import define_library_op
from ort_ops.opdef.operator import ContractError, DefinitionError
from ort_ops.opdef.signature import Float, read_operator

from . import toy_operator
from .toy_operator import SQUARE, TORCH, square

# torch's own, in forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def scale(x: Float, shift: Float | None = None, *, factor: float = 2.0) -> Float:
    raise NotImplementedError


def compute_scale(x: Tensor, shift: Tensor | None = None, *, factor: float = 2.0) -> Tensor:
    return x.sin() * factor if shift is None else x.sin() * factor + shift


# Without a backward of its own: torch's derivative of what it computes.
SCALE = define_library_op(read_operator(scale, "exporter.tests", "Scale"), "exporter_tests::scale", compute_scale)
OPS = torch.ops.exporter_tests


def sample(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape or (3, 4), generator=generator, dtype=torch.float64)


def test_values_and_outputs() -> None:
    x, count = sample() * 2, torch.tensor(7)
    assert torch.equal(square(x, gain=0.5), x * x * 0.5)
    y, mark = square(x, count, gain=3.0)
    assert torch.equal(mark, torch.where(y > 1, count, 0))
    assert TORCH.run([x, count], {"gain": 3.0}, [True, False])[1] is None
    with pytest.raises(ContractError, match="output mark must be given for these inputs by the torch function"):
        TORCH.run([x], has_output=[True, True])


@pytest.mark.parametrize(
    ("arguments", "attributes", "message"),
    [
        ((torch.tensor(1.0),), {}, r"SQUARE: x must be of rank 1 or more, got \[\]"),
        ((torch.ones(2, dtype=torch.float16),), {}, "SQUARE: x must be float64 or float32, got float16"),
        ((torch.ones(2), torch.tensor(1.0)), {}, "SQUARE: count must be int64 or int32, got float32"),
        ((torch.ones(2),), {"size": 1.0}, "SQUARE: the attributes must be among gain, got size"),
        ((torch.ones(2), None, torch.ones(2)), {}, "SQUARE: the number of inputs must be at most 2, got 3"),
    ],
)
def test_the_contract_is_checked(arguments: tuple[Any, ...], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        square(*arguments, **attributes)


def test_what_the_function_returns_is_checked() -> None:
    operator = read_operator(scale, "exporter.tests", "Bad")
    wrong: list[tuple[Callable[..., Any], str]] = [
        (lambda x, shift, factor: x[:1], r"output y of the torch function must be \[3, 4\], got \[1, 4\]"),
        (lambda x, shift, factor: x.float(), "output y of the torch function must be of float64, got float32"),
        (lambda x, shift, factor: (x, x), "the outputs of the torch function must be 1 tensor, got 2"),
    ]
    for index, (compute, message) in enumerate(wrong):
        kit = define_library_op(operator, f"exporter_tests::bad{index}", compute)
        with pytest.raises(ContractError, match=message):
            kit.function(sample())


@pytest.mark.parametrize("count", [None, torch.tensor(2)])
def test_torch_checks_the_op(count: Tensor | None) -> None:
    x = sample().requires_grad_()
    op = OPS.square.default if count is None else OPS.square.outputs2
    torch.library.opcheck(op, (x, count, 0.5))
    torch.library.opcheck(op, (sample(4, 3).t(), count, 0.5))


@pytest.mark.parametrize("shift", [None, sample(4)])
def test_torch_checks_an_op_without_a_backward(shift: Tensor | None) -> None:
    torch.library.opcheck(OPS.scale.default, (sample().requires_grad_(), shift, 0.5))
    check_gradients(SCALE.function, (sample(), shift))


def test_gradients_are_the_author_s_and_can_be_wrong() -> None:
    check_gradients(square, (sample(),))
    check_gradients(lambda x, count: square(x, count)[0], (sample(), torch.tensor(2)))

    def wrong(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None

    kit = define_library_op(
        SQUARE,
        "exporter_tests::wrong",
        toy_operator.compute,
        backward=wrong,
        num_outputs=lambda inputs, attributes: 1,
    )
    with pytest.raises(GradientError, match="the gradient of "):
        check_gradients(kit.function, (sample(),))


def test_a_backward_returns_a_gradient_for_each_input() -> None:
    kit = define_library_op(
        read_operator(scale, "exporter.tests", "Few"),
        "exporter_tests::few",
        compute_scale,
        backward=lambda ctx, grad: grad,
    )
    with pytest.raises(DefinitionError, match=r"Few: backward must return 2 gradients, .* got 1"):
        kit.function(sample().requires_grad_()).sum().backward()


def test_one_tensor_as_two_inputs_gets_both_gradients() -> None:
    x = sample(4).requires_grad_()
    SCALE.function(x, x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach().cos() + 1)


TRANSFORMS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum())(sample()),
    "hessian": lambda f: torch.autograd.functional.hessian(lambda x: f(x).sum(), sample(2, 2)),
    "jacrev": lambda f: torch.func.jacrev(f)(sample()),
    "jacrev of jacrev": lambda f: torch.func.jacrev(torch.func.jacrev(f))(sample(2, 2)),
    "vmap": lambda f: torch.func.vmap(f)(sample(3, 4, 2)),
    "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(sample()),
    "grad of vmap": lambda f: torch.func.grad(lambda x: torch.func.vmap(f)(x).sum())(sample()),
}
FORWARD: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "jvp": lambda f: torch.func.jvp(f, (sample(),), (sample(),)),
    "jacfwd": lambda f: torch.func.jacfwd(f)(sample()),
    "dual": lambda f: dual(f),
}


def dual(f: Callable[..., Any]) -> Any:
    with torch.autograd.forward_ad.dual_level():
        made = torch.autograd.forward_ad.make_dual(sample(), sample())
        return tuple(torch.autograd.forward_ad.unpack_dual(f(made)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_give_what_torch_s_own_operations_give(name: str) -> None:
    torch.testing.assert_close(TRANSFORMS[name](square), TRANSFORMS[name](toy_operator.compute))
    torch.testing.assert_close(TRANSFORMS[name](SCALE.function), TRANSFORMS[name](compute_scale))


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_is_right_or_refused(name: str) -> None:
    torch.testing.assert_close(FORWARD[name](SCALE.function), FORWARD[name](compute_scale))
    with pytest.raises(NotImplementedError, match="has a backward of its own and no forward-mode derivative"):
        FORWARD[name](square)


def test_a_transform_uses_the_author_s_backward() -> None:
    kit = define_library_op(
        read_operator(scale, "exporter.tests", "Straight"),
        "exporter_tests::straight",
        compute_scale,
        backward=lambda ctx, grad: (grad, None),  # on purpose not the derivative
    )
    assert torch.equal(torch.func.grad(lambda x: kit.function(x).sum())(sample()), torch.ones(3, 4).double())
    with pytest.raises(NotImplementedError, match=r"within torch\.func call the function of its TorchKit"):
        torch.func.grad(lambda x: OPS.straight(x, None, 2.0).sum())(sample())


def test_autocast_casts_where_it_is_asked_for() -> None:
    operator = read_operator(scale, "exporter.tests", "Cast")
    kit = define_library_op(operator, "exporter_tests::cast", compute_scale, autocast=True)
    x = sample().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = kit.function(x)
        assert y.dtype is torch.bfloat16
        assert SCALE.function(x).dtype is torch.float32
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype is torch.float32


def test_a_compiled_function_computes_the_same() -> None:
    compiled = torch.compile(square, backend="aot_eager", fullgraph=True)
    x = sample().requires_grad_()
    compiled(x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


def test_calls_are_counted_and_leave_nodes_of_known_names() -> None:
    with count_calls() as calls:
        y = square(sample().requires_grad_())
        SCALE.function(y)
    assert calls == {SQUARE.op_type: 1, "exporter.tests::Scale": 1}
    assert y.grad_fn is not None
    assert y.grad_fn.name() in TORCH.autograd_nodes
