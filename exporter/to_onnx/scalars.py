"""Translate Python's scalars exactly: torch's dynamo exporter rounds them to float32, also on their way to float64.

Where an operator takes a scalar as an input, torch guesses its type before it casts it; `exact_scalars` makes that
guess float64. Where ONNX takes it as an attribute, which is float32 by ONNX's definition, `translations` compute in
float64 what the operator does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, fx

from exporter.errors import ExportError
from exporter.to_onnx.float64.erf import gelu as float64_gelu
from exporter.to_onnx.float64.kernels import float64_translations
from exporter.to_onnx.indices import index_translations

_NARROW_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_NARROW_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex32})
_WIDE_DTYPES = frozenset({torch.float64, torch.complex128})


def has_float64(model: ir.Model) -> bool:
    """Whether any value of the graph, or of a body within, is of float64."""
    return any(
        value is not None and value.dtype == ir.DataType.DOUBLE
        for graph in model.graphs()
        for node in graph
        for value in (*node.inputs, *node.outputs)
    )


def computes_in_float64(program: torch.export.ExportedProgram | None) -> bool:
    """Whether any value of a program is of float64, so that its graph has some too; False where there is no program."""
    nodes = () if program is None else program.graph.nodes
    return any(isinstance(v, Tensor) and v.dtype == torch.float64 for n in nodes for v in _parts(n.meta.get("val")))


def check_precision(program: torch.onnx.ONNXProgram) -> None:
    """Check that no operation of the program on float64 alone is translated by way of a smaller type.

    The comparison cannot see that: in such a graph, errors of float32 are within the bound.

    Raises: ExportError naming the operation.
    """
    operations: dict[str, fx.Node] = {}
    if program.exported_program is not None:
        modules = [m for m in program.exported_program.graph_module.modules() if isinstance(m, fx.GraphModule)]
        operations = {node.name: node for module in modules for node in module.graph.nodes}
    for graph in program.model.graphs():
        for node in graph:
            target = node.attributes.get_int("to", 0) if node.op_type == "Cast" else 0
            operation = operations.get(node.metadata_props.get(_ORIGIN, "").partition(" ")[0].removeprefix("%"))
            if target in _NARROW_TYPES and operation is not None and _is_in_float64(operation):
                raise ExportError(_refusal(operation))


_ORIGIN = "pkg.torch.onnx.fx_node"


def _is_in_float64(operation: fx.Node) -> bool:
    """Whether an operation has floating-point numbers to do with, and all of them are of float64, as Python's are."""
    values = [part for node in (operation, *operation.all_input_nodes) for part in _parts(node.meta.get("val"))]
    dtypes = {value.dtype for value in values if isinstance(value, Tensor)}
    has_floats = any(isinstance(value, float | torch.SymFloat) for value in values)
    return (has_floats or bool(dtypes & _WIDE_DTYPES)) and not dtypes & _NARROW_DTYPES


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _refusal(operation: fx.Node) -> str:
    name = str(getattr(operation.target, "__name__", operation.target)).removesuffix(".default")
    remedy = "write it in other operations"
    if any(isinstance(value, torch.SymFloat) for value in _parts(operation.meta.get("val"))):
        name = f"{name}, on the size of a dynamic dimension,"
        remedy = (
            "make the size a tensor first, torch.tensor(x.shape[0], dtype=x.dtype), or fix it by leaving the dimension "
            "out of dynamic_shapes"
        )
    return (
        f"torch's exporter computes {name} in float32 where the model does in float64; {remedy}, or export in float32 "
        "(`mylinear export --dtype float32`)"
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
    """Return translations, in float64, for the operators whose scalars are attributes in ONNX."""
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops import core, nn

    def number(value: float) -> Any:
        constant: Any = ir.tensor(np.array(value, np.float64))
        return op.Constant(value=constant)

    def scalar(value: int) -> Any:
        constant: Any = ir.tensor(np.array(value, np.int64))
        return op.Constant(value=constant)

    def integers(values: Sequence[int]) -> Any:
        constant: Any = ir.tensor(np.array(values, np.int64))
        return op.Constant(value=constant)

    def normalized(x: Any, axes: Sequence[int], eps: float) -> Any:
        centered = op.Sub(x, op.ReduceMean(x, integers(axes)))
        variance = op.ReduceMean(op.Mul(centered, centered), integers(axes))
        return op.Div(centered, op.Sqrt(op.Add(variance, number(eps))))

    # Without annotations: onnxscript reads them, and knows only those of its own kind.
    def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):  # type: ignore[no-untyped-def]
        if input.dtype != ir.DataType.DOUBLE:
            return _function(core.aten_layer_norm)(input, normalized_shape, weight, bias, eps)
        result = normalized(input, range(-len(normalized_shape), 0), eps)
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

    def celu(self, alpha=1.0):  # type: ignore[no-untyped-def]
        if self.dtype != ir.DataType.DOUBLE:
            return _function(nn.aten_celu)(self, alpha)
        below = op.Sub(op.Exp(op.Div(op.Min(self, number(0.0)), number(alpha))), number(1.0))
        return op.Add(op.Max(self, number(0.0)), op.Mul(below, number(alpha)))

    def gelu(self, approximate="none"):  # type: ignore[no-untyped-def]
        if self.dtype != ir.DataType.DOUBLE:
            return _function(nn.aten_gelu)(self, approximate)
        if approximate != "tanh":
            return float64_gelu(self)
        cube = op.Mul(op.Mul(self, self), self)
        inner = op.Mul(op.Add(self, op.Mul(cube, number(0.044715))), number(math.sqrt(2 / math.pi)))
        return op.Mul(op.Mul(self, number(0.5)), op.Add(op.Tanh(inner), number(1.0)))

    def scaled(x: Any, rank: int, weight: Any, bias: Any) -> Any:
        shape = integers([-1, *[1] * (rank - 2)])
        x = x if weight is None else op.Mul(x, op.Reshape(weight, shape))
        return x if bias is None else op.Add(x, op.Reshape(bias, shape))

    def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):  # type: ignore[no-untyped-def]
        if input.dtype != ir.DataType.DOUBLE:
            return _function(nn.aten_group_norm)(input, num_groups, weight, bias, eps, cudnn_enabled)
        grouped = normalized(op.Reshape(input, integers([0, num_groups, -1])), [2], eps)
        return scaled(op.Reshape(grouped, op.Shape(input)), len(input.shape), weight, bias)

    def instance_norm(  # type: ignore[no-untyped-def]
        input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled
    ):
        if input.dtype != ir.DataType.DOUBLE or not use_input_stats:
            original = _function(core.aten_instance_norm)
            state = running_mean, running_var, use_input_stats
            return original(input, weight, bias, *state, momentum, eps, cudnn_enabled)
        rank = len(input.shape)
        return scaled(normalized(input, range(2, rank), eps), rank, weight, bias)

    def arange(start, end, step=1, dtype=-1, layout="", device="", pin_memory=False):  # type: ignore[no-untyped-def]
        if dtype != ir.DataType.DOUBLE or not all(isinstance(value, int | float) for value in (start, end, step)):
            return _function(core.aten_arange_start_step)(start, end, step, dtype, layout, device, pin_memory)
        indices = op.Range(*(scalar(value) for value in (0, math.ceil((end - start) / step), 1)))
        return op.Add(op.Mul(op.Cast(indices, to=dtype), number(step)), number(start))

    def scalar_tensor(s, dtype=-1, layout="", device="", pin_memory=False):  # type: ignore[no-untyped-def]
        if isinstance(s, int | float) and dtype == ir.DataType.DOUBLE:
            return number(s)
        return _function(core.aten_scalar_tensor)(s, ir.DataType.FLOAT if dtype == -1 else dtype)

    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {
        **float64_translations(),
        **index_translations(),
        aten.scalar_tensor.default: scalar_tensor,
        aten.celu.default: celu,
        aten.gelu.default: gelu,
        aten.group_norm.default: group_norm,
        aten.instance_norm.default: instance_norm,
        aten.arange.start_step: arange,
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
