"""What onnxruntime is told of operators with Python kernels: their domains, overloads and shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ort_ops.opdef.element_types import ONNX_TYPES
from ort_ops.opdef.operator import Operator
from ort_ops.python_kernels.decorator import PythonKernel, Slot, defined_kernels, slots
from ort_ops.python_kernels.node import Node, current, present
from ort_ops.python_kernels.trampoline import Domain, Overload

_kit_slots: dict[tuple[str, str, int], Slot] = {}
"""The slots of operators from kits, which `python_kernel` does not define."""


def domains_to_register(
    names: Collection[str] | None = None,
    versions: Mapping[str, int] | None = None,
    kit_kernels: Sequence[PythonKernel[..., Any]] = (),
) -> list[Domain]:
    """Return the domains that have kernels now, for `ort_ops.python_kernels.trampoline.register`.

    Args:
        names: only these domains; None for all.
        versions: what a model imports. onnxruntime takes one version of an operator, so for each it is the newest
            that is not newer than that; the newest for a domain that is not named.
        kit_kernels: of operators from kits, whatever their domains.
    """
    chosen: dict[tuple[str, str], tuple[PythonKernel[..., Any], Slot]] = {}
    for kernel in sorted(defined_kernels(), key=lambda kernel: kernel.since_version):
        is_named = names is None or kernel.domain in names
        if is_named and kernel.since_version <= (versions or {}).get(kernel.domain, kernel.since_version):
            chosen[kernel.domain, kernel.name] = kernel, slots[kernel.key]
    for kernel in kit_kernels:
        slot = _kit_slots.setdefault(kernel.key, Slot(kernel))
        slot.kernel = kernel
        chosen[kernel.domain, kernel.name] = kernel, slot
    by_domain: dict[str, list[tuple[PythonKernel[..., Any], Slot]]] = {}
    for (domain, _), entry in sorted(chosen.items(), key=lambda item: item[0]):
        by_domain.setdefault(domain, []).append(entry)
    return [_domain(name, entries) for name, entries in by_domain.items()]


def _domain(name: str, entries: Sequence[tuple[PythonKernel[..., Any], Slot]]) -> Domain:
    """Return one domain with its kernels; a slot belongs to one operator for the life of the process."""

    def make() -> list[Overload]:
        return [overload for kernel, slot in entries for overload in make_overloads(kernel, slot)]

    return name, tuple((kernel.operator, id(slot)) for kernel, slot in entries), make


def make_overloads(kernel: PythonKernel[..., Any], slot: Slot) -> list[Overload]:
    """Return an operator's overloads, one for each combination of its element types."""
    operator = kernel.operator

    def overload(bound: Mapping[Any, str]) -> Overload:
        input_dtypes = [bound[i.type] for i in operator.inputs]
        output_dtypes = [bound[output.type] for output in operator.outputs]

        def make_node(*attributes: tuple[int, Any] | None) -> Callable[..., tuple[Any, ...]]:
            return Node(slot, operator, input_dtypes, output_dtypes, attributes).prepare

        return Overload(
            name=kernel.name,
            since_version=operator.oldest_served,
            input_types=tuple(ONNX_TYPES[name] for name in input_dtypes),
            output_types=tuple(ONNX_TYPES[name] for name in output_dtypes),
            input_is_optional=tuple(parameter.is_optional for parameter in operator.inputs),
            output_is_optional=tuple(parameter.is_optional for parameter in operator.outputs),
            attributes=tuple(a.name for a in operator.attributes),
            make_node=make_node,
            infer=lambda attributes, *rest: _infer(slot, operator, attributes, rest),
        )

    return [overload(bound) for bound in operator.overloads()]


def _infer(slot: Slot, operator: Operator, read: Sequence[Any], types_and_shapes: Sequence[Any]) -> tuple[Any, ...]:
    """Return types and shapes of the outputs, in the library's form: names as bytes, None for unknown ones."""
    kernel = current(slot, operator)
    formal = operator.inputs
    bound = operator.bind_known(types_and_shapes[::2])
    if bound is None:
        raise kernel.error("the inputs' types", "known", "nothing")
    shapes = [
        None if s is None else tuple(dim.decode() if isinstance(dim, bytes) else dim for dim in s)
        for s in types_and_shapes[1::2]
    ]
    shapes += [None] * (len(formal) - len(shapes))
    attributes = kernel.defaults | present(kernel, operator.attributes, read)
    result: list[Any] = []
    for output, shape in zip(operator.outputs, kernel.infer_shapes(shapes, attributes), strict=True):
        is_known = shape is not None and all(dim is not None for dim in shape)
        dims = tuple(d.encode() if isinstance(d, str) else d for d in shape) if shape is not None and is_known else None
        # onnxruntime shows both an unknown rank and a scalar as rank 0, so rank 0 is not stated either.
        result += [ONNX_TYPES[bound[output.type]] if output.type in bound else 0, dims or None]
    return tuple(result)
