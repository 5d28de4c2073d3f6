"""`inspect_model`: what is in a model, what of it would run here and by which kernel, and where else it loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper

from ort_ops.errors import MylinearError
from ort_ops.models.checks import check_shapes, function_difference
from ort_ops.models.files import look_at_model
from ort_ops.models.graphs import declared_shape, scopes, tensors
from ort_ops.models.nodes import (
    OperatorNode,
    check_operator_nodes,
    domain_version,
    has_function,
    operator_nodes,
    stated_types,
    with_shapes,
)
from ort_ops.models.runtimes import oldest_runtime
from ort_ops.models.validation.tensors import tensor_nbytes
from ort_ops.opdef.shapes import Shape, format_shape
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.session import InferenceSession


@dataclass(frozen=True)
class LinearInfo:
    """One MYLINEAR node: shapes in words, dtype, size of weight and bias, and where its weight comes from."""

    name: str
    where: str
    x: str
    weight: str
    y: str
    dtype: str
    nbytes: int
    weight_from: str


@dataclass(frozen=True)
class Running:
    """What a session on this machine makes of the model.

    Attributes:
        kernel: that serves MYLINEAR; ``body`` for the definition inside the model.
        providers: of the session.
        assignment: operators by execution provider, from onnxruntime itself; empty where its version cannot tell.
        copies: Memcpy nodes that were inserted between devices; casts: Cast nodes more than the model has.
        error: why there is no session; empty if there is one.
    """

    kernel: str = ""
    providers: list[str] = field(default_factory=list)
    assignment: dict[str, dict[str, int]] = field(default_factory=dict)
    copies: int = 0
    casts: int = 0
    error: str = ""


@dataclass(frozen=True)
class Inspection:
    """What `inspect_model` found; `as_dict` is plain data, for JSON.

    Attributes:
        body: ``right``, ``missing``, or in what the definition inside the model differs from the contract's.
        faults: what breaks the contract; empty for a right model.
        oldest_runtime: the oldest onnxruntime, from 1.17 on, that loads opset and IR version.
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
    linear: list[LinearInfo]
    body: str
    oldest_runtime: str | None
    running: Running
    faults: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists and strings."""
        return asdict(self)


class GateError(MylinearError, RuntimeError):
    """A model that does not run as it must."""


def inspect_model(path: str | Path, *, providers: list[str] | None = None) -> Inspection:
    """Look at a model and at a session of it on this machine; the weights beside it are not read for the former.

    Raises: ModelError for a file that is no model, or whose external data is not whole.
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
    nodes = operator_nodes(model)
    has_all = bool(nodes) and all(has_function(model, found.operator) for found in nodes)
    body = difference or "right" if has_all else "missing"
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
        linear=[] if faults else _linear_infos(model),
        body=body,
        oldest_runtime=oldest_runtime(domain_version(model, ""), model.ir_version),
        running=Running(error="; ".join(faults)) if faults else _running(path, model, providers),
        faults=faults,
    )


def require_kernel(found: Inspection, kernel: str) -> None:
    """Check that every MYLINEAR node would run by the kernel. Raises: GateError with what would run instead."""
    if found.faults:
        raise GateError(f"'{found.path}': {found.faults[0]}")
    if not found.linear:
        raise GateError(f"'{found.path}' has no {MYLINEAR.name} node")
    if found.running.error:
        raise GateError(f"'{found.path}' does not load here: {found.running.error}")
    if found.running.kernel != kernel:
        raise GateError(f"'{found.path}' would run by the {found.running.kernel} kernel here, not by {kernel}")


def _linear_infos(model: onnx.ModelProto) -> list[LinearInfo]:
    return [_linear_info(linear) for linear in operator_nodes(with_shapes(model))]


def _linear_info(linear: OperatorNode) -> LinearInfo:
    scope, names = linear.scope, linear.node.input
    shapes = [scope.shape_of(name) if name else None for name in names]
    kept = [tensor for name in names[1:] if name and (tensor := scope.tensor_of(name)) is not None]
    element_type = stated_types(linear).get(linear.operator.outputs[0].type.name)
    return LinearInfo(
        name=linear.label,
        where=linear.where.removeprefix("in ") or "main graph",
        x=_format(shapes[0]),
        weight=_format(shapes[1]),
        y=_format(MYLINEAR.infer_shape(shapes, {})[0]),
        dtype="?" if element_type is None else MYLINEAR.element_type(element_type).name,
        nbytes=sum(map(tensor_nbytes, kept)),
        weight_from=f"{'computed' if scope.tensor_of(names[1]) is None else 'initializer'} '{names[1]}'",
    )


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
        kernel=session.kernel if operator_nodes(model) else "",
        providers=session.get_providers(),
        assignment=assignment,
        copies=totals["MemcpyToHost"] + totals["MemcpyFromHost"],
        casts=max(0, totals["Cast"] - casts) if assignment else 0,
    )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node but those that define MYLINEAR."""
    for scope in scopes(model):
        root = scope.root
        if isinstance(root, onnx.GraphProto) or (root.domain, root.name) != (MYLINEAR.domain, MYLINEAR.name):
            yield from scope.container.node


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        return "?"
    return f"{helper.tensor_dtype_to_np_dtype(tensor.elem_type).name} {_format(declared_shape(value))}"


def _format(shape: Shape | None) -> str:
    return "?" if shape is None else format_shape(shape)
