"""The parts of an operator's description: type variables, inputs and outputs, attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ort_ops.errors import MylinearError
from ort_ops.opdef.element_types import ELEMENT_TYPES, ONNX_TYPES, ElementType


class ContractError(MylinearError, ValueError):
    """A shape, element type, attribute or version breaks an operator's contract."""


class DefinitionError(MylinearError, TypeError):
    """A definition that cannot be an operator; the message says which part is wrong and why."""


def one_of(words: Sequence[str]) -> str:
    """Return words as a choice: ``float64, float32 or float16``."""
    *head, last = words
    return f"{', '.join(head)} or {last}" if head else last


@dataclass(frozen=True)
class TypeVariable:
    """A set of element types; all parameters of one call that have this variable share one of them.

    >>> from typing import Annotated
    >>> from numpy.typing import NDArray
    >>> Index = Annotated[NDArray[Any], TypeVariable("Index", ("int32", "int64"))]
    """

    name: str
    dtypes: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = set(self.dtypes) - set(ONNX_TYPES)
        if unknown or not self.dtypes:
            got = ", ".join(sorted(unknown)) or "none"
            raise DefinitionError(f"the dtypes of {self.name} must be among {', '.join(ONNX_TYPES)}, got {got}")

    @property
    def element_types(self) -> tuple[ElementType, ...]:
        """The element types, in the order of ``dtypes``."""
        return tuple(ELEMENT_TYPES[name] for name in self.dtypes)

    @property
    def rule(self) -> str:
        """The accepted element types in words: ``float64, float32, float16 or bfloat16``."""
        return one_of(self.dtypes)


@dataclass(frozen=True)
class AbsentInput:
    """The tensor that stands for an optional input that a node leaves out; it must change no result.

    A function body and some kernels take every input, so a model is completed with this tensor before they run.

    Attributes:
        value: of every element.
        dims: of the shape; each a number, or (name of another input, axis) for a dimension of that input.
    """

    value: float
    dims: tuple[int | tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Parameter:
    """A formal input or output.

    Attributes:
        name: in ONNX, such as ``X``.
        argument: the word for it in messages, such as ``x``.
        type: its type variable.
        absent: for an optional input: what stands for it where a node leaves it out; None if nothing can.
    """

    name: str
    argument: str
    type: TypeVariable
    doc: str = ""
    is_optional: bool = False
    absent: AbsentInput | None = None


@dataclass(frozen=True)
class Attribute:
    """A formal attribute.

    Attributes:
        kind: ``onnx.AttributeProto.AttributeType``.
        python_type: the type in words, such as ``list[float]``.
        default: what a kernel gets where a node has none. It does not belong to the operator's identity, so the
            default of a Python kernel can change while sessions are alive.
        choices: the values that it may have; empty for any.
    """

    name: str
    kind: int
    python_type: str
    is_required: bool = False
    default: Any = field(default=None, compare=False)
    doc: str = ""
    choices: tuple[Any, ...] = ()
