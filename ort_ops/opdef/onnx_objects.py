"""The ONNX objects that follow from an operator: schema, model-local function, node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ort_ops.opdef import registry, schemas
from ort_ops.opdef.combinations import check_combination
from ort_ops.opdef.element_types import ELEMENT_TYPES, ONNX_TYPES, ElementType
from ort_ops.opdef.operator import Attribute, MakeBody, Operator, Parameter
from ort_ops.opdef.shapes import make_type, read_shape

if TYPE_CHECKING:
    import onnx
    from onnx import defs

ML_DOMAIN, ML_VERSION = "ai.onnx.ml", 2
"""The domain of ONNX's own that a body may use besides the default one, and the version that it then has."""
_TENSOR = 4


def make_schema(operator: Operator, infer: Callable[[Any], None] | None = None) -> defs.OpSchema:
    """Make the ``OpSchema`` with its inference of types and shapes, without registering it.

    Args:
        infer: takes onnx's InferenceContext; None for `infer_types`.
    """
    from onnx import defs

    option = defs.OpSchema.FormalParameterOption

    def formal(parameter: Parameter) -> defs.OpSchema.FormalParameter:
        kind = option.Optional if parameter.is_optional else option.Single
        return defs.OpSchema.FormalParameter(parameter.name, parameter.type.name, parameter.doc, param_option=kind)

    schema = defs.OpSchema(
        operator.name,
        operator.domain,
        operator.since_version,
        operator.doc,
        inputs=[formal(parameter) for parameter in operator.inputs],
        outputs=[formal(parameter) for parameter in operator.outputs],
        type_constraints=[(v.name, [t.onnx_name for t in v.element_types], "") for v in operator.variables],
        attributes=[_formal_attribute(attribute) for attribute in operator.attributes],
    )
    # Without it onnx would also stop inferring through the model-local function.
    schema.set_type_and_shape_inference_function(infer or (lambda context: infer_types(operator, context)))
    return schema


def register_schema(operator: Operator) -> None:
    """Make the operator known to ``onnx.checker`` and ``onnx.shape_inference``; do nothing if it is."""
    if not schemas.is_registered(operator.name, operator.since_version, operator.domain):
        schemas.register(make_schema(operator))


def register_schemas() -> None:
    """Make every registered operator known to ``onnx.checker`` and ``onnx.shape_inference``."""
    for kit in registry.kits():
        register_schema(kit.operator)


def infer_types(operator: Operator, context: Any) -> None:
    """Infer types and shapes of a node's outputs; ``context`` is onnx's InferenceContext.

    Raises: ContractError for a combination of element types, an attribute or a shape that breaks the contract.
    """
    num_inputs = min(context.get_num_inputs(), len(operator.inputs))
    types = [context.get_input_type(i) if context.has_input(i) else None for i in range(num_inputs)]
    bound = operator.bind_known([t.tensor_type.elem_type if t is not None else 0 for t in types])
    if bound is None:
        return
    check_combination(operator, bound)
    shapes = [read_shape(t) for t in types] + [None] * (len(operator.inputs) - num_inputs)
    attributes = operator.defaults | {
        attribute.name: value
        for attribute in operator.attributes
        if (value := _attribute_value(attribute, context.get_attribute(attribute.name))) is not None
    }
    operator.check_values(attributes)
    inferred = operator.infer_shape(shapes, attributes)
    for i, (output, shape) in enumerate(zip(operator.outputs, inferred, strict=True)):
        if i < context.get_num_outputs() and output.type in bound:
            context.set_output_type(i, make_type(ONNX_TYPES[bound[output.type]], shape))


def make_function(
    operator: Operator,
    opset_version: int,
    types: Collection[str] | Mapping[str, Collection[str]],
    make_body: MakeBody | None = None,
) -> onnx.FunctionProto:
    """Make the model-local function that defines the operator in standard ONNX operators.

    Args:
        opset_version: the model's own version of the default domain.
        types: names of the element types of the model's nodes, by the name of their type variable; a plain collection
            stands for those of the first.
        make_body: one of `Operator.former_bodies`; None for the current one.

    Raises: ContractError if a type is not accepted, the opset version is too old for it, or there is no body.
    """
    from onnx import helper

    make_body = make_body or operator.make_body
    if make_body is None:
        raise operator.error("the operator", "one with a function body", "one without")
    operator.check_opset(opset_version)
    by_variable = types if isinstance(types, Mapping) else {operator.variables[0].name: types}
    bound = {}
    for variable in operator.variables:
        found = [operator_type(operator, variable.name, name) for name in by_variable.get(variable.name, ())]
        if not found and len(variable.dtypes) == 1:
            found = [*variable.element_types]
        bound[variable.name] = tuple(sorted(set(found), key=lambda t: (t.unit_roundoff, -t.nbytes, t.name)))
    _check_opset_of_types(operator, opset_version, bound)
    nodes = make_body(opset_version, bound)
    imports = [helper.make_opsetid("", opset_version)]
    if any(node.domain == ML_DOMAIN for node in nodes):
        imports.append(helper.make_opsetid(ML_DOMAIN, ML_VERSION))
    function = helper.make_function(
        operator.domain,
        operator.name,
        [parameter.name for parameter in operator.inputs],
        [parameter.name for parameter in operator.outputs],
        nodes,
        imports,
        attributes=[a.name for a in operator.attributes if a.is_required or a.default is None],
        doc_string=operator.doc,
    )
    function.attribute_proto.extend(
        _make_attribute(a, a.default) for a in operator.attributes if not a.is_required and a.default is not None
    )
    return function


