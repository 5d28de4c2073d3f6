"""`inspect_model`: what is in a model, what of it would run here and by which kernel, and where else it loads."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper

from ort_ops.contract import MYLINEAR, format_shape
from ort_ops.errors import MylinearError
from ort_ops.model import (
    NodeContainer,
    check_linear_nodes,
    domain_version,
    element_types,
    has_function,
    linear_nodes,
    load_model,
    tensor_nbytes,
    tensors,
)
from ort_ops.model_checks import check_linear_shapes, check_names, function_difference, known_shapes
from ort_ops.operator import Shape
from ort_ops.runtimes import oldest_runtime
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
    model = load_model(path, external_data=False)
    check_names(model, path)
    faults = []
    for check in (check_linear_nodes, check_linear_shapes):
        try:
            check(model)
        except MylinearError as error:
            faults.append(str(error))
            break
    difference = None if faults else function_difference(model)
    if difference:
        faults.append(difference)
    body = "missing" if not has_function(model) else difference or "right"
    counts: Counter[str] = Counter(
        f"{node.domain or 'ai.onnx'}::{node.op_type}" for _, container in _containers(model) for node in container.node
    )
    return Inspection(
        path=str(path),
        inputs={v.name: _describe(v) for v in model.graph.input if not _is_initializer(model, v.name)},
        outputs={value.name: _describe(value) for value in model.graph.output},
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        operators=dict(sorted(counts.items())),
        weights_nbytes=sum(tensor_nbytes(tensor) for tensor in tensors(model) if tensor.data_type),
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
    MYLINEAR.register_schema()
    element_types(model)
    inferred = onnx.shape_inference.infer_shapes(model)
    infos = []
    for where, container in _containers(inferred):
        shapes = _visible_shapes(inferred, container)
        stored = {t.name: t for t in (*_initializers(container), *model.graph.initializer)}
        for linear in linear_nodes_of(container):
            x, weight = linear.input[:2]
            bias = linear.input[2] if len(linear.input) > 2 else ""
            kept = [stored[name] for name in (weight, bias) if name in stored]
            y = MYLINEAR.infer_shape([shapes.get(x), shapes.get(weight), shapes.get(bias)])
            infos.append(
                LinearInfo(
                    name=linear.name or linear.output[0],
                    where=where,
                    x=_format(shapes.get(x)),
                    weight=_format(shapes.get(weight)),
                    y=_format(y),
                    dtype=_dtype(inferred, container, linear),
                    nbytes=sum(tensor_nbytes(tensor) for tensor in kept),
                    weight_from=f"initializer '{weight}'" if weight in stored else f"computed '{weight}'",
                )
            )
    return infos


def linear_nodes_of(container: NodeContainer) -> list[onnx.NodeProto]:
    """Return the MYLINEAR nodes of one graph or function, not of those within."""
    return [node for node in container.node if (node.domain, node.op_type) == (MYLINEAR.domain, MYLINEAR.name)]


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
    casts = sum(node.op_type == "Cast" for _, container in _containers(model) for node in container.node)
    return Running(
        kernel=session.kernel if linear_nodes(model) else "",
        providers=session.get_providers(),
        assignment=assignment,
        copies=totals["MemcpyToHost"] + totals["MemcpyFromHost"],
        casts=max(0, totals["Cast"] - casts) if assignment else 0,
    )


def _containers(model: onnx.ModelProto) -> list[tuple[str, NodeContainer]]:
    found: list[tuple[str, NodeContainer]] = [("main graph", model.graph)]

    def visit(container: NodeContainer) -> None:
        for node in container.node:
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    if graph.node:
                        found.append((f"subgraph '{graph.name}'", graph))
                        visit(graph)

    visit(model.graph)
    for function in model.functions:
        if (function.domain, function.name) != (MYLINEAR.domain, MYLINEAR.name):
            found.append((f"function '{function.name}'", function))
            visit(function)
    return found


def _initializers(container: NodeContainer) -> list[onnx.TensorProto]:
    """The stored tensors of a container; a function keeps its own in Constant nodes."""
    if isinstance(container, onnx.GraphProto):
        return list(container.initializer)
    found = []
    for node in container.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            found.append(tensor)
    return found


def _visible_shapes(model: onnx.ModelProto, container: NodeContainer) -> dict[str, Shape]:
    own = known_shapes(container) | {t.name: list(t.dims) for t in _initializers(container)}
    return own if isinstance(container, onnx.FunctionProto) else known_shapes(model.graph) | own


def _dtype(model: onnx.ModelProto, container: NodeContainer, node: onnx.NodeProto) -> str:
    known = {t.name: t.data_type for t in (*model.graph.initializer, *_initializers(container))}
    values = [*container.value_info]
    if isinstance(container, onnx.GraphProto):
        values += [*container.input, *container.output, *model.graph.input, *model.graph.value_info]
    known |= {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    found = next((known[name] for name in (*node.input, *node.output) if known.get(name)), None)
    return "?" if found is None else MYLINEAR.element_type(found).name


def _is_initializer(model: onnx.ModelProto, name: str) -> bool:
    return any(tensor.name == name for tensor in model.graph.initializer)


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        return "?"
    shape = known_shapes(onnx.GraphProto(input=[value])).get(value.name)
    return f"{helper.tensor_dtype_to_np_dtype(tensor.elem_type).name} {_format(shape)}"


def _format(shape: Shape | None) -> str:
    return "?" if shape is None else format_shape(shape)
