"""What an operator looks like, read from the annotations of a Python function.

>>> def clip(x: Number, low: Number | None = None, *, high: float = 1.0) -> Number: ...
>>> signature = Signature.of(clip)
>>> [(i.name, i.is_optional) for i in signature.inputs], [a.name for a in signature.attributes]
([('x', False), ('low', True)], ['high'])

Positional parameters are inputs, annotated with a tensor type; keyword-only ones are attributes, annotated with a plain
Python type. A tensor type of several element types is a type variable: it means one and the same in a call.
"""

from __future__ import annotations

import inspect
import itertools
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from ort_ops.errors import MylinearError

if TYPE_CHECKING:
    from onnx import defs

ONNX_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}
"""``onnx.TensorProto.DataType`` by NumPy's name: what a Python kernel can take."""

_MAX_OVERLOADS = 512
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")


class DefinitionError(MylinearError, TypeError):
    """A Python function that cannot be an operator; the message says which part and why."""


@dataclass(frozen=True)
class TensorType:
    """A tensor of one of some element types; all parameters of one call annotated with it have the same one.

    >>> from typing import Annotated
    >>> Index = Annotated[NDArray[Any], TensorType("Index", ("int32", "int64"))]
    """

    name: str
    dtypes: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = set(self.dtypes) - set(ONNX_TYPES)
        if unknown or not self.dtypes:
            got = ", ".join(sorted(unknown)) or "none"
            raise DefinitionError(f"the dtypes of {self.name} must be among {', '.join(ONNX_TYPES)}, got {got}")


Float = Annotated[NDArray[Any], TensorType("Float", _FLOATS)]
Integer = Annotated[NDArray[Any], TensorType("Integer", _INTEGERS)]
Number = Annotated[NDArray[Any], TensorType("Number", _FLOATS + _INTEGERS)]
Element = Annotated[NDArray[Any], TensorType("Element", (*_FLOATS, *_INTEGERS, "bool"))]
Float64 = Annotated[NDArray[Any], TensorType("Float64", ("float64",))]
Float32 = Annotated[NDArray[Any], TensorType("Float32", ("float32",))]
Float16 = Annotated[NDArray[Any], TensorType("Float16", ("float16",))]
BFloat16 = Annotated[NDArray[Any], TensorType("BFloat16", ("bfloat16",))]
Int64 = Annotated[NDArray[Any], TensorType("Int64", ("int64",))]
Int32 = Annotated[NDArray[Any], TensorType("Int32", ("int32",))]
UInt8 = Annotated[NDArray[Any], TensorType("UInt8", ("uint8",))]
Bool = Annotated[NDArray[Any], TensorType("Bool", ("bool",))]


class _Out:
    """The mark in `Out`."""


Out = Annotated[Any, _Out()]
"""Annotates a keyword-only parameter ``out``: the memory of the output, to write into (a tuple for several)."""


@dataclass(frozen=True)
class Input:
    """A formal input."""

    name: str
    type: TensorType
    is_optional: bool


@dataclass(frozen=True)
class Attribute:
    """A formal attribute.

    Attributes:
        kind: ``onnx.AttributeProto.AttributeType``.
        python_type: the annotation in words, such as ``list[float]``.
        default: what the kernel gets where a node has none; part of a kernel, not of the operator's identity, so
            that it can be changed while sessions are alive.
    """

    name: str
    kind: int
    python_type: str
    is_required: bool
    default: Any = field(default=None, compare=False)


