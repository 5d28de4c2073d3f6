"""The nodes of a model that are registered operators: find them, check them, and say what types they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from ort_ops.errors import ModelError
from ort_ops.models.function_types import state_types, typed_functions
from ort_ops.models.graphs import Scope, function_scopes, scopes, scopes_at, scopes_in
from ort_ops.models.operator_node import Kits
from ort_ops.models.operator_node import OperatorNode as OperatorNode
from ort_ops.opdef import registry
from ort_ops.opdef.combinations import check_combination
from ort_ops.opdef.element_types import BY_ONNX_TYPE, ElementType, element_type_name
from ort_ops.opdef.onnx_objects import make_function, node_attributes, operator_type, register_schemas
from ort_ops.opdef.operator import ContractError, Operator, Parameter


def operator_nodes(model: onnx.ModelProto) -> list[OperatorNode]:
    """Return every node of a registered operator: of the main graph, of bodies, and of model-local functions.

    Nodes inside the function that defines an operator do not count.
    """
    table = Kits(model)
    return [found for scope in scopes(model) for found in table.nodes_of(scope)]


def operator_nodes_within(model: onnx.ModelProto, node: onnx.NodeProto) -> list[OperatorNode]:
    """Return the operators' nodes that a node of the main graph is, has in its bodies, or calls as functions."""
    table = Kits(model)
    graph = Scope(model.graph)
    found = [*table.nodes_among([node], graph)]
    ours = registry.names()
    functions = {(f.domain, f.name): f for f in model.functions if (f.domain, f.name) not in ours}
    called = functions.pop((node.domain, node.op_type), None)
    pending = [*scopes_at(node, graph), *(function_scopes(called) if called is not None else ())]
    while pending:
        scope = pending.pop(0)
        found += table.nodes_of(scope)
        for inner in scope.container.node:
            called = functions.pop((inner.domain, inner.op_type), None)
            if called is not None:
                pending += function_scopes(called)
    return found


def check_operator_nodes(model: onnx.ModelProto) -> list[OperatorNode]:
    """Return `operator_nodes` after checking versions, inputs, outputs and attributes of each.

    Raises: ContractError for a version, opset, attribute or number of inputs that the contract does not have.
    """
    Kits(model).check_versions()
    nodes = operator_nodes(model)
    for owner in (model, *model.functions) if nodes else ():
        version = domain_version(owner, "")
        for operator in {id(found.operator): found.operator for found in nodes}.values():
            operator.check_opset(version)
    for found in nodes:
        _check_node(found)
    return nodes


def require_operator_nodes(model: onnx.ModelProto, source: object) -> list[OperatorNode]:
    """Return `check_operator_nodes`. Raises: ModelError also where there is none at all."""
    nodes = check_operator_nodes(model)
    if not nodes:
        known = ", ".join(sorted(f"{domain}::{name}" for domain, name in registry.names()))
        raise ModelError(
            f"'{source}' has no node of a registered operator ({known}); `mylinear adopt` makes such nodes of standard "
            "ones; for a torch model, use the operator's module before you export it"
        )
    return nodes


