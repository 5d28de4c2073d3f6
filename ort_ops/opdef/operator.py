"""The one description of an operator; everything else follows from it.

`ort_ops.operators` holds the instances of this project; `python_kernel` makes one from a function's annotations; a
package of yours makes one directly. Only the standard library is imported until an ONNX object is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.combinations import Combination, check_allowed, check_combination
from ort_ops.opdef.element_types import BY_ONNX_TYPE, ELEMENT_TYPES, ElementType, element_type_name
from ort_ops.opdef.parameters import (
    AbsentInput,
    Attribute,
    ContractError,
    DefinitionError,
    Parameter,
    TypeVariable,
    one_of,
)
from ort_ops.opdef.shapes import Shape, format_shape

if TYPE_CHECKING:
    import onnx

__all__ = [
    "AbsentInput",
    "Attribute",
    "ContractError",
    "DefinitionError",
    "Operator",
    "Parameter",
    "TypeVariable",
]

InferShape = Callable[[Sequence[Shape | None], Mapping[str, Any]], Sequence[Shape | None]]
MakeBody = Callable[[int, Mapping[str, tuple[ElementType, ...]]], "list[onnx.NodeProto]"]


@dataclass(frozen=True)
class Operator:
    """One version of one operator.

    Attributes:
        domain, name: in ONNX.
        since_version: the version of the domain that introduced the operator as described here.
        inputs: optional ones come last.
        outputs: optional ones come last; where all are optional, a node has at least one, in whatever place.
        infer_shape: (shapes of the inputs, None for an absent or unknown one; attributes with their defaults) ->
            shapes of the outputs, None for one that cannot be known. Dimensions are numbers, names, or None. Raises
            ContractError if the known dimensions break the contract.
        make_body: (opset version, element types by the name of their type variable) -> nodes of the function body,
            over the parameters' names; attributes by ``ref_attr_name``. One function serves all nodes of a model, so
            a type variable has all element types that the nodes have, the widest first. None for no body.
        former_bodies: what ``make_body`` was in older versions of the package; equally right, and accepted.
        min_opset: the oldest version of ONNX's own domain that the body is written for.
        package: the distribution that defines the operator, for messages.
        allowed: the combinations of element types that a call may have, each in the order of ``variables``. Empty where
            every combination is allowed.
        serves_since: the oldest version of the domain whose nodes of this name mean the same to this operator as to
            their own, so that one kernel of it runs models of all versions from there on, in one session. 0 for
            ``since_version``.
    """

    domain: str
    name: str
    since_version: int
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    doc: str = field(default="", compare=False)
    infer_shape: InferShape = field(default=lambda shapes, attributes: [shapes[0]], compare=False)
    make_body: MakeBody | None = field(default=None, compare=False)
    attributes: tuple[Attribute, ...] = ()
    former_bodies: tuple[MakeBody, ...] = field(default=(), compare=False)
    min_opset: int = 7
    package: str = field(default="", compare=False)
    allowed: tuple[Combination, ...] = ()
    serves_since: int = 0

    def __post_init__(self) -> None:
        if self.allowed:
            check_allowed(self.variables, self.allowed)

    @property
    def op_type(self) -> str:
        """Domain and name: ``my.domain::ScaledTanh``."""
        return f"{self.domain}::{self.name}"

    @property
    def key(self) -> tuple[str, str, int]:
        """Domain, name and version."""
        return self.domain, self.name, self.since_version

    @property
    def oldest_served(self) -> int:
        """The oldest version of the domain whose nodes of this name its kernels run."""
        return self.serves_since or self.since_version

    @cached_property
    def num_required(self) -> int:
        """How many inputs must be given; optional ones come last."""
        return sum(not parameter.is_optional for parameter in self.inputs)

    @cached_property
    def num_required_outputs(self) -> int:
        """How many outputs every node has; optional ones come last."""
        return sum(not parameter.is_optional for parameter in self.outputs)

    @cached_property
    def variables(self) -> tuple[TypeVariable, ...]:
        """The type variables, each once, in the order of the parameters."""
        return tuple(dict.fromkeys(parameter.type for parameter in (*self.inputs, *self.outputs)))

    @property
    def num_overloads(self) -> int:
        """How many combinations of element types there are."""
        return len(self.allowed) or math.prod(len(variable.dtypes) for variable in self.variables)

    def overloads(self) -> list[dict[TypeVariable, str]]:
        """Return every combination of element types that a call may have, by name."""
        dtypes = self.allowed or itertools.product(*(variable.dtypes for variable in self.variables))
        return [dict(zip(self.variables, names, strict=True)) for names in dtypes]

    @property
    def element_types(self) -> tuple[ElementType, ...]:
        """The element types of the first input."""
        return self.inputs[0].type.element_types

    @property
    def element_type_rule(self) -> str:
        """The element types of the first input in words."""
        return self.inputs[0].type.rule

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the attributes that need not be given."""
        return {a.name: a.default for a in self.attributes if not a.is_required}

    def element_type(self, key: str | int) -> ElementType:
        """Return the element type of the first input called ``key`` (a name or an ONNX element type).

        Raises: ContractError if the operator does not accept it.
        """
        for element_type in self.element_types:
            if key in (element_type.name, element_type.onnx_type):
                return element_type
        got = key if isinstance(key, str) else element_type_name(key)
        raise self.error(self.inputs[0].argument, self.element_type_rule, got)

    def message(self, argument: str, rule: str, got: str, hint: str = "") -> str:
        """Return the one form of every error: ``NAME: <argument> must be <rule>, got <value>[; hint]``."""
        return f"{self.name}: {argument} must be {rule}, got {got}" + (f"; {hint}" if hint else "")

    def error(self, argument: str, rule: str, got: str, hint: str = "") -> ContractError:
        """Return a ContractError with `message`."""
        return ContractError(self.message(argument, rule, got, hint))

    def bind(self, names: Sequence[str | None]) -> dict[str, ElementType]:
        """Return the element type of each type variable, given the names of the inputs' (None for an absent one).

        Raises: ContractError naming the first argument that breaks a rule.
        """
        bound: dict[TypeVariable, tuple[str, Parameter]] = {}
        for parameter, name in itertools.zip_longest(self.inputs, names[: len(self.inputs)]):
            if name is None and parameter.is_optional:
                continue
            first = bound.setdefault(parameter.type, (str(name), parameter))
            if first[1] is parameter and name not in parameter.type.dtypes:
                raise self.error(parameter.argument, parameter.type.rule, str(name))
            if name != first[0]:
                rule = f"{first[0]} (the dtype of {first[1].argument})"
                raise self.error(parameter.argument, rule, str(name))
        if self.allowed:
            check_combination(self, {variable: known for variable, (known, _) in bound.items()})
        types = {variable.name: ELEMENT_TYPES[name] for variable, (name, _) in bound.items()}
        for variable in self.variables:
            if len(variable.dtypes) == 1:
                types.setdefault(variable.name, variable.element_types[0])
        return types

    def bind_known(self, onnx_types: Sequence[int]) -> dict[TypeVariable, str] | None:
        """Return the element type of each type variable, as far as those of the inputs (0 for an unknown one) tell.

        Returns: None where the type of a required output remains unknown. Checks nothing.
        """
        bound = {variable: variable.dtypes[0] for variable in self.variables if len(variable.dtypes) == 1}
        for parameter, number in zip(self.inputs, onnx_types, strict=False):
            if number in BY_ONNX_TYPE:
                bound[parameter.type] = BY_ONNX_TYPE[number].name
        return bound if all(output.type in bound for output in self.outputs if not output.is_optional) else None

    def check_arguments(
        self,
        shapes: Sequence[Shape | None],
        names: Sequence[str | None],
        attributes: Mapping[str, Any] | None = None,
    ) -> list[Shape | None]:
        """Check concrete arguments, by shape and name of the element type (None for an absent one).

        Returns: the shape of each output. Raises: ContractError that says which argument breaks which rule.
        """
        types = self.bind(names)
        self.check_values(attributes or {})
        results = list(self.infer_shape(shapes, self.defaults | dict(attributes or {})))
        for parameter, shape in zip(self.outputs, results, strict=True):
            element_type = types.get(parameter.type.name)
            if shape is None or element_type is None or not all(isinstance(dim, int) for dim in shape):
                continue
            if math.prod(int(dim or 0) for dim in shape) * element_type.nbytes >= 2**63:
                raise self.error(parameter.argument, "smaller than 2^63 bytes", format_shape(shape))
        return results

    def check_version(self, version: int, newest: int | None = None, oldest: int | None = None) -> None:
        """Check that the version of the domain that a model imports is known.

        Args:
            version: the one that the model imports.
            newest: version of the domain; None for `since_version`.
            oldest: of the operators of this name; None for `since_version`.

        Raises: ContractError for an older or newer one.
        """
        newest = self.since_version if newest is None else newest
        oldest = self.since_version if oldest is None else oldest
        if not oldest <= version <= newest:
            rule = f"{oldest}" if newest == oldest else f"{oldest} to {newest}"
            argument = f"the version of domain '{self.domain}'"
            raise self.error(
                argument, rule, str(version), f"update {self.package or 'the package that defines the operator'}"
            )

    def check_opset(self, version: int) -> None:
        """Check that ONNX's own domain is new enough for the operator; 0 stands for a model that imports none.

        Below opset 7 the same names mean other operators: Add and Gemm broadcast only where ``broadcast`` says so, and
        along ``axis``. Raises: ContractError.
        """
        if 0 < version < self.min_opset:
            hint = "convert the model with onnx.version_converter"
            raise self.error("the opset version", f"{self.min_opset} or newer", str(version), hint)

    def check_attributes(self, names: Collection[str], kinds: Mapping[str, int] | None = None) -> None:
        """Check the attributes of a node: no unknown one, every required one, each of the right kind.

        Args:
            names: of the node's attributes.
            kinds: ``onnx.AttributeProto.AttributeType`` by name; None where it is not known.

        Raises: ContractError.
        """
        known = {a.name: a for a in self.attributes}
        if unknown := sorted(set(names) - set(known)):
            rule = f"among {', '.join(known)}" if known else "none"
            raise self.error("the attributes", rule, ", ".join(unknown))
        for attribute in self.attributes:
            if attribute.is_required and attribute.name not in names:
                raise self.error(f"attribute {attribute.name}", "given", "nothing")
            kind = (kinds or {}).get(attribute.name, attribute.kind)
            if kind != attribute.kind:
                raise self.error(f"attribute {attribute.name}", attribute.python_type, KIND_NAMES.get(kind, str(kind)))

    def check_values(self, attributes: Mapping[str, Any]) -> None:
        """Check the values of attributes that have only some. Raises: ContractError."""
        for attribute in self.attributes:
            value = attributes.get(attribute.name, attribute.default)
            if attribute.name in attributes and attribute.choices and value not in attribute.choices:
                rule = one_of([str(choice) for choice in attribute.choices])
                raise self.error(f"attribute {attribute.name}", rule, str(value) or "an empty text")


KIND_NAMES = {
    -1: "an empty list",
    1: "float",
    2: "int",
    3: "str",
    4: "tensor",
    5: "graph",
    6: "list of float",
    7: "list of int",
    8: "list of str",
    9: "list of tensor",
    10: "list of graph",
}
"""The kinds of attributes in words, by ``onnx.AttributeProto.AttributeType``."""