_KINDS: dict[Any, tuple[int, str]] = {
    float: (1, "float"),
    int: (2, "int"),
    bool: (2, "bool"),
    str: (3, "str"),
    np.ndarray: (4, "ndarray"),
    (float,): (6, "list[float]"),
    (int,): (7, "list[int]"),
    (str,): (8, "list[str]"),
}
KIND_NAMES = {
    -1: "an empty list",
    1: "float",
    2: "int",
    3: "str",
    4: "tensor",
    6: "list of float",
    7: "list of int",
    8: "list of str",
}


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and attributes of one version of an operator."""

    inputs: tuple[Input, ...]
    outputs: tuple[TensorType, ...]
    attributes: tuple[Attribute, ...]
    writes_output: bool = field(default=False, compare=False)  # how the kernel is called, not what the operator is

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Read a function's annotations. Raises: DefinitionError."""
        hints = typing.get_type_hints(function, include_extras=True)
        inputs: list[Input] = []
        attributes: list[Attribute] = []
        writes_output = False
        for parameter in inspect.signature(function).parameters.values():
            name, hint = parameter.name, hints.get(parameter.name)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DefinitionError(f"parameter {name} must be one input or one attribute, got * or **")
            if parameter.kind != parameter.KEYWORD_ONLY:
                inputs.append(_input(parameter, hint))
            elif get_origin(hint) is Annotated and isinstance(typing.cast(Any, hint).__metadata__[0], _Out):
                if name != "out":
                    raise DefinitionError(f"the parameter annotated with Out must be called out, got {name}")
                writes_output = True
            else:
                attributes.append(_attribute(parameter, hint))
        optional = [i.is_optional for i in inputs]
        if optional != sorted(optional):
            raise DefinitionError("optional inputs must come last")
        outputs = _outputs(hints.get("return"))
        known = {i.type for i in inputs if not i.is_optional}
        for output in outputs:
            if len(output.dtypes) > 1 and output not in known:
                raise DefinitionError(
                    f"the result's type must be that of a required input, or one element type, got {output.name}"
                )
        signature = cls(tuple(inputs), outputs, tuple(attributes), writes_output)
        if signature.num_overloads > _MAX_OVERLOADS:
            raise DefinitionError(
                f"the element types must combine in at most {_MAX_OVERLOADS} ways, got {signature.num_overloads}"
            )
        return signature

    @property
    def num_required(self) -> int:
        return sum(not i.is_optional for i in self.inputs)

    @property
    def variables(self) -> list[TensorType]:
        """The tensor types, each once."""
        return list(dict.fromkeys([*(i.type for i in self.inputs), *self.outputs]))

    @property
    def num_overloads(self) -> int:
        return int(np.prod([len(variable.dtypes) for variable in self.variables], dtype=object))

    def overloads(self) -> list[dict[TensorType, str]]:
        """Every combination of element types."""
        variables = self.variables
        return [
            dict(zip(variables, dtypes, strict=True))
            for dtypes in itertools.product(*(variable.dtypes for variable in variables))
        ]

    def bind(self, onnx_types: Sequence[int]) -> dict[TensorType, str] | None:
        """Which element type each tensor type means, given those of the inputs (0 for an unknown or absent one)."""
        names = {number: name for name, number in ONNX_TYPES.items()}
        bound = {variable: variable.dtypes[0] for variable in self.variables if len(variable.dtypes) == 1}
        for formal, number in zip(self.inputs, onnx_types, strict=False):
            if number in names:
                bound[formal.type] = names[number]
        return bound if all(output in bound for output in self.outputs) else None

    def schema(
        self,
        domain: str,
        name: str,
        since_version: int,
        doc: str,
        infer: Callable[[Any], None],
    ) -> defs.OpSchema:
        """Make the operator's ``OpSchema``; it is not registered yet."""
        from onnx import AttributeProto, defs, helper

        option = defs.OpSchema.FormalParameterOption

        def formal(label: str, variable: TensorType, is_optional: bool = False) -> defs.OpSchema.FormalParameter:
            kind = option.Optional if is_optional else option.Single
            return defs.OpSchema.FormalParameter(label, variable.name, "", param_option=kind)

        def attribute(a: Attribute) -> defs.OpSchema.Attribute:
            kind = AttributeProto.AttributeType.Name(a.kind)
            if a.is_required or a.default is None or a.kind == 4:
                return defs.OpSchema.Attribute(
                    a.name, getattr(defs.OpSchema.AttrType, kind), a.python_type, required=a.is_required
                )
            default = int(a.default) if a.kind == 2 else a.default
            return defs.OpSchema.Attribute(a.name, helper.make_attribute(a.name, default, attr_type=a.kind), "")

        def onnx_name(dtype: str) -> str:
            return f"tensor({ {'float64': 'double', 'float32': 'float'}.get(dtype, dtype) })"

        schema = defs.OpSchema(
            name,
            domain,
            since_version,
            doc,
            inputs=[formal(i.name, i.type, i.is_optional) for i in self.inputs],
            outputs=[formal(label, t) for label, t in zip(self.output_names, self.outputs, strict=True)],
            type_constraints=[(v.name, [onnx_name(dtype) for dtype in v.dtypes], "") for v in self.variables],
            attributes=[attribute(a) for a in self.attributes],
        )
        schema.set_type_and_shape_inference_function(infer)
        return schema

    @property
    def output_names(self) -> list[str]:
        """The words for the outputs, in messages too: ``y``, or ``y0``, ``y1`` and so on."""
        return ["y"] if len(self.outputs) == 1 else [f"y{i}" for i in range(len(self.outputs))]