def domain_version(owner: onnx.ModelProto | onnx.FunctionProto, domain: str) -> int:
    """Return the opset version that the model, or function, imports of ``domain``; 0 where it imports none."""
    wanted = {"", "ai.onnx"} if domain == "" else {domain}
    return max((entry.version for entry in owner.opset_import if entry.domain in wanted), default=0)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the types and shapes that onnx can infer; unchanged where onnx refuses it."""
    register_schemas()
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # errors of many types; onnxruntime says more clearly what is wrong
        return model
    state_types(inferred, registry.names())
    return inferred


def stated_types(found: OperatorNode) -> dict[str, int]:
    """Return the element type of each type variable of a node as the model states it, without inference."""
    known: dict[str, int] = {}
    for parameter, name in found.parameters():
        if parameter.type.name not in known and (element_type := found.scope.element_type_of(name)):
            known[parameter.type.name] = element_type
    for variable in found.operator.variables:
        if len(variable.dtypes) == 1:
            known.setdefault(variable.name, variable.element_types[0].onnx_type)
    return known


def has_all_types(found: OperatorNode) -> bool:
    """Whether the model states the element type of every input and output of a node."""
    known = stated_types(found)
    return all(parameter.type.name in known for parameter, _ in found.parameters())


def node_types(model: onnx.ModelProto) -> list[dict[str, ElementType]]:
    """Return the element types of each of `operator_nodes`, by the names of their type variables.

    Raises: ContractError for a type that the contract does not have; ModelError where one cannot be inferred.
    """
    nodes = operator_nodes(model)
    if not all(map(has_all_types, nodes)):
        nodes = operator_nodes(with_shapes(model))
    return [_checked_types(found) for found in nodes]


def types_by_operator(model: onnx.ModelProto) -> dict[tuple[str, str, int], dict[str, set[str]]]:
    """Return the names of the element types that each operator's nodes have, by its key and type variable.

    Raises: as `node_types`.
    """
    result: dict[tuple[str, str, int], dict[str, set[str]]] = {}
    nodes = operator_nodes(model)
    for found in nodes if all(map(has_all_types, nodes)) else _nodes_of_calls(model):
        variables = result.setdefault(found.operator.key, {})
        for name, element_type in _checked_types(found).items():
            variables.setdefault(name, set()).add(element_type.name)
    for operator in {id(found.operator): found.operator for found in nodes}.values():
        # Of nodes in functions that nothing calls no type is known, and none matters.
        result.setdefault(operator.key, {v.name: {name} for v, name in operator.overloads()[0].items()})
    return result


def _nodes_of_calls(model: onnx.ModelProto) -> list[OperatorNode]:
    """Return the operators' nodes with their types: those in functions once for each combination that calls have."""
    typed = with_shapes(model)
    variants = typed_functions(typed, registry.names())
    functions = [function for found in variants.values() for function in found]
    table = Kits(typed)
    inner = [scope for function in functions for scope in function_scopes(function)]
    return [found for scope in (*scopes_in(Scope(typed.graph)), *inner) for found in table.nodes_of(scope)]


def element_types(model: onnx.ModelProto) -> set[str]:
    """Return the names of all element types that the operators' nodes have. Raises: as `node_types`."""
    return {name for types in types_by_operator(model).values() for names in types.values() for name in names}


def import_oldest_versions(model: onnx.ModelProto) -> None:
    """Import the oldest versions of the operators' domains that have all that the model's nodes use; changes the model.

    A domain has one version in a model, so it is the newest of those that its nodes need. Attributes at their default
    that this version does not have are taken out. So a file needs no newer package than what it uses.
    """
    several = {
        domain for domain in registry.domains() if registry.oldest_version(domain) < registry.newest_version(domain)
    }
    nodes = [found for found in operator_nodes(model) if found.operator.domain in several]
    if not all(map(has_all_types, nodes)):
        nodes = [found for found in operator_nodes(with_shapes(model)) if found.operator.domain in several]
    needed: dict[str, int] = {}
    for found in nodes:
        operator = found.operator
        numbers = [found.scope.element_type_of(name) if name else None for name in found.inputs]
        names = [None if number is None else element_type_name(number) for number in numbers]
        kit = registry.oldest(operator.domain, operator.name, found.attributes, names) or found.kit
        needed[operator.domain] = max(needed.get(operator.domain, 0), kit.operator.since_version)
    for owner in (model, *model.functions):
        for entry in owner.opset_import:
            if entry.domain in needed:
                entry.version = needed[entry.domain]
    for found in operator_nodes(model) if needed else ():
        known = {attribute.name for attribute in found.operator.attributes}
        unknown = [attribute for attribute in found.node.attribute if attribute.name not in known]
        for attribute in unknown:
            found.node.attribute.remove(attribute)


def attach_functions(model: onnx.ModelProto) -> None:
    """Put the definitions of the operators in use into the model, as model-local functions at the model's own opset.

    Replaces definitions that are there. Every node must have its inputs (`complete_inputs`).

    Raises: ContractError if the opset cannot state a definition for the model's element types.
    """
    functions = [
        make_function(operator, domain_version(model, ""), types)
        for operator, types in definitions(model)
        if operator.make_body is not None
    ]
    made = {(function.domain, function.name) for function in functions}
    others = [f for f in model.functions if (f.domain, f.name) not in made]
    del model.functions[:]
    model.functions.extend([*others, *functions])
    model.ir_version = max(model.ir_version, 8)  # model-local functions came with IR version 8


