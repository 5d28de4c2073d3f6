"""Names of values: each is given once, none is read that nothing gives, and no node waits for its own result."""

from __future__ import annotations

import onnx

from ort_ops.errors import ModelError
from ort_ops.graphs import NodeContainer, bodies, node_label

Reads = dict[str, str]
"""Names that are read, each with the node or output that reads it."""


def check_names(container: NodeContainer, where: str) -> None:
    """Check the names of a main graph or function, and of the bodies inside it.

    Nodes need not be in order, as onnxruntime sorts them; they must have one. The time is linear in the model.

    Raises: ModelError; its message lacks the name of the model.
    """
    for name, reader in _check_scope(container, where, ()).items():
        raise ModelError(f" is damaged: {reader} of {where} reads '{name}', which nothing gives")


def _check_scope(container: NodeContainer, where: str, outer: tuple[set[str], ...]) -> Reads:
    """Check one graph or function and return what it reads of those around it."""
    own = _given_at_start(container, where, outer)
    reads: list[Reads] = []
    is_sorted = True
    for node in container.node:
        needs: Reads = {}
        for name in node.input:
            if name and name not in own:
                needs[name] = f"node '{node_label(node)}'"
        if node.attribute:
            for _, body in bodies(node):
                inner = _check_scope(body, f"subgraph '{body.name}'", (*outer, own))
                needs |= {name: reader for name, reader in inner.items() if name not in own}
        reads.append(needs)
        is_sorted = is_sorted and not needs
        for name in node.output:
            if name:  # an empty name is an output that is left out
                _define(name, "a value", own, outer, where)
    if not is_sorted:
        _check_order(container, reads, own, where)
    free = {name: reader for needs in reads for name, reader in needs.items() if name not in own}
    for name in _outputs(container, where):
        if name not in own:
            free.setdefault(name, f"output '{name}'")
    if any(isinstance(name, bytes) for name in own):
        raise ModelError(f" is damaged: a name of {where} is no text in UTF-8")
    return free


def _given_at_start(container: NodeContainer, where: str, outer: tuple[set[str], ...]) -> set[str]:
    """The inputs and initializers of a graph or function."""
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


def _check_order(container: NodeContainer, reads: list[Reads], own: set[str], where: str) -> None:
    """Check that nodes which are not in order have one: that none waits, by way of others, for itself."""
    givers = {name: number for number, node in enumerate(container.node) for name in node.output if name}
    waiting = {number: {givers[name] for name in needs if name in givers} for number, needs in enumerate(reads)}
    for number, node in enumerate(container.node):
        waiting[number] |= {givers[name] for name in node.input if name in givers}
    readers: dict[int, list[int]] = {}
    for number, needs in waiting.items():
        for giver in needs:
            readers.setdefault(giver, []).append(number)
    ready = [number for number, needs in waiting.items() if not needs]
    num_done = 0
    counts = {number: len(needs) for number, needs in waiting.items()}
    while ready:
        giver = ready.pop()
        num_done += 1
        del waiting[giver]
        for number in readers.get(giver, ()):
            counts[number] -= 1
            if counts[number] == 0:
                ready.append(number)
    if waiting:
        names = ", ".join(f"'{node_label(container.node[number])}'" for number in sorted(waiting)[:5])
        raise ModelError(f" is damaged: nodes of {where} wait for each other in a circle (see {names})")
