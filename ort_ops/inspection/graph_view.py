"""Choose what a drawing shows of a model: a view of the main graph, of each body and of each local function.

Stored tensors and Constant nodes are left out: they are most of a file and no work. Of a model with more nodes than a
drawing holds, a view keeps those of registered operators and what is near them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property

import onnx

from ort_ops.models.graphs import Scope, bodies, names_taken, node_label, scopes
from ort_ops.models.operator_node import Kits
from ort_ops.opdef import registry
from ort_ops.opdef.element_types import element_type_name
from ort_ops.opdef.shapes import format_shape

FUNCTION = "function"
"""The kernel of a node that calls a local function: its nodes have kernels of their own."""
NO_KERNEL = "none"
_MAX_DISTANCE = 2


@dataclass(frozen=True)
class ViewNode:
    """One node of a view.

    Attributes:
        operator: its name, without the domain.
        name: of the node, or of its output where it has none.
        kernel: what would run it here: a kernel's name, ``function``, ``none``, or onnxruntime's providers that run
            this operator in this model; empty where that is unknown.
        is_ours: whether it is of a registered operator.
        inputs: names of the values that it takes, with those that its bodies take.
        results: its outputs, with their types in words.
    """

    operator: str
    name: str
    kernel: str
    is_ours: bool
    inputs: tuple[str, ...]
    results: Mapping[str, str]


@dataclass(frozen=True)
class GraphView:
    """One graph or function.

    Attributes:
        title: where it is, in words.
        inputs, outputs: types in words, by name; of the inputs, those that are not stored.
        outside: values of the graphs around it that its nodes take.
        defines: the registered operator, by domain and name, whose definition a function is; empty for any other.
        num_constants: Constant nodes, which are left out of ``nodes``.
    """

    title: str
    nodes: tuple[ViewNode, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    outside: tuple[str, ...] = ()
    defines: str = ""
    num_constants: int = 0

    @cached_property
    def makers(self) -> dict[str, int]:
        """The index of the node that makes each value."""
        return {name: index for index, node in enumerate(self.nodes) for name in node.results}

    @cached_property
    def edges(self) -> list[tuple[int, int]]:
        """Pairs of nodes, of which the second takes what the first makes; each once."""
        makers = self.makers
        pairs = ((makers[n], index) for index, node in enumerate(self.nodes) for n in node.inputs if n in makers)
        return list(dict.fromkeys(pairs))

    def near_ours(self, limit: int) -> set[int]:
        """Return the nodes to draw where only some can be: those of registered operators, and what is near them.

        Returns: at most ``limit`` indices. All, if there are no more; the first, if no node is of ours.
        """
        if len(self.nodes) <= limit:
            return set(range(len(self.nodes)))
        ours = [index for index, node in enumerate(self.nodes) if node.is_ours]
        chosen = set(ours[:limit]) or set(range(limit))
        around: dict[int, list[int]] = {}
        for first, second in self.edges:
            around.setdefault(first, []).append(second)
            around.setdefault(second, []).append(first)
        for _ in range(_MAX_DISTANCE if ours else 0):
            wider = chosen.union(*(around.get(index, ()) for index in chosen))
            if len(wider) > limit:
                break
            chosen = wider
        return chosen


def graph_views(
    model: onnx.ModelProto, kernels: Mapping[str, str], assignment: Mapping[str, Mapping[str, int]]
) -> list[GraphView]:
    """Return a view of the main graph, and of every body and local function in the file's order.

    Args:
        kernels: of each registered operator, by its domain and name; empty if nothing runs.
        assignment: operators by execution provider, as `Running` has it.
    """
    names = _Kernels(kernels, assignment, Kits(model), {(f.domain, f.name) for f in model.functions})
    return [_view(scope, names) for scope in scopes(model)]


@dataclass(frozen=True)
class _Kernels:
    """What runs each node."""

    kernels: Mapping[str, str]
    assignment: Mapping[str, Mapping[str, int]]
    kits: Kits
    functions: Set[tuple[str, str]]

    def of(self, node: onnx.NodeProto, scope: Scope) -> tuple[str, bool]:
        """Return the kernel, and whether the node is of a registered operator."""
        for found in self.kits.nodes_among([node], scope):
            return self.kernels.get(found.operator.op_type, NO_KERNEL), True
        if (node.domain, node.op_type) in self.functions:
            return FUNCTION, False
        if self.defined_by(scope):
            return "", False
        operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
        providers = [name for name, counts in self.assignment.items() if operator in counts]
        return ", ".join(providers or self.assignment), False

    def defined_by(self, scope: Scope) -> str:
        """Return the registered operator whose definition a scope is, or is in; empty for any other."""
        root = scope.root
        if isinstance(root, onnx.FunctionProto) and (root.domain, root.name) in registry.names():
            return f"{root.domain}::{root.name}"
        return ""


def _view(scope: Scope, kernels: _Kernels) -> GraphView:
    container = scope.container
    nodes, num_constants = [], 0
    for node in container.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            num_constants += 1
            continue
        has_bodies = any(True for _ in bodies(node))
        taken: Iterable[str] = sorted(names_taken(node)) if has_bodies else filter(None, node.input)
        kernel, is_ours = kernels.of(node, scope)
        nodes.append(
            ViewNode(
                operator=node.op_type,
                name=node_label(node),
                kernel=kernel,
                is_ours=is_ours,
                inputs=tuple(dict.fromkeys(taken)),
                results={name: _type(scope, name) for name in node.output if name},
            )
        )
    if isinstance(container, onnx.GraphProto):
        inputs = [value.name for value in container.input if value.name not in scope.stored]
        outputs = [value.name for value in container.output]
    else:
        inputs, outputs = list(container.input), list(container.output)
    taken_here = dict.fromkeys(name for node in nodes for name in node.inputs)
    return GraphView(
        scope.where or "main graph",
        tuple(nodes),
        {name: _type(scope, name) for name in inputs},
        {name: _type(scope, name) for name in outputs},
        tuple(name for name in taken_here if name not in scope.computed and _is_computed(scope.outer, name)),
        kernels.defined_by(scope),
        num_constants,
    )


def _is_computed(scope: Scope | None, name: str) -> bool:
    return scope is not None and (name in scope.computed or _is_computed(scope.outer, name))


def _type(scope: Scope, name: str) -> str:
    """Return element type and shape of a value in words; empty where the model states neither."""
    element_type, shape = scope.element_types.get(name), scope.shapes.get(name)
    words = [element_type_name(element_type)] if element_type else []
    return " ".join([*words, *([] if shape is None else [format_shape(shape)])])