def definitions(model: onnx.ModelProto) -> list[tuple[Operator, dict[str, set[str]]]]:
    """Return the operators whose definitions a model needs, each with the element types by type variable.

    A model holds one definition under a name. Where nodes mean several versions of an operator, as in a function that
    imports an older one, it is that of the newest.
    """
    types = types_by_operator(model)
    used = {found.operator.key: found.operator for found in operator_nodes(model)}
    newest: dict[str, Operator] = {}
    for operator in used.values():
        known = newest.setdefault(operator.op_type, operator)
        if operator.since_version > known.since_version:
            newest[operator.op_type] = operator
    return [(operator, _types_for(operator, used.values(), types)) for operator in newest.values()]


def _types_for(
    operator: Operator, used: Iterable[Operator], types: Mapping[tuple[str, str, int], Mapping[str, set[str]]]
) -> dict[str, set[str]]:
    """Return the element types of an operator's nodes, and of those that mean an older version of it."""
    result = {name: set(found) for name, found in types[operator.key].items()}
    for other in used:
        if other.op_type == operator.op_type and other is not operator:
            own = {p.name: p.type.name for p in (*operator.inputs, *operator.outputs)}
            for parameter in (*other.inputs, *other.outputs):
                if parameter.name in own:
                    found = types[other.key].get(parameter.type.name, set())
                    result.setdefault(own[parameter.name], set()).update(found)
    return result


def has_function(model: onnx.ModelProto, operator: Operator) -> bool:
    """Whether the model carries the operator's definition; one without its attributes is of another version."""
    attributes = {attribute.name for attribute in operator.attributes}
    return any(
        (f.domain, f.name) == (operator.domain, operator.name)
        and attributes <= {*f.attribute, *(attribute.name for attribute in f.attribute_proto)}
        for f in model.functions
    )


def _check_node(found: OperatorNode) -> None:
    """Check attributes, and the numbers of inputs and outputs, of one node. Raises: ContractError."""
    operator, node = found.operator, found.node
    if node.attribute or operator.attributes:
        kinds = {a.name: a.type for a in node.attribute if not a.ref_attr_name}
        operator.check_attributes([a.name for a in node.attribute], kinds)
        node_attributes(operator, node)
    if operator.allowed:
        _check_combination(found, stated_types(found))
    for what, names, formal, num_required in (
        ("the inputs", node.input, operator.inputs, operator.num_required),
        ("the outputs", node.output, operator.outputs, operator.num_required_outputs),
    ):
        if not num_required <= len(names) <= len(formal) or not all(names[:num_required]):
            rule = f"{_in_words(formal)} (node '{found.label}')"
            raise operator.error(what, rule, f"{list(names)}")
    if not any(node.output):  # all are optional, and a node without any would do nothing
        rule = f"one or more of {_in_words(operator.outputs)} (node '{found.label}')"
        raise operator.error("the outputs", rule, f"{list(node.output)}")


def _in_words(formal: Sequence[Parameter]) -> str:
    """Name parameters as messages do: ``X, W and optionally B``; ``GX, GW, GB`` where all are optional."""
    required = [parameter.name for parameter in formal if not parameter.is_optional]
    optional = [parameter.name for parameter in formal if parameter.is_optional]
    if not required:
        return ", ".join(optional)
    if optional:
        return f"{', '.join(required)} and optionally {', '.join(optional)}"
    return " and ".join(filter(None, (", ".join(required[:-1]), required[-1])))


def _checked_types(found: OperatorNode) -> dict[str, ElementType]:
    known: Mapping[str, int] = stated_types(found)
    for parameter, _ in found.parameters():
        if parameter.type.name not in known:
            raise ModelError(f"the element type of {found.operator.name} node '{found.label}' cannot be inferred")
    types = {
        name: BY_ONNX_TYPE[operator_type(found.operator, name, element_type_name(element_type)).onnx_type]
        for name, element_type in known.items()
    }
    _check_combination(found, known)
    return types


def _check_combination(found: OperatorNode, known: Mapping[str, int]) -> None:
    """Check that the element types of a node may stand together. Raises: ContractError naming the node."""
    variables = {variable.name: variable for variable in found.operator.variables}
    try:
        check_combination(
            found.operator, {variables[name]: element_type_name(number) for name, number in known.items()}
        )
    except ContractError as error:
        raise ContractError(f"{error} (node '{found.label}')") from error
