"""Translate calls of an operator's library op into nodes of ONNX, for each of torch's exporters."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from exporter.torch_ops.registration import WANTED_OUTPUTS
from ort_ops.opdef import registry
from ort_ops.opdef.onnx_objects import make_schema
from ort_ops.opdef.operator import Attribute, Operator

_CONSTANTS = {1: "f", 2: "i", 3: "s", 6: "fs", 7: "is"}
"""What TorchScript's exporter calls the kinds of constants, by ``onnx.AttributeProto.AttributeType``."""


def overload_names(library_op: str) -> list[str]:
    """Return the names of a library op's overloads, such as ``default``."""
    namespace, _, name = library_op.partition("::")
    return list(getattr(getattr(torch.ops, namespace), name).overloads())


def overloads(library_op: str) -> list[torch._ops.OpOverload]:
    """Return a library op's overloads."""
    namespace, _, name = library_op.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name)
    return [getattr(packet, overload) for overload in packet.overloads()]


def domain_version(operator: Operator) -> int:
    """Return the version that a model imports of the operator's domain: it has one for all operators of a domain."""
    return max(operator.since_version, registry.newest_version(operator.domain))


def translate(operator: Operator, library_op: str, overload: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """Return what torch's dynamo exporter calls for an overload of a library op: it makes one node.

    Args:
        arguments: names of the operator's inputs and attributes, in the order of the library op's, and perhaps
            `WANTED_OUTPUTS`. A node has all outputs; `ort_ops.models.complete.drop_unread_outputs` takes those out that
            nobody reads. In the place of an output that is not wanted stands a tensor of size 0, as in torch.
    """
    import onnx_ir as ir
    from onnxscript import opset18 as standard
    from onnxscript import values

    namespace, _, name = library_op.partition("::")
    schema = getattr(getattr(getattr(torch.ops, namespace), name), overload)._schema
    # The exporter gives a node all outputs of its schema.
    described = replace(
        operator, outputs=operator.outputs[: len(schema.returns)], since_version=domain_version(operator)
    )
    op = values.Op(values.Opset(operator.domain, described.since_version), operator.name, make_schema(described))
    formal = {attribute.name: attribute for attribute in operator.attributes}
    parameters = [argument.name for argument in schema.arguments]

    def emit(*given: Any) -> Any:
        found = dict(zip(arguments, given, strict=True))
        attributes = {
            key: _constant(operator, attribute, found[key])
            for key, attribute in formal.items()
            if found.get(key) is not None
        }
        for key, value in attributes.items():  # the exporter takes any empty list for one of ints
            if isinstance(value, list | tuple) and not value:
                attributes[key] = ir.Attr(key, ir.AttributeType(formal[key].kind), [])
        results = op(*(found[parameter.name] for parameter in operator.inputs), **attributes)
        if WANTED_OUTPUTS not in found:
            return results
        like = {p.type: found[p.name] for p in operator.inputs if found[p.name] is not None}
        return tuple(
            result if is_wanted else standard.Constant(value=_nothing(like[output.type].dtype))
            for result, output, is_wanted in zip(results, described.outputs, found[WANTED_OUTPUTS], strict=True)
        )

    required = {parameter.name for parameter in operator.inputs if not parameter.is_optional}
    num_required = next((i for i, name in enumerate(arguments) if name not in required), len(arguments))
    return _with_parameters(emit, f"translate_{name}_{overload}", parameters, num_required)


def _nothing(dtype: Any) -> Any:
    """Return a tensor of size 0 for onnxscript."""
    import onnx_ir as ir

    return ir.tensor(np.empty(0, dtype.numpy()))


def _with_parameters(
    emit: Callable[..., Any], name: str, parameters: Sequence[str], num_required: int
) -> Callable[..., Any]:
    """Return a function that gives its parameters to another.

    onnxscript reads the text of a translation, and understands neither ``*`` nor annotations.
    """
    formal = [p if i < num_required else f"{p}=None" for i, p in enumerate(parameters)]
    text = f"def {name}({', '.join(formal)}):\n    return emit({', '.join(parameters)})\n"
    file = f"<{__name__}.{name}.{next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": __name__, "emit": emit}
    exec(compile(text, file, "exec"), namespace)
    made: Callable[..., Any] = namespace[name]
    return made


