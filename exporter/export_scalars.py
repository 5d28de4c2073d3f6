"""Translate Python's scalars exactly: torch's dynamo exporter rounds them to float32, also on their way to float64.

Where an operator takes a scalar as an input, torch guesses its type before it casts it; `exact_scalars` makes that
guess float64. Where ONNX takes it as an attribute, which is float32 by ONNX's definition, `translations` compute in
float64 what the operator does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch


def has_float64(model: ir.Model) -> bool:
    """Whether any value of the graph, or of a body within, is of float64."""
    return any(
        value is not None and value.dtype == ir.DataType.DOUBLE
        for graph in model.graphs()
        for node in graph
        for value in (*node.inputs, *node.outputs)
    )


@contextmanager
def exact_scalars() -> Iterator[None]:
    """Keep the scalars whose type torch's exporter guesses in float64, until it casts them to the type of a tensor."""
    from torch.onnx._internal.exporter import _building  # private; without it scalars are rounded, and the comparison

    original = getattr(_building, "_determine_input_dtype", None)  # refuses what that changes
    if original is None:
        yield
        return

    def determine(param: Any, arg: Any, type_binding: Any) -> Any:
        dtype = original(param, arg, type_binding)
        is_guess = param.type_constraint not in type_binding and len(param.type_constraint.allowed_types) > 1
        return ir.DataType.DOUBLE if isinstance(arg, float) and is_guess else dtype

    _building._determine_input_dtype = determine
    try:
        yield
    finally:
        _building._determine_input_dtype = original


def translations() -> dict[Any, Callable[..., Any]]:
    """Return what translates, in float64, the operators whose scalars ONNX has as attributes."""
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops import core

    def number(value: float) -> Any:
        constant: Any = ir.tensor(np.array(value, np.float64))
        return op.Constant(value=constant)

    def integers(values: Sequence[int]) -> Any:
        constant: Any = ir.tensor(np.array(values, np.int64))
        return op.Constant(value=constant)

    # Without annotations: onnxscript reads them, and knows only those of its own kind.
    def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):  # type: ignore[no-untyped-def]
        if input.dtype != ir.DataType.DOUBLE:
            return _function(core.aten_layer_norm)(input, normalized_shape, weight, bias, eps)
        axes = integers(range(-len(normalized_shape), 0))
        centered = op.Sub(input, op.ReduceMean(input, axes))
        variance = op.ReduceMean(op.Mul(centered, centered), axes)
        result = op.Div(centered, op.Sqrt(op.Add(variance, number(eps))))
        result = result if weight is None else op.Mul(result, weight)
        return result if bias is None else op.Add(result, bias)

    def batch_norm(input, weight, bias, running_mean, running_var, momentum=0.1, eps=1e-5):  # type: ignore[no-untyped-def]
        if input.dtype != ir.DataType.DOUBLE:
            original = _function(core.aten__native_batch_norm_no_training)
            return original(input, weight, bias, running_mean, running_var, momentum, eps)
        shape = integers([1, -1, *[1] * (len(input.shape) - 2)])
        mean, variance = op.Reshape(running_mean, shape), op.Reshape(running_var, shape)
        result = op.Div(op.Sub(input, mean), op.Sqrt(op.Add(variance, number(eps))))
        result = result if weight is None else op.Mul(result, op.Reshape(weight, shape))
        result = result if bias is None else op.Add(result, op.Reshape(bias, shape))
        return result, op.Identity(running_mean), op.Identity(running_var)

    def addmm(self, mat1, mat2, beta=1.0, alpha=1.0):  # type: ignore[no-untyped-def]
        is_exact = all(float(np.float32(factor)) == factor for factor in (alpha, beta))
        if self.dtype != ir.DataType.DOUBLE or is_exact:
            return _function(core.aten_addmm)(self, mat1, mat2, beta, alpha)
        return op.Add(op.Mul(self, number(beta)), op.Mul(op.MatMul(mat1, mat2), number(alpha)))

    def addcmul(self, tensor1, tensor2, value=1.0):  # type: ignore[no-untyped-def]
        product = op.Mul(tensor1, tensor2)
        return op.Add(self, product if value == 1 else op.Mul(product, op.CastLike(number(value), self)))

    def addcdiv(self, tensor1, tensor2, value=1.0):  # type: ignore[no-untyped-def]
        quotient = op.Div(tensor1, tensor2)
        return op.Add(self, quotient if value == 1 else op.Mul(quotient, op.CastLike(number(value), self)))

    def hardtanh(self, min_val=-1.0, max_val=1.0):  # type: ignore[no-untyped-def]
        return op.Clip(self, op.CastLike(number(min_val), self), op.CastLike(number(max_val), self))

    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {
        aten.layer_norm.default: layer_norm,
        aten.addmm.default: addmm,
        aten.addcmul.default: addcmul,
        aten.addcdiv.default: addcdiv,
        aten.hardtanh.default: hardtanh,
    }
    if hasattr(core, "aten__native_batch_norm_no_training"):
        table[aten._native_batch_norm_legit_no_training.default] = batch_norm
    return table


def _function(translation: Any) -> Callable[..., Any]:
    """Return the plain function behind one of onnxscript's translations."""
    function: Callable[..., Any] = translation.func
    return function
