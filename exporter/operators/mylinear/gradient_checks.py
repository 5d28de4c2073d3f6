"""Check MYLINEAR's backward: by finite differences, and against ``torch.nn.Linear``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from exporter.operators.mylinear import functional
from exporter.torch_ops.kit import GradientCheck
from exporter.torch_ops.tensors import from_numpy, to_numpy
from ort_ops.numerics.bound import gamma
from ort_ops.numerics.compare import Comparison, compare
from ort_ops.opdef.call import Call
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64

Array = NDArray[Any]
FINITE_DIFFERENCES = "gradients, finite differences in float64"
NN_LINEAR = "gradients, nn.Linear"
_DIRECTIONS = 3
_MOST_WEIGHTS = 2**20  # of a node: its first features


def gradient_checks() -> tuple[GradientCheck, ...]:
    """Return the checks, for the `TorchKit`."""
    return (
        GradientCheck(FINITE_DIFFERENCES, against_finite_differences, "float64"),
        GradientCheck(NN_LINEAR, against_linear),
    )


def _first_features(call: Call) -> tuple[Array, Array, Array | None]:
    """Return x, and weight and bias of the first features, as many as are worth the time."""
    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    rows = max(1, _MOST_WEIGHTS // max(1, weight.shape[1]))
    return x, weight[:rows], None if bias is None else bias[:rows]


def against_finite_differences(call: Call, rng: np.random.Generator) -> Comparison:
    """Compare directional derivatives in float64; the function is linear in each argument, so a step of 1 is exact."""
    x, weight, bias = _first_features(call)
    x, weight = np.nan_to_num(x.astype(np.float64), posinf=1, neginf=-1), weight.astype(np.float64)
    arguments = [from_numpy(np.clip(x, -1e3, 1e3)), from_numpy(weight)]
    arguments += [] if bias is None else [from_numpy(bias.astype(np.float64))]
    leaves = [argument.requires_grad_() for argument in arguments]
    y = _linear(leaves)
    seed = torch.from_numpy(rng.standard_normal(tuple(y.shape)))
    gradients = torch.autograd.grad(y, leaves, seed)
    got, expected, allowed = [], [], []
    with torch.no_grad():
        magnitude = float(_linear([leaf.abs() for leaf in leaves]).mul(seed.abs()).sum())
        for index, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
            for _ in range(_DIRECTIONS):
                direction = torch.from_numpy(rng.standard_normal(tuple(leaf.shape)))
                ends = [[*leaves[:index], leaf + sign * direction, *leaves[index + 1 :]] for sign in (1, -1)]
                above, below = (_linear(end) for end in ends)
                expected.append(float(((above - below) * seed).sum()) / 2)
                got.append(float((gradient * direction).sum()))
                size = float((gradient.abs() * direction.abs()).sum()) + magnitude
                size += float(_linear([e.abs() for e in ends[0]]).mul(seed.abs()).sum())
                allowed.append(4 * gamma(weight.shape[1] + y.numel() + leaf.numel() + 4, 2.0**-53) * size)
    element_type = MYLINEAR.element_type("float64")
    return compare(np.array(got), np.array(expected), np.array(allowed), element_type)


def against_linear(call: Call, rng: np.random.Generator) -> Comparison:
    """Compare the gradients with those of ``torch.nn.functional.linear``, each allowed its own derived bound."""
    x, weight, bias = _first_features(call)
    with np.errstate(all="ignore"):
        dtype = helper.tensor_dtype_to_np_dtype(call.element_type.onnx_type)
        x, weight = x.astype(dtype), weight.astype(dtype)
        bias = None if bias is None else bias.astype(dtype)
    x = np.where(np.isfinite(x.astype(np.float64)), x, 1).astype(x.dtype)
    x = np.clip(x.astype(np.float64), -1e2, 1e2).astype(x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    seed = rng.standard_normal((len(rows), weight.shape[0])).astype(x.dtype)
    ours, theirs = (_gradients(f, rows, weight, bias, seed) for f in (functional.linear, torch.nn.functional.linear))
    ones = np.ones((1, len(rows)), x.dtype)
    exact_and_bound = [
        (linear_float64(a, b), linear_bound(a, b, None, call.element_type).error)
        for a, b in ((seed, weight.T), (seed.T, rows.T), (ones, seed.T))
    ]
    comparisons = []
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        exact, bound = exact_and_bound[index]
        exact, bound = exact.reshape(mine.shape), bound.reshape(mine.shape)
        comparisons.append(compare(mine, exact, bound, call.element_type))
        comparisons.append(compare(mine, other.astype(np.float64), 2 * bound, call.element_type))
    return max(comparisons, key=lambda c: (not c.is_within_bound, c.max_in_bounds))


def _linear(arguments: list[Tensor]) -> Tensor:
    return functional.linear(arguments[0], arguments[1], arguments[2] if len(arguments) > 2 else None)


def _gradients(function: Any, x: Array, weight: Array, bias: Array | None, seed: Array) -> list[Array]:
    leaves = [from_numpy(a).requires_grad_() for a in (x, weight, bias) if a is not None]
    y = function(*leaves) if len(leaves) == 3 else function(*leaves, None)
    return [to_numpy(gradient) for gradient in torch.autograd.grad(y, leaves, from_numpy(seed))]