_numbers = itertools.count()


def emit_symbolic(operator: Operator, arguments: Sequence[str], g: Any, values: Sequence[Any]) -> Any:
    """Emit one node for the TorchScript exporter, with types and shapes set.

    Args:
        arguments: names of the operator's inputs and attributes, in the order of ``values``.
        g: the exporter's graph context, at the call of the library op.
    """
    from torch.onnx import symbolic_helper

    found = dict(zip(arguments, values, strict=True))
    inputs = [found[parameter.name] for parameter in operator.inputs]
    inputs = [None if value is None or value.node().mustBeNone() else value for value in inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    absent = [parameter.name for parameter, value in zip(operator.inputs, inputs, strict=False) if value is None]
    if absent:
        # A constant without a value; the exporter writes an empty name for it.
        none = found[absent[0]]
        inputs = [none if value is None else value for value in inputs]
    attributes: dict[str, Any] = {}
    for attribute in operator.attributes:
        value = found.get(attribute.name)
        if value is None or (isinstance(value, torch._C.Value) and value.node().mustBeNone()):
            continue
        kind = _CONSTANTS.get(attribute.kind)
        if kind is None:
            raise operator.error(f"attribute {attribute.name}", "a number, text or list", attribute.python_type)
        constant = symbolic_helper._maybe_get_const(value, kind)  # type: ignore[arg-type]
        attributes[attribute.name] = _constant(operator, attribute, constant)
    suffixes = {a.name: _CONSTANTS[a.kind][0] for a in operator.attributes if a.kind in _CONSTANTS}
    named = {f"{name}_{suffixes[name]}": value for name, value in attributes.items()}
    num_outputs = g.original_node.outputsSize()
    results = g.op(f"{operator.domain}::{operator.name}", *inputs, outputs=num_outputs, **named)
    listed = [results] if num_outputs == 1 else list(results)
    _set_types(operator, inputs, attributes, listed)
    if WANTED_OUTPUTS not in found:
        return results
    wanted = symbolic_helper._maybe_get_const(found[WANTED_OUTPUTS], "is")
    for index, (output, is_wanted) in enumerate(zip(operator.outputs, wanted, strict=True)):
        if not is_wanted:  # in torch it is a tensor of size 0
            like = next(v for p, v in zip(operator.inputs, inputs, strict=False) if p.type == output.type)
            listed[index] = g.op("Constant", value_t=torch.empty(0, dtype=like.type().dtype()))
    return tuple(listed)


def _set_types(operator: Operator, inputs: Sequence[Any], attributes: dict[str, Any], results: Sequence[Any]) -> None:
    """Set types and known sizes of the outputs; without, the exporter warns and makes up names of dimensions."""
    types: dict[str, Any] = {}
    shapes: list[list[int | None] | None] = [None] * len(operator.inputs)
    for index, (parameter, value) in enumerate(zip(operator.inputs, inputs, strict=False)):
        if not value.node().mustBeNone() and isinstance(value.type(), torch._C.TensorType):
            types.setdefault(parameter.type.name, value.type())
            shapes[index] = value.type().varyingSizes()
    inferred = operator.infer_shape(shapes, operator.defaults | attributes)
    for output, result, shape in zip(operator.outputs, results, inferred, strict=False):
        like = types.get(output.type.name)
        if like is None and len(output.type.dtypes) == 1 and types:
            like = next(iter(types.values())).with_dtype(getattr(torch, output.type.dtypes[0]))
        if like is not None and shape is not None:
            result.setType(like.with_sizes([dim if isinstance(dim, int) else None for dim in shape]))


def _constant(operator: Operator, attribute: Attribute, value: Any) -> Any:
    """Return an attribute as ONNX takes it. Raises: ContractError for what is computed in the model."""
    is_computed = isinstance(value, torch._C.Value) or type(value).__module__.partition(".")[0] == "onnx_ir"
    if is_computed or hasattr(value, "producer"):
        raise operator.error(f"attribute {attribute.name}", f"a constant {attribute.python_type}", "a computed value")
    return int(value) if isinstance(value, bool) else value
