"""Write in other operators what onnxruntime's CPU provider has no kernel for in float64, without losing accuracy.

Every translation here is for float64 alone, and else that of torch's exporter. What has no kernel and stands neither
here nor in `exporter.to_onnx.scalars` is refused, by its name, when onnxruntime is asked to run the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import core, linalg, nn, special

from exporter.to_onnx.float64.erf import erf
from exporter.to_onnx.float64.windows import average_pool, convolution

Translation = Callable[..., Any]


def number(value: float) -> Any:
    """Return a constant of float64."""
    constant: Any = ir.tensor(np.array(value, np.float64))
    return op.Constant(value=constant)


def exp_minus_1(x: Any) -> Any:
    """Return ``e^x - 1`` for x up to 0, without cancellation: ``tanh(x / 2) (e^x + 1)``."""
    return op.Mul(op.Tanh(op.Mul(x, number(0.5))), op.Add(op.Exp(x), number(1.0)))


def log_1_plus(x: Any) -> Any:
    """Return ``log(1 + x)`` for x from 0: the rounding of 1 + x is divided out again."""
    one = number(1.0)
    total = op.Add(x, one)
    is_lost = op.Equal(total, one)
    quotient = op.Div(op.Mul(op.Log(total), x), op.Where(is_lost, one, op.Sub(total, one)))
    return op.Where(is_lost, x, quotient)


def _elu(self: Any, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0) -> Any:
    zero = number(0.0)
    below = exp_minus_1(op.Mul(op.Min(self, zero), number(input_scale)))
    return op.Where(op.Greater(self, zero), op.Mul(self, number(scale)), op.Mul(below, number(alpha * scale)))


def _leaky_relu(self: Any, negative_slope: Any = 0.01) -> Any:
    return op.Where(op.Greater(self, number(0.0)), self, op.Mul(self, number(negative_slope)))


def _prelu(self: Any, weight: Any) -> Any:
    if len(self.shape) > 2 and len(weight.shape) == 1:
        return NotImplemented
    return op.Where(op.Greater(self, number(0.0)), self, op.Mul(self, weight))


def _hardsigmoid(self: Any) -> Any:
    return op.Div(op.Min(op.Max(op.Add(self, number(3.0)), number(0.0)), number(6.0)), number(6.0))


def _hardswish(self: Any) -> Any:
    return op.Mul(self, _hardsigmoid(self))


def _softplus(self: Any, beta: Any = 1.0, threshold: Any = 20.0) -> Any:
    scaled = self if beta == 1 else op.Mul(self, number(beta))
    soft = op.Add(op.Max(scaled, number(0.0)), log_1_plus(op.Exp(op.Neg(op.Abs(scaled)))))
    soft = soft if beta == 1 else op.Div(soft, number(beta))
    return op.Where(op.Greater(scaled, number(threshold)), self, soft)


def _selu(self: Any) -> Any:
    return _elu(self, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _mish(self: Any) -> Any:
    return op.Mul(self, op.Tanh(_softplus(self)))


def _vector_norm(self: Any, ord: Any = 2.0, dim: Any = None, keepdim: Any = False, dtype: Any = -1) -> Any:
    if ord != 2 or dtype not in (-1, None):
        return NotImplemented
    axes: Any = None
    if dim is not None:
        constant: Any = ir.tensor(np.array([dim] if isinstance(dim, int) else dim, np.int64))
        axes = op.Constant(value=constant)
    return op.Sqrt(op.ReduceSum(op.Mul(self, self), axes, keepdims=int(keepdim and dim is not None)))


def _convolve(x: Any, weight: Any, *options: Any) -> Any:
    found = convolution(x, weight, *options)
    return NotImplemented if found is None else found


def _convolution_of(rank: int) -> Translation:
    def convolve(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = (1,),
        padding: Any = (0,),
        dilation: Any = (1,),
        groups: int = 1,
    ) -> Any:
        if isinstance(padding, str):
            return NotImplemented
        return _convolve(x, weight, bias, stride, padding, dilation, False, [0] * rank, groups)

    return convolve


def _average_of(rank: int) -> Translation:
    def average(
        x: Any,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> Any:
        options = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        found = average_pool(x, rank, *options)
        return NotImplemented if found is None else found

    return average


def _bernoulli(self: Any, p: Any = 0.5) -> Any:
    """Draw in float32, as torch's exporter does, but without a cast of the input."""
    constant: Any = ir.tensor(np.array(p, np.float32))
    kept: Any = op.Constant(value=constant)
    return op.CastLike(op.Less(op.RandomUniformLike(self, dtype=int(ir.DataType.FLOAT)), kept), self)


def float64_translations() -> dict[Any, Translation]:
    """Return the translations by operation of ATen."""
    aten = torch.ops.aten
    table: dict[Any, tuple[Translation, Any]] = {
        aten._prelu_kernel.default: (_prelu, core.aten_prelu),
        aten.avg_pool1d.default: (_average_of(1), nn.aten_avg_pool1d),
        aten.avg_pool2d.default: (_average_of(2), nn.aten_avg_pool2d),
        aten.avg_pool3d.default: (_average_of(3), nn.aten_avg_pool3d),
        aten.bernoulli.p: (_bernoulli, core.aten_bernoulli_p),
        aten.conv1d.default: (_convolution_of(1), core.aten_conv1d),
        aten.conv2d.default: (_convolution_of(2), core.aten_conv2d),
        aten.conv3d.default: (_convolution_of(3), core.aten_conv3d),
        aten.convolution.default: (_convolve, core.aten_convolution),
        aten.erf.default: (erf, special.aten_special_erf),
        aten.elu.default: (_elu, nn.aten_elu),
        aten.hardsigmoid.default: (_hardsigmoid, nn.aten_hardsigmoid),
        aten.hardswish.default: (_hardswish, nn.aten_hardswish),
        aten.leaky_relu.default: (_leaky_relu, nn.aten_leaky_relu),
        aten.linalg_vector_norm.default: (_vector_norm, linalg.aten_linalg_vector_norm),
        aten.mish.default: (_mish, nn.aten_mish),
        aten.prelu.default: (_prelu, core.aten_prelu),
        aten.selu.default: (_selu, core.aten_selu),
        aten.softplus.default: (_softplus, nn.aten_softplus),
    }
    return {target: _for_float64(own, original) for target, (own, original) in table.items()}


def _for_float64(own: Translation, original: Any) -> Translation:
    """Return a translation that is ours for float64, where it can be, and else torch's."""
    plain: Translation = getattr(original, "func", original)

    def translate(*args, **kwargs):  # type: ignore[no-untyped-def]
        is_wide = args[0].dtype == ir.DataType.DOUBLE
        found = own(*args, **kwargs) if is_wide else NotImplemented
        return plain(*args, **kwargs) if found is NotImplemented else found

    # onnxscript tells inputs from attributes by the signature, and reads annotations, of which it knows only its own.
    parameters = inspect.signature(plain).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    translate.__signature__ = inspect.Signature(bare)  # type: ignore[attr-defined]
    translate.__name__ = own.__name__
    return translate
