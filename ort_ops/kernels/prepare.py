"""Prepare a model for the chosen kernels, and find its element types."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
from packaging.version import Version

from ort_ops.kernels.providers import Provider
from ort_ops.kernels.refusal import KernelError, Lack, Refusal
from ort_ops.kernels.register import Plan, plan_of, register_plan
from ort_ops.native import library as native
from ort_ops.opdef.element_types import element_type_name
from ort_ops.opdef.onnx_objects import operator_type
from ort_ops.python_kernels import decorator

if TYPE_CHECKING:
    import onnx

    from ort_ops.models.nodes import OperatorNode

# Where the external data of a model in memory lies; tried with 1.20.1, which does not know it, and 1.21.1.
_FOLDER_KEY, _TAKES_FOLDER = "session.model_external_initializers_file_folder_path", Version("1.21")


def stated_types(nodes: Iterable[OperatorNode]) -> tuple[dict[str, set[str]], bool]:
    """Return the names of the element types that the model states for each operator's nodes, and whether it states all.

    Raises: ContractError for a type that the operator does not take.
    """
    from ort_ops.models.nodes import stated_types as types_of_node

    found: dict[str, set[str]] = {}
    seen: set[tuple[int, str, int]] = set()
    has_all = True
    for node in nodes:
        operator = node.operator
        names = found.setdefault(operator.op_type, set())
        known = types_of_node(node)
        has_all = has_all and len(known) == len(operator.variables)
        for variable, number in known.items():
            key = id(operator), variable, number
            if key not in seen:
                seen.add(key)
                names.add(operator_type(operator, variable, element_type_name(number)).name)
    return found, has_all


def all_types(model: onnx.ModelProto) -> dict[str, set[str]]:
    """Return all element types, by inference, which takes time. Raises: as `node_types`."""
    from ort_ops.models.nodes import types_by_operator

    found: dict[str, set[str]] = {}
    for (domain, name, _), types in types_by_operator(model).items():
        found.setdefault(f"{domain}::{name}", set()).update(*types.values())
    return found


def plan_kernels(
    options: onnxruntime.SessionOptions,
    kernels: str,
    providers: Sequence[Any] | None,
    proto: onnx.ModelProto | None,
    nodes: Sequence[OperatorNode],
) -> Plan:
    """Return the plan that was registered with the options; register one if there is none. Raises: KernelError."""
    types, has_all = stated_types(nodes)
    infer = None if proto is None or has_all else partial(all_types, proto)
    plan = plan_of(options)
    if plan is None:
        versions = {} if proto is None else _versions(proto)
        operators = [*types] or None
        return register_plan(options, kernels, types, providers, None, versions, operators, infer_types=infer)[0]
    check_served(plan, nodes, types)
    if infer is not None and not all(plan.providers[n.operator.op_type].serves_all(n.operator) for n in nodes):
        check_served(plan, nodes, infer())
    return plan


def _versions(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the newest version of each domain that the model or one of its functions imports."""
    found: dict[str, int] = {}
    for entry in (entry for owner in (proto, *proto.functions) for entry in owner.opset_import):
        found[entry.domain] = max(entry.version, found.get(entry.domain, 0))
    return found


def check_served(plan: Plan, nodes: Sequence[OperatorNode], types: Mapping[str, Collection[str]]) -> None:
    """Check that the kernels registered with options run the operators of a model. Raises: KernelError."""
    for operator in {id(node.operator): node.operator for node in nodes}.values():
        op_type = operator.op_type
        provider = plan.providers.get(op_type)
        if provider is None:
            known = ", ".join(f"{name} ({found.name})" for name, found in plan.providers.items()) or "none"
            raise KernelError(
                f"{op_type}: these session options have no kernel for it, registered with kernels='{plan.kernels}': "
                f"{known}; make new SessionOptions"
            )
        registered = plan.operators[op_type]
        if not registered.oldest_served <= operator.since_version <= registered.since_version:
            raise KernelError(
                f"{op_type}: these session options have its kernel of version {registered.since_version}, and the "
                f"model needs version {operator.since_version}; make new SessionOptions"
            )
        missing = provider.lacking(operator, types.get(op_type, ()))
        if missing:
            served = tuple(name for v in operator.variables for name in provider.dtypes(v))
            refusal = Refusal(op_type, provider.name, Lack.ELEMENT_TYPES, "", served, missing)
            raise KernelError(str(refusal), [refusal])


def complete_model(
    model: str | Path | bytes,
    proto: onnx.ModelProto | None,
    nodes: Sequence[OperatorNode],
    providers: Mapping[str, Provider],
    options: onnxruntime.SessionOptions,
) -> str | Path | bytes:
    """Return the model unchanged, or the bytes of one that the chosen kernels can run.

    External data stays in its file if onnxruntime can be told the folder; otherwise it is read into the model.
    """
    if proto is None or not any(provider.needs_inputs for provider in providers.values()):
        return model
    from ort_ops.models.complete import complete_inputs
    from ort_ops.models.files import load_model
    from ort_ops.models.nodes import attach_functions, has_function

    lacking_inputs = {
        op_type
        for node in nodes
        if (node.lacks_input or node.lacks_output) and providers[op_type := node.operator.op_type].needs_inputs
    }
    used = {node.operator.op_type: node.operator for node in nodes}
    lacking_functions = {
        op_type
        for op_type, operator in used.items()
        if providers[op_type].needs_functions and not has_function(proto, operator)
    }
    if not (lacking_inputs or lacking_functions):
        return model
    stays_outside = not isinstance(model, bytes) and Version(onnxruntime.__version__) >= _TAKES_FOLDER
    proto = load_model(model, external_data=not stays_outside, may_be_linked=stays_outside)
    if not isinstance(model, bytes) and stays_outside:
        options.add_session_config_entry(_FOLDER_KEY, str(Path(model).parent.absolute()))
    complete_inputs(proto)
    if any(providers[op_type].needs_functions for op_type in used):
        attach_functions(proto)
    data: bytes = proto.SerializeToString()
    return data


def check_python_nodes(proto: onnx.ModelProto, plan: Plan) -> None:
    """Check the nodes whose operators have Python kernels; onnxruntime cannot list a node's attributes to a kernel.

    Raises: KernelError if the options lack the operator's domain, PythonKernelError for an unknown attribute.
    """
    from ort_ops.models.graphs import nodes_in

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    kernels = {
        (kernel.domain, kernel.name): kernel
        for kernel in sorted(decorator.defined_kernels(), key=lambda kernel: kernel.since_version)
        if kernel.since_version <= versions.get(kernel.domain, 0)
    }
    functions = {(function.domain, function.name) for function in proto.functions}
    for node in nodes_in(proto.graph) if kernels else ():
        kernel = kernels.get((node.domain, node.op_type))
        if kernel is None:
            continue
        if node.domain in plan.python_domains:
            kernel.check_attributes([attribute.name for attribute in node.attribute])
        elif (node.domain, node.op_type) not in functions:
            reason = native.status().reason
            why = f"needs the C++ library: {reason}" if reason else "was defined after these options were registered"
            raise KernelError(f"node '{node.name}': the Python kernel of {kernel.op_type} {why}")
