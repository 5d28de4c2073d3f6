"""onnx's reference evaluator, with our own operators where its are wrong, or too slow for whole models. No torch.

In onnx 1.23, Erf and Gelu round every input to float32, and take a Python call for each number; GatherElements fails
along an axis of more than 64 elements; MaxPool with strides of 1 gives wrong indices. Some operators ignore attributes
that they had in older opsets, such as ``broadcast`` of Add, and silently give another result; a model with one is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpFunction, OpRun
from onnx.reference.ops.op_max_pool import MaxPool as OnnxMaxPool

from ort_ops.analysis.operator_op import OperatorOp, element_type_of, make_operator_op
from ort_ops.numerics.error_function import erf as erf
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]


class Erf(OpRun):
    """The error function, in the precision of its input."""

    op_domain = ""

    def _run(self, x: Any) -> tuple[Array]:
        return (erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """``x / 2 (1 + erf(x / sqrt(2)))``, or its approximation by tanh."""

    op_domain = ""

    def _run(self, x: Any, approximate: str = "none") -> tuple[Array]:
        wide = x.astype(np.float64)
        if approximate == "tanh":
            inner = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
        else:
            inner = erf(wide * math.sqrt(0.5))
        return ((0.5 * wide * (1 + inner)).astype(x.dtype),)


class GatherElements(OpRun):
    """``data[..., indices[i], ...]`` along one axis."""

    op_domain = ""

    def _run(self, data: Any, indices: Any, axis: int = 0) -> tuple[Array]:
        # By the operator's definition, data that is larger than the indices in another dimension is cut there.
        axis %= data.ndim
        kept = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(indices.shape))
        return (np.take_along_axis(data[kept], indices, axis=axis),)


class MaxPool(OnnxMaxPool):
    """The largest number of each window, and where it is among all numbers of the input."""

    op_domain = ""

    def _run(self, x: Any, **attributes: Any) -> Any:  # type: ignore[override]
        if len(self.onnx_node.output) < 2:
            return super()._run(x, **attributes)  # type: ignore[no-untyped-call]
        names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides")
        return self._max_pool(x, **{n: attributes.get(n) for n in names})  # type: ignore[no-untyped-call]


class IgnoredAttributeError(NotImplementedError):
    """The evaluator would compute the model wrongly: its implementation of an operator ignores an attribute."""


Compute = Callable[[OperatorKit, Call], Sequence[Array]]
"""Computes a call of a registered operator, in the element types of its arrays; one result for each output."""


def make_evaluator(model: onnx.ModelProto, compute: Compute | None = None) -> ReferenceEvaluator:
    """Return an evaluator with the operators of this module, in bodies and in model-local functions too.

    Args:
        compute: runs the nodes of registered operators; None for the definitions that the model carries.

    Raises: IgnoredAttributeError; and what onnx raises for an operator that it does not know.
    """
    own: list[type[OpRun]] = [Erf, Gelu, GatherElements, MaxPool]

    class Evaluator(ReferenceEvaluator):
        """Make evaluators of the same class for bodies and functions; onnx's forgets the operators for functions."""

        def __init__(self, proto: Any, *, new_ops: Any = None, **options: Any) -> None:
            super().__init__(proto, new_ops=own, **options)
            for node in self.rt_nodes_ or ():
                _check_attributes(node)

        def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
            registered = None if compute is None else make_operator_op(node, self.opsets)
            if registered is None or compute is None:
                return super()._load_impl(node, input_types)
            return _computed_by(registered, compute)

    return Evaluator(model)


def _computed_by(base: type[OperatorOp], compute: Compute) -> type[OperatorOp]:
    class Computed(base):  # type: ignore[misc, valid-type]
        """Run in the element types of the arrays that it gets."""

        def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
            call = self.make_call(inputs, [element_type_of(value) for value in inputs])
            if attributes:
                call = replace(call, attributes={**call.attributes, **self.converted(attributes)})
            return tuple(compute(self.own_kit, call)[: len(self.onnx_node.output)])

    Computed.__name__ = base.__name__
    return Computed


def _check_attributes(node: OpRun) -> None:
    """Check that the implementation of a node reads all its attributes. Raises: IgnoredAttributeError."""
    if isinstance(node, OpFunction | OperatorOp) or node.op_type == "Constant":  # they read all attributes
        return
    known = _names_read(type(node))
    for attribute in node.onnx_node.attribute:
        if attribute.name not in known:
            raise IgnoredAttributeError(
                f"it ignores the attribute '{attribute.name}' of {node.op_type} '{node.onnx_node.name}'"
            )


@cache
def _names_read(implementation: type[OpRun]) -> frozenset[str]:
    """Return every name that the methods of an implementation use; an attribute is a parameter, or read from self."""
    names: set[str] = set()
    for cls in implementation.__mro__[: implementation.__mro__.index(OpRun)]:
        pending = [getattr(member, "__func__", member) for member in vars(cls).values()]
        codes = [member.__code__ for member in pending if isinstance(member, FunctionType)]
        while codes:
            code = codes.pop()
            names.update(code.co_varnames, code.co_names, code.co_freevars)
            codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(names)
