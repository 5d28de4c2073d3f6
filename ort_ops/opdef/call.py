"""One call of an operator: what a node received, and what is to be known of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ort_ops.opdef.element_types import ElementType
    from ort_ops.opdef.operator import Operator

    Array = NDArray[Any]


class Loadable(Protocol):
    """A tensor that is read when it is needed."""

    def load(self) -> Array:
        """Return the array."""


@dataclass(frozen=True)
class Call:
    """What one node of an operator received.

    Attributes:
        inputs: in the operator's order, None for an absent one; an array, or where it can be read.
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
    """Make a call of arrays in the operator's own element types. Raises: ContractError."""
    names = [None if array is None else np_name(array.dtype) for array in inputs]
    names += [None] * (len(operator.inputs) - len(names))
    types = operator.bind(names)
    return Call(operator, tuple(inputs), operator.defaults | dict(attributes or {}), types, label)


def np_name(dtype: np.dtype[Any]) -> str:
    """Return the name of a NumPy dtype as `ElementType.name` has it."""
    return str(dtype.name)
