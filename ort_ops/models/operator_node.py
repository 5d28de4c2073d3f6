"""One node of a registered operator, and which operators a model means by its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx

from ort_ops.models.graphs import NodeContainer, Scope, node_label, scopes
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.onnx_objects import node_attributes
from ort_ops.opdef.operator import Operator, Parameter

Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class OperatorNode:
    """One node of a registered operator, and its scope."""

    kit: OperatorKit
    scope: Scope
    node: onnx.NodeProto

    @property
    def operator(self) -> Operator:
        """The operator of the node."""
        return self.kit.operator

    @property
    def container(self) -> NodeContainer:
        """The graph or function that has the node."""
        return self.scope.container

    @property
    def where(self) -> str:
        """The bodies and the function around it in words; empty in the main graph."""
        return self.scope.where

    @property
    def label(self) -> str:
        """The node's name, or its output's where it has none."""
        return node_label(self.node)

    @property
    def path(self) -> str:
        """The label and the scope in words: names need not be unique across bodies."""
        return f"{self.label} {self.where}".rstrip()

    @cached_property
    def inputs(self) -> list[str]:
        """The names of the inputs in the operator's order, empty for an absent one."""
        names = list(self.node.input)
        return names + [""] * (len(self.operator.inputs) - len(names))

    @cached_property
    def outputs(self) -> list[str]:
        """The names of the outputs in the operator's order, empty for an absent one."""
        names = list(self.node.output)
        return names + [""] * (len(self.operator.outputs) - len(names))

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes as Python values, with defaults. Raises: ContractError for a wrong one."""
        return node_attributes(self.operator, self.node)

    def parameters(self) -> Iterator[tuple[Parameter, str]]:
        """Yield the inputs and outputs that the node has, with the names of their values."""
        formal = (*self.operator.inputs, *self.operator.outputs)
        for parameter, name in zip(formal, (*self.inputs, *self.outputs), strict=False):
            if name:
                yield parameter, name

    @property
    def lacks_input(self) -> bool:
        """Whether the node lacks an optional input that an `AbsentInput` can stand for."""
        return any(
            not name and parameter.absent is not None
            for parameter, name in zip(self.operator.inputs, self.inputs, strict=True)
        )

    @property
    def lacks_output(self) -> bool:
        """Whether the node lists fewer outputs than the operator has; onnxruntime then refuses its function body."""
        return len(self.node.output) < len(self.operator.outputs)


class Kits:
    """The operators that a model's nodes mean: those of the versions of the domains that it imports."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._names = registry.names()
        self._by_version: dict[tuple[str, str, int], OperatorKit | None] = {}
        self._of_model = _imports(model)
        self._of_functions = {(f.domain, f.name, f.overload): _imports(f) for f in model.functions}

    def nodes_of(self, scope: Scope) -> Iterator[OperatorNode]:
        """Yield the nodes of one graph or function, not of the bodies inside."""
        root = scope.root
        if isinstance(root, onnx.FunctionProto) and (root.domain, root.name) in self._names:
            return
        yield from self.nodes_among(scope.container.node, scope)

    def nodes_among(self, nodes: Iterable[onnx.NodeProto], scope: Scope) -> Iterator[OperatorNode]:
        """Yield the nodes that are of registered operators."""
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in self._names and (kit := self._find(key, scope)) is not None:
                yield OperatorNode(kit, scope, node)

    def check_versions(self) -> None:
        """Check the versions of the domains that the model imports. Raises: ContractError."""
        seen: set[tuple[str, str, int]] = set()
        for scope in scopes(self._model):
            for node in scope.container.node:
                if (node.domain, node.op_type) not in self._names:
                    continue
                version = self._version(node.domain, scope)
                if (node.domain, node.op_type, version) in seen:
                    continue
                seen.add((node.domain, node.op_type, version))
                oldest = _oldest(node.domain, node.op_type)
                kit = registry.find(node.domain, node.op_type, version) or oldest
                newest = registry.newest_version(node.domain)
                kit.operator.check_version(version, newest, oldest.operator.since_version)

    def _version(self, domain: str, scope: Scope) -> int:
        root = scope.root
        if isinstance(root, onnx.FunctionProto):
            imports = self._of_functions.get((root.domain, root.name, root.overload), {})
            if domain in imports:
                return imports[domain]
        return self._of_model.get(domain, 0)

    def _find(self, key: Key, scope: Scope) -> OperatorKit | None:
        version = self._version(key[0], scope)
        full = (*key, version)
        if full not in self._by_version:
            # An unknown version is an error of `check_operator_nodes`; elsewhere the nearest operator stands for it.
            self._by_version[full] = registry.find(*key, version) or _oldest(*key)
        return self._by_version[full]


def _imports(owner: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in owner.opset_import}


def _oldest(domain: str, name: str) -> OperatorKit:
    found = [kit for kit in registry.kits() if (kit.operator.domain, kit.operator.name) == (domain, name)]
    return min(found, key=lambda kit: kit.operator.since_version)
