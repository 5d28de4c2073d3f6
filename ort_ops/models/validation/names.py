"""Check the names of values: each is defined once, and only defined ones are read."""

from __future__ import annotations

import onnx

from ort_ops.errors import ModelError
from ort_ops.models.graphs import NodeContainer, bodies, node_label

Reads = dict[str, str]
"""Names that are read, each with the first node or output that reads it."""


def check_names(container: NodeContainer, where: str) -> bool:
    """Check the names of a main graph or function, and of the bodies inside it.

    The time is linear in the model.

    Returns: whether each node comes after those whose results it reads.
    Raises: ModelError; its message lacks the name of the model.
    """
    free, is_sorted = _check_scope(container, where, ())
    for name, reader in free.items():
        raise ModelError(f" is damaged: {reader} of {where} reads '{name}', which nothing gives")
    return is_sorted


def _check_scope(container: NodeContainer, where: str, outer: tuple[set[str], ...]) -> tuple[Reads, bool]:
    """Check one graph or function; return the names that it reads from outside, and whether its nodes are in order."""
    own = _given_at_start(container, where, outer)
    early: Reads = {}  # names that are read before they are defined
    is_sorted = True
    for node in container.node:
        for name in node.input:
            if name and name not in own:
                early.setdefault(name, f"node '{node_label(node)}'")
        if node.attribute:
            for _, body in bodies(node):
                inner, is_inner_sorted = _check_scope(body, f"subgraph '{body.name}'", (*outer, own))
                early |= {name: reader for name, reader in inner.items() if name not in own}
                is_sorted = is_sorted and is_inner_sorted
        for name in node.output:
            if name:  # an empty name is an output that is left out
                _define(name, "a value", own, outer, where)
    free = {name: reader for name, reader in early.items() if name not in own}
    is_sorted = is_sorted and len(free) == len(early)
    for name in _outputs(container, where):
        if name not in own:
            free.setdefault(name, f"output '{name}'")
    if any(isinstance(name, bytes) for name in own):
        raise ModelError(f" is damaged: a name of {where} is no text in UTF-8")
    return free, is_sorted


def _given_at_start(container: NodeContainer, where: str, outer: tuple[set[str], ...]) -> set[str]:
    """Return the names of the inputs and initializers of a graph or function."""
    own: set[str] = set()
    if not isinstance(container, onnx.GraphProto):
        for name in container.input:
            _define(name, "an input", own, outer, where)
        return own
    for value in container.input:
        _define(value.name, "an input", own, outer, where)
    inputs = set(own)
    stored = [tensor.name for tensor in container.initializer]
    stored += [sparse.values.name for sparse in container.sparse_initializer]
    for name in stored:
        if name in inputs:  # the input's default
            inputs.remove(name)
        else:
            _define(name, "an initializer", own, outer, where)
    return own


def _define(name: str, what: str, own: set[str], outer: tuple[set[str], ...], where: str) -> None:
    if not name:
        raise ModelError(f" is damaged: {what} of {where} has no name")
    if name in own or (outer and any(name in scope for scope in outer)):
        raise ModelError(f" is damaged: name '{name}' of {where} stands for two values")
    own.add(name)


def _outputs(container: NodeContainer, where: str) -> list[str]:
    graph = isinstance(container, onnx.GraphProto)
    names = [value.name for value in container.output] if graph else list(container.output)
    if not all(names):
        raise ModelError(f" is damaged: an output of {where} has no name")
    if len(set(names)) != len(names):
        raise ModelError(f" is damaged: two outputs of {where} have one name")
    return names
