"""Prove which states a step may overwrite while it runs: no node may read the old value after the new one is there.

onnxruntime takes one tensor as an input and an output at once, and does not check that this is right. It is, where
every node that reads the old value must run before the one that writes the new value, in whatever order onnxruntime
chooses: where each reader is an ancestor of the writer. The writer may read it too if it computes element by element.

The graph must be the one that onnxruntime runs, after its optimizer: that may let a node read the state itself where
the file has a transposed copy of it. Nothing but the order of the nodes is left to onnxruntime then, and this does not
depend on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from ort_ops.models.graphs import bodies, names_taken, node_label

_DEFAULT_DOMAINS = ("", "ai.onnx")
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Identity"})
"""Operators whose kernels read an element before they write it, where the shapes are the same."""
_VIEWS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Optional"})
"""Operators whose result may be the memory of their input; beside those of sequences and with bodies."""
_KNOWN_DOMAINS = (*_DEFAULT_DOMAINS, "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")


def unsafe_states(
    graph: onnx.GraphProto, feeds: Mapping[str, str], operators: Mapping[tuple[str, str], bool]
) -> dict[str, str]:
    """Return the states that must not be overwritten in place, each with the reason.

    Args:
        graph: as onnxruntime runs it.
        feeds: name of the input that each output feeds, by the output; both have one type and shape.
        operators: domains and names of operators whose kernels return memory of their own; and whether they read each
            element before they write it, where the shapes are the same.

    The time is that of one walk over the graph; a set of readers is one integer.
    """
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    taken = [names_taken(node) for node in graph.node]
    readers = _readers(graph, taken, set(feeds.values()), operators)
    all_readers = sorted({reader for found in readers.values() for reader in found})
    bits = {reader: 1 << i for i, reader in enumerate(all_readers)}
    writers: dict[int, list[tuple[str, int]]] = {}
    unsafe: dict[str, str] = {}
    for output, name in feeds.items():
        writer = makers.get(output)
        if writer is None:
            unsafe[name] = "no node computes its next value"
            continue
        found = readers.get(name, set())
        if writer in found:
            if not _is_elementwise(graph.node[writer], name, operators):
                unsafe[name] = f"node '{node_label(graph.node[writer])}' reads it while it writes the next value"
                continue
            found = found - {writer}
        writers.setdefault(writer, []).append((name, sum(bits[reader] for reader in found)))
    last_use = {makers[name]: i for i, names in enumerate(taken) for name in names if name in makers}
    ancestors: dict[int, int] = {}
    for i, names in enumerate(taken):
        before = 0
        for made in {makers[name] for name in names if name in makers}:
            if made >= i:
                return dict.fromkeys(feeds.values(), "the nodes are in no order")
            before |= ancestors[made] | bits.get(made, 0)
            if last_use[made] == i:
                del ancestors[made]
        for name, wanted in writers.get(i, ()):
            late = wanted & ~before
            if late:
                reader = graph.node[all_readers[late.bit_length() - 1]]
                unsafe[name] = f"node '{node_label(reader)}' may read it after the next value is written"
        if i in last_use:
            ancestors[i] = before
    return unsafe


def _readers(
    graph: onnx.GraphProto, taken: list[set[str]], states: set[str], operators: Collection[tuple[str, str]]
) -> dict[str, set[int]]:
    """Return the nodes that read each state, or what may be its memory under another name."""
    roots: dict[str, set[str]] = {name: {name} for name in states}
    readers: dict[str, set[int]] = {}
    for i, node in enumerate(graph.node):
        found = {root for name in taken[i] for root in roots.get(name, ())}
        for root in found:
            readers.setdefault(root, set()).add(i)
        if found and _may_return_input(node, operators):
            for name in node.output:
                roots[name] = found
    return readers


def _may_return_input(node: onnx.NodeProto, operators: Collection[tuple[str, str]]) -> bool:
    if (node.domain, node.op_type) in operators:
        return False
    if node.domain not in _KNOWN_DOMAINS or any(True for _ in bodies(node)):
        return True
    return node.op_type in _VIEWS or "Sequence" in node.op_type or "Optional" in node.op_type


def _is_elementwise(node: onnx.NodeProto, state: str, operators: Mapping[tuple[str, str], bool]) -> bool:
    """Whether a node that writes a state may read it under its own name."""
    is_known = node.domain in _DEFAULT_DOMAINS and node.op_type in _ELEMENTWISE
    is_known = is_known or operators.get((node.domain, node.op_type), False)
    return is_known and state in node.input
