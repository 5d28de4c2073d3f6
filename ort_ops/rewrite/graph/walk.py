"""The graphs of a model with their places, and what a model imports. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from ort_ops.opdef import registry
from ort_ops.rewrite.report import Place, Rewrite

Owner = ir.Model | ir.Function
_IR_VERSION_OF_DEFAULTS = 4
"""The first IR version in which initializers need not be inputs, and are default values where they are."""


def graphs_of(model: ir.Model) -> Iterator[tuple[Place, ir.Graph]]:
    """Yield every graph with its place, those of functions too, but not the definitions of registered operators."""
    for place, graph, _ in graphs_with_owners(model):
        yield place, graph


def graphs_with_owners(model: ir.Model) -> Iterator[tuple[Place, ir.Graph, Owner]]:
    """Yield the graphs of `graphs_of`, each with its owner, which imports versions of domains."""
    yield Place(), model.graph, model
    for graph in model.graph.subgraphs():
        if graph is not model.graph:
            yield Place(subgraph=graph.name or ""), graph, model
    names = registry.names()
    for identifier, function in model.functions.items():
        if identifier[:2] in names:
            continue
        yield Place(function=function.name), function.graph, function
        for graph in function.subgraphs():
            if graph is not function.graph:
                yield Place(function=function.name, subgraph=graph.name or ""), graph, function


def count_nodes(model: ir.Model) -> int:
    """Count the nodes of all graphs and functions, but not those of the definitions of registered operators."""
    return sum(len(graph) for _, graph in graphs_of(model))


def owners_of(model: ir.Model) -> list[Owner]:
    """Return the owners of graphs, which import versions of domains: the model and its functions."""
    return [model, *model.functions.values()]


def opset_of(owner: Owner) -> int | None:
    """Return the version of ONNX's own domain that a model or function imports; None for none."""
    version: int | None = owner.opset_imports.get("", owner.opset_imports.get("ai.onnx"))
    return version


@contextmanager
def constant_initializers(model: ir.Model, result: Rewrite) -> Iterator[None]:
    """Treat initializers as the constants that they are in a model of IR version 3, where each is an input as well.

    Runtimes let no caller override those. From version 4 on, an initializer that is an input can be overridden, so a
    rewritten model, which needs a newer version, does not have them as inputs. One in which nothing was rewritten
    stays as it was.
    """
    inputs, version = list(model.graph.inputs), model.ir_version
    if version < _IR_VERSION_OF_DEFAULTS:
        model.graph.inputs[:] = [value for value in inputs if not value.is_initializer()]
        model.ir_version = _IR_VERSION_OF_DEFAULTS
    yield
    if not result.rewritten and version < _IR_VERSION_OF_DEFAULTS:
        model.graph.inputs[:] = inputs
        model.ir_version = version
