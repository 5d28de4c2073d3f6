"""Sort the nodes of a graph: onnxruntime takes them in any order, the code that follows needs a topological one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx

from ort_ops.errors import ModelError
from ort_ops.models.graphs import NodeContainer, bodies, node_label


def sort_nodes(graph: NodeContainer, where: str = "the graph") -> None:
    """Sort the nodes of a graph or function, and of its bodies, in place: each after those that it needs.

    ONNX demands that order, onnxruntime does not, and some converters append nodes at the end. Nodes that are in order
    stay as they are. Raises: ModelError for a cycle; its message lacks the name of the model.
    """
    for node in graph.node:
        for _, body in bodies(node):
            sort_nodes(body, f"subgraph '{body.name}'")
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [{makers[name] for name in _needed(node) if name in makers} for node in graph.node]
    if all(source < index for index, sources in enumerate(needs) for source in sources):
        return
    waiting = [len(sources) for sources in needs]
    users: list[list[int]] = [[] for _ in needs]
    for index, sources in enumerate(needs):
        for source in sources:
            users[source].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(needs):
        stuck = [graph.node[index] for index, count in enumerate(waiting) if count]
        names = ", ".join(f"'{node_label(node)}'" for node in stuck[:5])
        raise ModelError(f" is damaged: nodes of {where} wait for each other in a circle (see {names})")
    nodes = [graph.node[index] for index in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _needed(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node reads; its bodies may read values from outside too."""
    yield from (name for name in node.input if name)
    for _, body in bodies(node):
        for inner in body.node:
            yield from _needed(inner)
        yield from (output.name for output in body.output)
