"""Inspect a model: what is in it, which kernels would run it here, and which onnxruntimes load it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper

from ort_ops.console.shown import Shown, Table
from ort_ops.errors import ModelError, MylinearError
from ort_ops.inspection.nodes import NodeInfo, describe_nodes
from ort_ops.inspection.training import TrainingInfo, describe_training
from ort_ops.models.checks import check_shapes, function_difference
from ort_ops.models.files import look_at_model
from ort_ops.models.graphs import declared_shape, scopes, tensors
from ort_ops.models.nodes import OperatorNode, check_operator_nodes, domain_version, has_function, operator_nodes
from ort_ops.models.runtimes import oldest_runtime
from ort_ops.models.validation.tensors import tensor_nbytes
from ort_ops.opdef import registry
from ort_ops.opdef.shapes import Shape, format_shape
from ort_ops.session import InferenceSession


@dataclass(frozen=True)
class Running:
    """The model in a session on this machine.

    Attributes:
        kernel: of the registered operators; ``body`` for the definition inside the model. Where they have different
            ones, the names joined by commas; empty for a model without such operators.
        kernels: the kernel that runs each operator, by its domain and name.
        providers: of the session.
        assignment: operators by execution provider, from onnxruntime itself; empty where its version cannot tell.
        copies: Memcpy nodes that were inserted between devices; casts: Cast nodes more than the model has.
        error: why there is no session; empty if there is one.
    """

    kernel: str = ""
    kernels: dict[str, str] = field(default_factory=dict)
    providers: list[str] = field(default_factory=list)
    assignment: dict[str, dict[str, int]] = field(default_factory=dict)
    copies: int = 0
    casts: int = 0
    error: str = ""


@dataclass(frozen=True, repr=False)
class Inspection(Shown):
    """The result of `inspect_model`; `as_dict` is plain data, for JSON.

    Attributes:
        operators: how many nodes there are of each operator, of ONNX and others.
        nodes: those of registered operators.
        listed: the entries that kits add under a key of their own, such as ``linear``; they are dataclasses.
        body: ``right``, ``missing``, or how the definition inside the model differs from the contract's.
        faults: breaches of the contract, and damage to what a training file says; empty for a right model.
        oldest_runtime: the oldest onnxruntime, from 1.17 on, that loads opset and IR version.
        training: what a training file says of itself; None for any other model, and for a damaged one.
    """

    path: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    opsets: dict[str, int]
    ir_version: int
    producer: str
    metadata: dict[str, str]
    operators: dict[str, int]
    weights_nbytes: int
    nodes: list[NodeInfo]
    listed: dict[str, list[Any]]
    body: str
    oldest_runtime: str | None
    running: Running
    faults: list[str]
    training: TrainingInfo | None = None

    def shown(self) -> list[str | Table]:
        """Return what `mylinear inspect` prints."""
        from ort_ops.inspection.shown import parts

        return [self.path, *parts(self), *(f"fault      {fault}" for fault in self.faults)]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists and strings; the keys of ``listed`` stand beside the others."""
        plain = asdict(self)
        return {**plain.pop("listed"), **plain}


class GateError(MylinearError, RuntimeError):
    """A model does not run as required."""


