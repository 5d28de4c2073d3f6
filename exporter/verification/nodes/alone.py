"""One node alone: the model that a session opens for it, and its exact results with bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.verification.nodes.drawn import Types, rounded
from ort_ops.analysis.float64.arrays import rounds_between
from ort_ops.analysis.rows import as_rows, rows_index, with_input
from ort_ops.models.make import make_model
from ort_ops.numerics.bound import Arithmetic, Bound
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
TOGETHER = 2**21
"""The most results to compute in one pass over the inputs that several calls share."""


class NodeAlone:
    """One node with the inputs that its calls share; its model is made once for all sessions.

    Attributes:
        call: the first call, in the element types that it runs in; the shared inputs are in it.
        fed: which inputs differ from call to call, and are inputs of the model; the model stores the others.
    """

    def __init__(self, kit: OperatorKit, call: Call, stored: Sequence[bool]) -> None:
        self.kit, self.call = kit, call
        index = rows_index(kit)
        present = [i for i, value in enumerate(call.inputs) if value is not None]
        fed = [i for i in present if not stored[i]] or present[:1]
        self.fed = tuple(fed if index is None else [index])
        self._serialized: dict[tuple[Any, ...], bytes] = {}

    def key(self, call: Call) -> tuple[Any, ...]:
        """Return what calls must have in common for one session: with rows their rank, otherwise all shapes."""
        if rows_index(self.kit) is not None:
            return (len(shape_of(call, self.fed[0])),)
        return tuple(shape_of(call, index) for index in self.fed)

    def serialized(self, call: Call, *, with_function: bool) -> bytes:
        """Return a model of the node for calls of this key.

        Args:
            with_function: whether to complete it with the function body and all inputs, as the body needs it; other
                kernels must do without the inputs that the node lacks.
        """
        key = (self.key(call), with_function)
        if key not in self._serialized:
            inputs: list[Any] = [*self.call.inputs]
            for index in self.fed:
                shape = shape_of(call, index)
                is_row = rows_index(self.kit) is not None
                inputs[index] = [*(f"d{i}" for i in range(len(shape) - 1)), *shape[-1:]] if is_row else [*shape]
            model = make_model(
                self.call.operator,
                inputs,
                {name: value for name, value in self.call.attributes.items() if value is not None},
                types={name: found.name for name, found in self.call.types.items()},
                outputs=self.call.has_output,
                with_function=with_function,
            )
            self._serialized = {k: v for k, v in self._serialized.items() if k[0] == key[0]}
            self._serialized[key] = model.SerializeToString()
        return self._serialized[key]

    def feed(self, call: Call) -> dict[str, Array]:
        """Return the feed for a session of the model."""
        inputs = self.call.operator.inputs
        return {inputs[index].argument: _contiguous(call.array(index)) for index in self.fed}


def _contiguous(array: Array | None) -> Array:
    assert array is not None
    return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray turns a scalar into a vector


def shape_of(call: Call, index: int) -> tuple[int, ...]:
    """Return the shape of an input, which may be stored."""
    value: Any = call.inputs[index]
    return tuple(value.shape)


@dataclass(frozen=True)
class Expected:
    """The exact results of one call, and for each arithmetic the bound of each."""

    exact: list[Array]
    bounds: dict[Arithmetic, list[Bound | None]]


def in_types(call: Call, types: Types, like: Call | None = None) -> Call:
    """Return the call with its inputs as arrays of these element types; those of ``like`` for the shared ones.

    Args:
        like: a call of the same node in the same types, whose inputs stand for those that are not arrays here.
    """
    formal = call.operator.inputs
    inputs: list[Array | None] = []
    for index, value in enumerate(call.inputs):
        if value is None:
            inputs.append(None)
        elif like is not None and not isinstance(value, np.ndarray):
            inputs.append(like.array(index))
        else:
            array = call.array(index)
            assert array is not None
            inputs.append(rounded(array, types[formal[index].type.name]))
    return replace(call, inputs=tuple(inputs), types=types)


def expected_of(calls: Sequence[Call], kit: OperatorKit, ways: Iterable[Arithmetic]) -> Iterator[Expected]:
    """Compute the exact results and bounds of each call of one node.

    Every pass over a large shared input in float64 is expensive, so the rows of several calls go together, as far as
    their results fit.
    """
    index = rows_index(kit)
    if index is None:
        for call in calls:
            yield _expected(call, kit, ways)
        return
    together: list[Call] = []
    num_values = 0
    for call in calls:
        of_this = _num_results(call)
        if together and num_values + of_this > TOGETHER:
            yield from _expected_together(together, kit, index, ways)
            together, num_values = [], 0
        together.append(call)
        num_values += of_this
    if together:
        yield from _expected_together(together, kit, index, ways)


def _num_results(call: Call) -> int:
    shapes = [None if value is None else shape_of(call, index) for index, value in enumerate(call.inputs)]
    inferred = call.operator.infer_shape(shapes, call.attributes)
    return max((math.prod(int(dim or 0) for dim in shape) for shape in inferred if shape is not None), default=0)


def _expected(call: Call, kit: OperatorKit, ways: Iterable[Arithmetic]) -> Expected:
    bounds: dict[Arithmetic, list[Bound | None]] = {}
    for way in sorted(ways, key=lambda way: way.rounds_between):
        plain = way if rounds_between(kit, call.types) else replace(way, rounds_between=False)
        bounds[way] = bounds[plain] if plain in bounds else list(kit.bound(call, plain))
    return Expected(list(kit.reference(call)), bounds)


def _expected_together(
    calls: Sequence[Call], kit: OperatorKit, index: int, ways: Iterable[Arithmetic]
) -> Iterator[Expected]:
    """Do the same for the rows of all calls at once."""
    arrays = [call.array(index) for call in calls]
    rows = np.concatenate([as_rows(array) for array in arrays if array is not None])
    found = _expected(with_input(calls[0], index, rows), kit, ways)
    start = 0
    for array in arrays:
        assert array is not None
        lead = array.shape[:-1]
        part = slice(start, start + math.prod(lead))
        start = part.stop
        exact = [values[part].reshape(*lead, *values.shape[1:]) for values in found.exact]
        bounds = {
            way: [None if b is None else _part(b, part, lead, v) for b, v in zip(of_way, found.exact, strict=True)]
            for way, of_way in found.bounds.items()
        }
        yield Expected(exact, bounds)


def _part(bound: Bound, part: slice, lead: tuple[int, ...], exact: Array) -> Bound:
    def of(values: Array) -> Array:
        return np.broadcast_to(values, exact.shape)[part].reshape(*lead, *exact.shape[1:])

    return Bound(of(bound.error), of(bound.above), of(bound.below))
