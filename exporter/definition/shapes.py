"""The shape rule of an operator that states none: run its torch function on tensors without numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from exporter.torch_ops.torch_private import DATA_DEPENDENT, without_modes
from ort_ops.opdef.operator import InferShape, Operator
from ort_ops.opdef.shapes import Dim, Shape, format_shape

_FIRST, _SECOND = 10007, 20011
"""Sizes that stand for a named dimension, two to tell its own size from a fixed one; further names get further ones."""
_MAX_KNOWN = 256


def make_shape_rule(operator: Operator, function: Callable[..., Any]) -> InferShape:
    """Return a shape rule that asks the function; what it cannot tell is unknown.

    The rule raises ContractError for sizes that the function itself refuses, with its words.
    """
    known: dict[Any, list[Shape | None]] = {}

    def infer_shape(shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> Sequence[Shape | None]:
        unknown: list[Shape | None] = [None] * len(operator.outputs)
        given = list(zip(operator.inputs, shapes, strict=False))
        if any(shape is None and not parameter.is_optional for parameter, shape in given):
            return unknown
        dims = [dim for _, shape in given if shape is not None for dim in shape]
        if not all(isinstance(dim, int | str | None) for dim in dims):
            return unknown  # of a tracer's own kind
        key = repr(([None if s is None else [*s] for s in shapes], sorted(attributes.items())))
        if key not in known:
            if len(known) >= _MAX_KNOWN:
                known.clear()
            known[key] = _infer(operator, function, shapes, attributes)
        return known[key]

    return infer_shape


class _Unnamed(str):
    """Stands for a dimension of which nothing is known."""

    __slots__ = ()

    def __new__(cls, number: int) -> _Unnamed:
        return super().__new__(cls, f"? {number}")


def _infer(
    operator: Operator, function: Callable[..., Any], shapes: Sequence[Shape | None], attributes: Mapping[str, Any]
) -> list[Shape | None]:
    numbers = itertools.count()
    shapes = [None if s is None else [_Unnamed(next(numbers)) if d is None else d for d in s] for s in shapes]
    names = list(dict.fromkeys(dim for shape in shapes for dim in shape or () if isinstance(dim, str)))
    first = {name: _FIRST + 2 * i for i, name in enumerate(names)}
    second = {name: _SECOND + 2 * i for i, name in enumerate(names)}
    unknown: list[Shape | None] = [None] * len(operator.outputs)
    try:
        found = _run(operator, function, shapes, attributes, first)
        again = _run(operator, function, shapes, attributes, second) if names else found
    except DATA_DEPENDENT:
        return unknown  # sizes that depend on numbers
    except Exception as error:
        if names:
            return unknown  # two names may have to be one size
        got = ", ".join("nothing" if shape is None else format_shape(shape) for shape in shapes)
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise operator.error("the inputs", f"of shapes that its function takes ({told})", got) from error
    if len(found) != len(unknown) or [len(s) for s in found] != [len(s) for s in again]:
        return unknown
    by_sizes = {(first[n], second[n]): n for n in names if not isinstance(n, _Unnamed)}
    result: list[Shape | None] = []
    for one, other in zip(found, again, strict=True):
        dims: list[Dim] = [a if a == b else by_sizes.get((a, b)) for a, b in zip(one, other, strict=True)]
        result.append(dims)
    return result


def _run(
    operator: Operator,
    function: Callable[..., Any],
    shapes: Sequence[Shape | None],
    attributes: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> list[list[int]]:
    made: list[tuple[list[int], torch.dtype] | None] = []
    for parameter, shape in zip(operator.inputs, [*shapes, *[None] * len(operator.inputs)], strict=False):
        dtype = getattr(torch, parameter.type.dtypes[0])
        dims = None if shape is None else [sizes[dim] if isinstance(dim, str) else int(dim or 0) for dim in shape]
        made.append(None if dims is None else (dims, dtype))
    with without_modes(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        inputs = [None if known is None else torch.empty(known[0], dtype=known[1]) for known in made]
        result = function(*inputs, **attributes)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    return [list(output.shape) for output in outputs]
