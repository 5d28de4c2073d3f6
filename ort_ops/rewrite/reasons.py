"""Why a node was left alone, as data: a cause with its fields. Sentences are made where they are shown. No torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ort_ops.errors import MylinearError

Field = str | int | float


class RewriteError(MylinearError, RuntimeError):
    """A rewrite that would change what the model computes, or a model that cannot be rewritten; nothing is written."""


class Cause(Enum):
    """Why a node was left alone. The value is the sentence, over the fields of a `Reason`.

    The patterns of each operator have an enumeration of their own, which derives from this one.
    """


class GraphCause(Cause):
    """Why a node of any operator was left alone."""

    NO_BODY = "{operator} has no definition in standard operators"
    SEEN_BY_OTHERS = "other nodes take '{value}', which would go"
    ABSENT_INPUT_UNKNOWN = "the model does not tell the shape that an absent {argument} stands for"


class OriginKind(Enum):
    """Where a value comes from that is no constant. The value is the sentence, over the fields of an `Origin`."""

    COMPUTED = "'{value}' is computed by {op_type}"
    PARAMETER = "'{value}' is an input of the graph or function"
    OVERRIDABLE = "'{value}' is also an input, which a caller may override"
    ROUNDED = "'{value}' is a constant that a Cast rounds or makes of other than floating-point numbers"


@dataclass(frozen=True)
class Origin:
    """Where a value comes from that is no constant.

    Attributes:
        kind: what kind of place.
        value: the value's name.
        op_type: of the node that computes it; empty where none does.
    """

    kind: OriginKind
    value: str
    op_type: str = ""

    def __str__(self) -> str:
        return self.kind.value.format(value=self.value, op_type=self.op_type)


@dataclass(frozen=True)
class Reason:
    """Why one node was left alone.

    Attributes:
        cause: the kind of reason.
        fields: what the cause's sentence names, such as a rank.
        origin: where the value comes from that is in the way; None where no single one is.
    """

    cause: Cause
    fields: Mapping[str, Field] = field(default_factory=dict)
    origin: Origin | None = None

    @property
    def kind(self) -> Hashable:
        """The cause and its fields, which tell whether two reasons are alike but for where they come from."""
        return self.cause, tuple(sorted(self.fields.items()))

    @property
    def sentence(self) -> str:
        """What is true of all nodes with this cause and these fields."""
        return str(self.cause.value).format(**self.fields)

    def __str__(self) -> str:
        return self.sentence if self.origin is None else f"{self.sentence} ({self.origin})"

    def as_dict(self) -> dict[str, Any]:
        """Return dictionaries and strings, for JSON."""
        origin = self.origin
        where = None if origin is None else {"kind": origin.kind.name, "value": origin.value, "op_type": origin.op_type}
        return {"cause": self.cause.name, "fields": dict(self.fields), "origin": where, "text": str(self)}


class NoMatch(Exception):  # noqa: N818  # a verdict on one node, not an error of anybody's
    """A node that no operator can stand for."""

    def __init__(self, cause: Cause, origin: Origin | None = None, **fields: Field) -> None:
        self.reason = Reason(cause, fields, origin)
        super().__init__(str(self.reason))
