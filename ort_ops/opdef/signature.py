"""Read an operator from the annotations of a Python function.

>>> def clip(x: Number, low: Number | None = None, *, high: float = 1.0) -> Number: ...
>>> operator = read_operator(clip, "my.domain", "Clip")
>>> [(i.name, i.is_optional) for i in operator.inputs], [a.name for a in operator.attributes]
([('x', False), ('low', True)], ['high'])

Positional parameters are inputs, annotated with a tensor type; keyword-only ones are attributes, annotated with a plain
Python type. A tensor type of several element types is a type variable: all its uses in a call are the same type.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.operator import Attribute, DefinitionError, InferShape, Operator, Parameter, TypeVariable

_MAX_OVERLOADS = 512
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")

TensorType = TypeVariable

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
    """Marks `Out`."""


Out = Annotated[Any, _Out()]
"""Annotates a keyword-only parameter ``out``: the memory of the output, to write into (a tuple for several)."""


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


def read_operator(
    function: Callable[..., Any],
    domain: str,
    name: str,
    since_version: int = 1,
    infer_shape: InferShape | None = None,
) -> Operator:
    """Return the operator that a function's annotations describe.

    Args:
        infer_shape: of the operator; None for its own default.

    Raises: DefinitionError for annotations that cannot be an operator's.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    inputs: list[Parameter] = []
    attributes: list[Attribute] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DefinitionError(f"parameter {parameter.name} must be one input or one attribute, got * or **")
        if parameter.kind != parameter.KEYWORD_ONLY:
            inputs.append(_input(parameter, hint))
        elif _is_out(hint):
            if parameter.name != "out":
                raise DefinitionError(f"the parameter annotated with Out must be called out, got {parameter.name}")
        else:
            attributes.append(_attribute(parameter, hint))
    outputs = _outputs(hints.get("return"))
    for what, parameters in (("inputs", inputs), ("outputs", outputs)):
        optional = [parameter.is_optional for parameter in parameters]
        if optional != sorted(optional):
            raise DefinitionError(f"optional {what} must come last")
    known = {parameter.type for parameter in inputs if not parameter.is_optional}
    known_to_optional = {parameter.type for parameter in inputs}
    for output in outputs:
        if len(output.type.dtypes) > 1 and output.type not in (known_to_optional if output.is_optional else known):
            raise DefinitionError(
                f"the result's type must be that of a required input, or one element type, got {output.type.name}"
            )
    doc = inspect.cleandoc(function.__doc__ or "")
    operator = Operator(domain, name, since_version, tuple(inputs), outputs, doc, attributes=tuple(attributes))
    if infer_shape is not None:
        operator = replace(operator, infer_shape=infer_shape)
    if operator.num_overloads > _MAX_OVERLOADS:
        raise DefinitionError(
            f"the element types must combine in at most {_MAX_OVERLOADS} ways, got {operator.num_overloads}"
        )
    return operator


def writes_output(function: Callable[..., Any]) -> bool:
    """Whether a function takes ``out``, the memory of its outputs."""
    return _is_out(typing.get_type_hints(function, include_extras=True).get("out"))


def _is_out(hint: Any) -> bool:
    return get_origin(hint) is Annotated and isinstance(typing.cast(Any, hint).__metadata__[0], _Out)


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


def _input(parameter: inspect.Parameter, hint: Any) -> Parameter:
    inner, is_optional = _without_none(hint)
    found = _tensor_type(inner)
    if found is None:
        raise DefinitionError(
            f"input {parameter.name} must be annotated with a tensor type such as ort_ops.Float, got {hint!r}; "
            "attributes are keyword-only parameters, after a *"
        )
    has_default = parameter.default is not parameter.empty
    if has_default and parameter.default is not None:
        raise DefinitionError(f"the default of input {parameter.name} must be None, got {parameter.default!r}")
    if has_default != is_optional:
        raise DefinitionError(f"an optional input must be annotated | None and default to None: {parameter.name}")
    return Parameter(parameter.name, parameter.name, found, is_optional=is_optional)


def _outputs(hint: Any) -> tuple[Parameter, ...]:
    """Read the result's annotation: a tensor type, or a tuple of them; ``| None`` for optional ones."""
    hints = get_args(hint) if get_origin(hint) is tuple else (hint,)
    found = [(_tensor_type(inner), is_optional) for inner, is_optional in map(_without_none, hints)]
    is_lonely = len(found) == 1 and found[0][1]  # a node without any output would do nothing
    if not found or is_lonely or any(tensor_type is None for tensor_type, _ in found):
        raise DefinitionError(
            f"the result must be annotated with a tensor type such as ort_ops.Float, or a tuple of them, got {hint!r}"
        )
    names = ["y"] if len(found) == 1 else [f"y{i}" for i in range(len(found))]
    return tuple(
        Parameter(name, name, typing.cast(TypeVariable, tensor_type), is_optional=is_optional)
        for name, (tensor_type, is_optional) in zip(names, found, strict=True)
    )


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
    """Return the default as a node would hold it: floats of an ONNX attribute have 32 bits."""

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
