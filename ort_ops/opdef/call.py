"""One call of an operator: what a node received, and which outputs it has."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ort_ops.opdef.element_types import ElementType
    from ort_ops.opdef.operator import Operator

    Array = NDArray[Any]


_FLOAT, _FLOATS = 1, 6  # of onnx.AttributeProto.AttributeType


class Loadable(Protocol):
    """A tensor that is read when it is needed."""

    def load(self) -> Array:
        """Return the array."""


@dataclass(frozen=True)
class Call:
    """What one node of an operator received.

    Attributes:
        inputs: in the operator's order, None for an absent one; an array, or an object that loads it.
        attributes: with the defaults of those that the node lacks.
        types: the element type of each type variable, by its name.
        label: of the node, for messages.
        outputs: which outputs the node has; empty for all.
    """

    operator: Operator
    inputs: tuple[Array | Loadable | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, ElementType] = field(default_factory=dict)
    label: str = ""
    outputs: tuple[bool, ...] = ()

    def array(self, index: int) -> Array | None:
        """Return an input as an array, read anew each time if the model stores it; None for an absent one."""
        found: Any = self.inputs[index] if index < len(self.inputs) else None
        if found is None or hasattr(found, "dtype"):
            return cast("Array | None", found)
        return cast("Array", found.load())

    @property
    def arrays(self) -> list[Array | None]:
        """All inputs as arrays; see `array`."""
        return [self.array(index) for index in range(len(self.operator.inputs))]

    @property
    def has_output(self) -> list[bool]:
        """Whether the node has each of the operator's outputs."""
        count = len(self.operator.outputs)
        return [*self.outputs, *[False] * (count - len(self.outputs))] if self.outputs else [True] * count

    @property
    def element_type(self) -> ElementType:
        """The element type of the first output."""
        return self.types[self.operator.outputs[0].type.name]

    def output_type(self, index: int) -> ElementType:
        """Return the element type of an output."""
        return self.types[self.operator.outputs[index].type.name]


def make_call(
    operator: Operator,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any] | None = None,
    label: str = "",
) -> Call:
    """Make a call of arrays in the operator's own element types.

    Numbers of float attributes are rounded to float32, as a node holds them. Raises: ContractError.
    """
    names = [None if array is None else str(array.dtype.name) for array in inputs]
    names += [None] * (len(operator.inputs) - len(names))
    types = operator.bind(names)
    operator.check_attributes([*(attributes or {})])
    operator.check_values(attributes or {})
    formal = {attribute.name: attribute for attribute in operator.attributes}
    given = {name: as_stored(formal[name].kind, value) for name, value in (attributes or {}).items()}
    return Call(operator, tuple(inputs), operator.defaults | given, types, label)


def as_stored(kind: int, value: Any) -> Any:
    """Return an attribute's value as a node holds it: floats have 32 bits."""
    if kind == _FLOAT:
        return struct.unpack("f", struct.pack("f", value))[0]
    return [as_stored(_FLOAT, item) for item in value] if kind == _FLOATS else value