def operator_type(operator: Operator, variable: str, name: str) -> ElementType:
    """Return the element type called ``name`` of a type variable. Raises: ContractError if it is not accepted."""
    (found,) = (v for v in operator.variables if v.name == variable)
    if name not in found.dtypes:
        argument = next(p.argument for p in (*operator.inputs, *operator.outputs) if p.type == found)
        raise operator.error(argument, found.rule, name)
    return ELEMENT_TYPES[name]


def make_node(
    operator: Operator, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any
) -> onnx.NodeProto:
    """Make a node of the operator. Raises: ContractError for an unknown or missing attribute."""
    from onnx import helper

    operator.check_attributes(attributes)
    operator.check_values(attributes)
    node = helper.make_node(operator.name, list(inputs), list(outputs), name=name or None, domain=operator.domain)
    formal = {a.name: a for a in operator.attributes}
    node.attribute.extend(_make_attribute(formal[key], value) for key, value in attributes.items())
    return node


def node_attributes(operator: Operator, node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values, with the defaults of those that it lacks.

    Raises: ContractError for an unknown, missing or wrong one.
    """
    operator.check_attributes([a.name for a in node.attribute], {a.name: a.type for a in node.attribute})
    formal = {a.name: a for a in operator.attributes}
    given = {a.name: _attribute_value(formal[a.name], a) for a in node.attribute if not a.ref_attr_name}
    operator.check_values(given)
    return operator.defaults | given


def single_type(types: Sequence[ElementType]) -> ElementType | None:
    """Return the one element type that all nodes share, or None if they have several; for bodies."""
    return types[0] if len(types) == 1 else None


def widest_accumulator(types: Sequence[ElementType]) -> ElementType:
    """Return the widest of the element types in which sums of these types are held; for bodies."""
    return min((ELEMENT_TYPES[t.accumulator] for t in types), key=lambda t: t.unit_roundoff)


def _check_opset_of_types(operator: Operator, opset_version: int, bound: Mapping[str, tuple[ElementType, ...]]) -> None:
    argument = "the opset version"
    of_outputs = {output.type.name for output in operator.outputs}  # which take the type of an input, by CastLike
    for name, types in bound.items():
        if len(types) > 1 and opset_version < 15 and name in of_outputs:
            rule = f"15 or newer for a model that mixes {' and '.join(t.name for t in types)}"
            raise operator.error(argument, rule, str(opset_version))
        if opset_version < 13 and "bfloat16" in {t.name for t in types}:
            raise operator.error(argument, "13 or newer for bfloat16", str(opset_version))


def _formal_attribute(attribute: Attribute) -> defs.OpSchema.Attribute:
    from onnx import AttributeProto, defs

    if attribute.is_required or attribute.default is None or attribute.kind == _TENSOR:
        kind = getattr(defs.OpSchema.AttrType, AttributeProto.AttributeType.Name(attribute.kind))
        doc = attribute.doc or attribute.python_type
        return defs.OpSchema.Attribute(attribute.name, kind, doc, required=attribute.is_required)
    return defs.OpSchema.Attribute(attribute.name, _make_attribute(attribute, attribute.default), attribute.doc)


def _make_attribute(attribute: Attribute, value: Any) -> onnx.AttributeProto:
    from onnx import helper, numpy_helper

    if attribute.kind == _TENSOR:
        import numpy as np

        value = numpy_helper.from_array(np.asarray(value))
    if attribute.kind == 2:
        value = int(value)
    return helper.make_attribute(attribute.name, value, attr_type=attribute.kind)


def _attribute_value(attribute: Attribute, proto: onnx.AttributeProto | None) -> Any:
    """Return the value of a node's attribute; None where there is none, one of another kind, or a function's own."""
    from onnx import helper, numpy_helper

    if proto is None or proto.type != attribute.kind or proto.ref_attr_name:
        return None
    value = helper.get_attribute_value(proto)
    if attribute.kind == _TENSOR:
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    if attribute.kind == 8:
        return [item.decode() for item in value]
    return bool(value) if attribute.python_type == "bool" else value