def inspect_model(path: str | Path, *, providers: list[str] | None = None) -> Inspection:
    """Inspect a model, without reading weights beside it, and a session of it on this machine.

    Raises: ModelError for a file that is not a model, or has incomplete external data.
    """
    model = look_at_model(path)
    faults = []
    for check in (check_operator_nodes, check_shapes):
        try:
            check(model)
        except MylinearError as error:
            faults.append(str(error))
            break
    difference = None if faults else function_difference(model)
    if difference:
        faults.append(difference)
    training, damage = _training(model, path)
    faults += damage
    nodes = operator_nodes(model)
    defined = [found.operator for found in nodes if found.operator.make_body is not None]
    has_all = bool(defined) and all(has_function(model, operator) for operator in defined)
    body = difference or "right" if has_all else "missing"
    described = [] if faults else describe_nodes(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    counts: Counter[str] = Counter(f"{node.domain or 'ai.onnx'}::{node.op_type}" for node in _nodes(model))
    return Inspection(
        path=str(path),
        inputs={v.name: _describe(v) for v in model.graph.input if v.name not in stored},
        outputs={value.name: _describe(value) for value in model.graph.output},
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        operators=dict(sorted(counts.items())),
        weights_nbytes=sum(map(tensor_nbytes, tensors(model))),
        nodes=[info for _, info in described],
        listed=_listed(described),
        body=body,
        oldest_runtime=oldest_runtime(domain_version(model, ""), model.ir_version),
        running=Running(error="; ".join(faults)) if faults else _running(path, model, providers),
        faults=faults,
        training=training,
    )


def _training(model: onnx.ModelProto, path: str | Path) -> tuple[TrainingInfo | None, list[str]]:
    """Return what a training file says of itself, and the fault of one that is damaged."""
    try:
        return describe_training(model, path), []
    except ModelError as error:
        return None, [str(error)]


def require_kernel(found: Inspection, kernel: str) -> None:
    """Check that every node of a registered operator would run by the kernel.

    Raises: GateError that says what would run instead.
    """
    if found.faults:
        raise GateError(f"'{found.path}': {found.faults[0]}")
    if not found.nodes:
        raise GateError(f"'{found.path}' has no node of a registered operator")
    if found.running.error:
        raise GateError(f"'{found.path}' does not load here: {found.running.error}")
    for op_type, name in found.running.kernels.items():
        if name != kernel:
            raise GateError(f"'{found.path}': {op_type} would run by the {name} kernel here, not by {kernel}")


def _listed(described: Sequence[tuple[OperatorNode, NodeInfo]]) -> dict[str, list[Any]]:
    """Return the entries that kits add under keys of their own; an empty list if the model has no such node."""
    listed: dict[str, list[Any]] = {kit.inspection[0]: [] for kit in registry.kits() if kit.inspection is not None}
    for node, info in described:
        if node.kit.inspection is not None:
            key, describe = node.kit.inspection
            listed[key].append(describe(info))
    return listed


def _running(path: str | Path, model: onnx.ModelProto, providers: list[str] | None) -> Running:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    can_tell = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
    if can_tell:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = InferenceSession(path, options, providers)
    except Exception as error:  # onnxruntime's own errors are of many types
        return Running(error=str(error).splitlines()[0] if str(error) else type(error).__name__)
    assignment: dict[str, dict[str, int]] = {}
    if can_tell:
        for part in session.get_provider_graph_assignment_info():
            nodes = assignment.setdefault(part.ep_name, {})
            for node in part.get_nodes():
                operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
                nodes[operator] = nodes.get(operator, 0) + 1
    totals: Counter[str] = Counter()
    for nodes in assignment.values():
        totals.update({operator.split("::")[1]: count for operator, count in nodes.items()})
    casts = sum(node.op_type == "Cast" for node in _nodes(model))
    return Running(
        kernel=session.kernel if session.kernels else "",
        kernels=session.kernels,
        providers=session.get_providers(),
        assignment=assignment,
        copies=totals["MemcpyToHost"] + totals["MemcpyFromHost"],
        casts=max(0, totals["Cast"] - casts) if assignment else 0,
    )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node but those that define registered operators."""
    defined = registry.names()
    for scope in scopes(model):
        root = scope.root
        if isinstance(root, onnx.GraphProto) or (root.domain, root.name) not in defined:
            yield from scope.container.node


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        return "?"
    return f"{helper.tensor_dtype_to_np_dtype(tensor.elem_type).name} {_format(declared_shape(value))}"


def _format(shape: Shape | None) -> str:
    return "?" if shape is None else format_shape(shape)