def _tensor_type(hint: Any) -> TensorType | None:
    if get_origin(hint) is Annotated:
        return next((item for item in typing.cast(Any, hint).__metadata__ if isinstance(item, TensorType)), None)
    return None


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Split ``T | None`` into T and whether there was a None."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        if len(rest) == 1:
            return rest[0], len(rest) < len(get_args(hint))
    return hint, False


def _input(parameter: inspect.Parameter, hint: Any) -> Input:
    inner, is_optional = _without_none(hint)
    found = _tensor_type(inner)
    if found is None:
        raise DefinitionError(
            f"input {parameter.name} must be annotated with a tensor type such as ort_ops.Float, got {hint!r}; "
            "attributes are keyword-only parameters, behind a *"
        )
    has_default = parameter.default is not parameter.empty
    if has_default and parameter.default is not None:
        raise DefinitionError(f"the default of input {parameter.name} must be None, got {parameter.default!r}")
    if has_default != is_optional:
        raise DefinitionError(f"an optional input must be annotated | None and default to None: {parameter.name}")
    return Input(parameter.name, found, is_optional)


def _outputs(hint: Any) -> tuple[TensorType, ...]:
    hints = get_args(hint) if get_origin(hint) is tuple else (hint,)
    found = tuple(_tensor_type(item) for item in hints)
    if not found or None in found:
        raise DefinitionError(
            f"the result must be annotated with a tensor type such as ort_ops.Float, or a tuple of them, got {hint!r}"
        )
    return typing.cast(tuple[TensorType, ...], found)


def _attribute(parameter: inspect.Parameter, hint: Any) -> Attribute:
    inner, _ = _without_none(hint)
    origin, arguments = get_origin(inner), tuple(a for a in get_args(inner) if a is not ...)
    key = inner
    if origin is np.ndarray:
        key = np.ndarray
    elif isinstance(origin, type) and issubclass(origin, Sequence) and len(arguments) == 1:
        key = arguments
    try:
        kind, words = _KINDS[key]
    except (KeyError, TypeError):
        kinds = ", ".join(words for _, words in _KINDS.values())
        raise DefinitionError(f"attribute {parameter.name} must be annotated {kinds}, got {hint!r}") from None
    attribute = Attribute(parameter.name, kind, words, parameter.default is parameter.empty)
    if attribute.is_required:
        return attribute
    return Attribute(parameter.name, kind, words, False, _default(attribute, parameter.default))


def _default(attribute: Attribute, value: Any) -> Any:
    """The default as a node would give it: floats of an ONNX attribute have 32 bits."""

    def one(item: Any) -> Any:
        wanted = {1: float, 2: int, 3: str}[attribute.kind if attribute.kind < 4 else attribute.kind - 5]
        if wanted is float and isinstance(item, int | float) and not isinstance(item, bool):
            return float(np.float32(item))
        if not isinstance(item, wanted) or (isinstance(item, int) and not -(2**63) <= item < 2**63):
            raise TypeError
        return item

    if value is None:
        return None
    try:
        if attribute.kind == 4:
            if not isinstance(value, np.ndarray):
                raise TypeError
            return value
        return one(value) if attribute.kind < 4 else [one(item) for item in value]
    except TypeError:
        raise DefinitionError(
            f"the default of attribute {attribute.name} must be {attribute.python_type}, got {value!r}"
        ) from None
