"""The library op ``mylinear::linear``, which stays one node for each call in exported programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import exporter.operators.mylineargrad.library_op  # noqa: F401  # which the backward calls
from exporter.operators.mylinear.arguments import check
from exporter.operators.mylinear.autograd import OpLinearF, batched
from exporter.torch_ops.library_ops.kernels import Kernels, define_overload
from exporter.torch_ops.registration import register
from exporter.torch_ops.torch_private import are_transforms_active, forward_mode_level
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME

OP = f"{DOMAIN}::linear"
_op_apply: Callable[..., Tensor] = OpLinearF.apply


def _linear_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    check(x, weight, bias)
    return F.linear(x, weight, bias)


def _linear_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if all(isinstance(size, int) for tensor in tensors for size in tensor.shape):
        check(x, weight, bias)
    # By torch._check, because unknown or data-dependent sizes cannot be compared yet.
    torch._check(x.shape[-1] == weight.shape[1], lambda: f"{NAME}: in_features of x and weight differ")
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _linear_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, int]:
    return batched(torch.ops.mylinear.linear.default, info.batch_size, in_dims, x, weight, bias), 0


def _linear_autograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Differentiate the op."""
    if are_transforms_active() or forward_mode_level() >= 0:
        check(x, weight, bias)
        return F.linear(x, weight, bias)  # right in every transform, and there is no graph here to keep the op in
    return _op_apply(x, weight, bias)


_LIBRARY = torch.library.Library(DOMAIN, "FRAGMENT")
define_overload(
    _LIBRARY,
    "linear",
    "(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    Kernels(
        compute=_linear_op,
        fake=_linear_fake,
        vmap=_linear_vmap,
        autograd=_linear_autograd,
        backward=OpLinearF.backward,
        save=OpLinearF.save,
        num_cast=3,
    ),
)
register(MYLINEAR, OP)
