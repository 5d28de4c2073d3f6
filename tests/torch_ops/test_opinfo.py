"""PyTorch's own inputs for nn.functional.linear and nn.Linear (torch.testing._internal), run against ours."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.operators.mylinear.functional import linear
from exporter.operators.mylinear.module import MyLinear
from ort_ops.opdef.operator import ContractError

OP = torch.ops.mylinear.linear.default
FUNCTIONS = pytest.mark.parametrize(
    "function", [linear, lambda x, weight, bias=None: OP(x, weight, bias)], ids=["linear", "op"]
)
OURS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
OTHERS = [torch.int16, torch.int32, torch.int64, torch.int8, torch.uint8]


@functools.cache
def infos() -> tuple[Any, Any]:
    """Return torch's descriptions of the function and of the module, which take seconds to import."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # of the libraries that torch's tests import
        patch.setattr("torch.testing._internal.common_utils.TEST_SCIPY", False)  # for operators of signals alone
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    (op,) = (info for info in op_db if info.name == "nn.functional.linear")
    (module,) = (info for info in module_db if info.module_cls is nn.Linear)
    return op, module


def samples(dtype: torch.dtype, *, requires_grad: bool = False) -> Iterator[tuple[Tensor, ...]]:
    for sample in infos()[0].sample_inputs("cpu", dtype, requires_grad=requires_grad):
        assert not sample.kwargs
        yield (sample.input, *sample.args)


@FUNCTIONS
@pytest.mark.parametrize("dtype", OURS, ids=str)
@pytest.mark.parametrize("noncontiguous", [False, True])
def test_sample_inputs(function: Callable[..., Tensor], dtype: torch.dtype, noncontiguous: bool) -> None:
    count = 0
    for sample in infos()[0].sample_inputs("cpu", dtype, requires_grad=True):
        sample = sample.noncontiguous() if noncontiguous else sample
        tensors = (sample.input, *sample.args)
        out, expected = function(*tensors), F.linear(*tensors)
        torch.testing.assert_close(out, expected, rtol=0, atol=0)
        upstream = torch.randn_like(expected)
        ours, theirs = (torch.autograd.grad(y, tensors, upstream) for y in (out, expected))
        if noncontiguous:
            torch.testing.assert_close(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        count += 1
    assert count >= 18


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward-mode code
@FUNCTIONS
def test_sample_inputs_by_finite_differences(function: Callable[..., Tensor]) -> None:
    for tensors in samples(torch.float64, requires_grad=True):
        torch.autograd.gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
        torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@FUNCTIONS
def test_dtypes_that_torch_has_and_the_contract_has_not_are_refused(
    function: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    for tensors in samples(dtype):
        with pytest.raises(ContractError, match="x must be float64, float32, float16 or bfloat16"):
            function(*tensors)


def test_the_dtypes_are_those_that_torch_tests() -> None:
    assert infos()[0].dtypes == {*OURS, *OTHERS}


@FUNCTIONS
def test_error_inputs(function: Callable[..., Tensor]) -> None:
    """torch 2.13 has none for linear; those it may get are run, and those of its siblings are made from its samples."""
    op, _ = infos()
    if op.error_inputs_func is not None:
        for error in op.error_inputs("cpu"):
            with pytest.raises(ContractError):
                function(error.sample_input.input, *error.sample_input.args)
    for x, weight, *bias in samples(torch.float64):
        broken: list[list[Any]] = [
            [x[..., :-1], weight, *bias],
            [x, weight[:, :-1], *bias],
            [x, weight.unsqueeze(0), *bias],
            [x, weight[0], *bias],
            [torch.tensor(1.0, dtype=torch.float64), weight, *bias],
            [x, weight.float(), *bias],
            [x, weight.to("meta"), *bias],
        ]
        if weight.shape[0] != weight.shape[1]:
            broken.append([x, weight.t(), *bias])
        if bias:
            broken += [[x, weight, bias[0][:-1]], [x, weight, bias[0][:1]], [x, weight, bias[0].expand(2, -1)]]
            broken += [[x, weight, bias[0].float()], [x, weight, bias[0].to("meta")]]
        for arguments in broken:
            with pytest.raises(ContractError, match=r"^MYLINEAR: (x|weight|bias) must be "):
                function(*arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_module_inputs(dtype: torch.dtype, training: bool) -> None:
    _, info = infos()
    inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    for sample in inputs:
        arguments = sample.constructor_input
        module = MyLinear(*arguments.args, **arguments.kwargs).to(dtype).train(training)
        twin = nn.Linear(*arguments.args, **arguments.kwargs).to(dtype)
        twin.load_state_dict(module.state_dict())
        call = sample.forward_input
        out = module(*call.args, **call.kwargs)
        assert torch.equal(out, twin(*call.args, **call.kwargs))
        if sample.reference_fn is not None:
            torch.testing.assert_close(out, sample.reference_fn(module, *call.args, **call.kwargs))


def test_the_signatures_are_torch_s() -> None:
    assert list(inspect.signature(MyLinear.forward).parameters) == list(inspect.signature(nn.Linear.forward).parameters)
    *as_torch, activation = inspect.signature(MyLinear).parameters.values()
    assert [p.name for p in as_torch] == list(inspect.signature(nn.Linear).parameters)
    assert [p.name for p in inspect.signature(linear).parameters.values()] == ["x", "weight", "bias", "activation"]
    assert inspect.signature(linear).parameters["bias"].default is None
    for parameter in (activation, inspect.signature(linear).parameters["activation"]):  # by keyword: torch has none
        assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, None)
