"""Check that no model-local function calls itself, and count the nodes that all expand to, without expanding them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from ort_ops.errors import ModelError
from ort_ops.models.graphs import Scope, scopes_in
from ort_ops.opdef import registry

MAX_CALL_DEPTH = 100
"""The limit of both onnx and onnxruntime."""
MAX_EXPANSION = 500_000
"""Nodes times levels of calls; onnxruntime takes half a minute for the most (2**15 nodes at 15 levels)."""

Key = tuple[str, str, str]


def check_functions(model: onnx.ModelProto) -> None:
    """Check that every function is defined once, none calls itself, and their calls expand to a graph of limited size.

    The definition of a registered operator counts as one node, since a kernel may replace it. The time is linear in the
    model.

    Raises: ModelError; its message lacks the name of the model.
    """
    functions: dict[Key, onnx.FunctionProto] = {}
    for function in model.functions:
        key = _key(function.domain, function.name, function.overload)
        if key in functions:
            raise ModelError(f" is damaged: function '{function.name}' is defined twice")
        functions[key] = function
    calls = {key: [k for k in _operators(Scope(function)) if k in functions] for key, function in functions.items()}
    sizes, depths = _expand(functions, calls)
    ours = {(domain, name, "") for domain, name in registry.names()}
    if set(functions) <= ours:
        return
    sizes |= dict.fromkeys(ours, 1)
    used = [key for key in _operators(Scope(model.graph)) if key in functions]
    depth = max((depths[key] for key in used), default=0)
    total = sum(sizes[key] for key in used)
    if depth > MAX_CALL_DEPTH:
        raise ModelError(f": its functions call each other {depth} levels deep; onnxruntime takes {MAX_CALL_DEPTH}")
    if total * depth > MAX_EXPANSION:
        raise ModelError(
            f": its functions call each other so often that they expand to {total:,} nodes at {depth} levels; nodes "
            f"times levels must be at most {MAX_EXPANSION:,}, since onnxruntime expands them all"
        )


def _expand(functions: dict[Key, onnx.FunctionProto], calls: dict[Key, list[Key]]) -> tuple[dict[Key, int], ...]:
    """Return the number of nodes that each function expands to, and how many levels deep it calls."""
    callers: dict[Key, list[Key]] = {key: [] for key in functions}
    for caller, called in calls.items():
        for key in called:
            callers[key].append(caller)
    open_calls = {key: len(called) for key, called in calls.items()}
    ready = [key for key, count in open_calls.items() if count == 0]
    sizes: dict[Key, int] = {}
    depths: dict[Key, int] = {}
    while ready:
        key = ready.pop()
        num_nodes = sum(1 for _ in _operators(Scope(functions[key])))
        sizes[key] = num_nodes - len(calls[key]) + sum(sizes[called] for called in calls[key])
        depths[key] = 1 + max((depths[called] for called in calls[key]), default=0)
        for caller in callers[key]:
            open_calls[caller] -= 1
            if open_calls[caller] == 0:
                ready.append(caller)
    if len(sizes) < len(functions):
        names = ", ".join(f"'{key[1]}'" for key in functions if key not in sizes)
        raise ModelError(f" is damaged: its functions call themselves without an end (see {names})")
    return sizes, depths


def _operators(scope: Scope) -> Iterator[Key]:
    """Yield the operator of every node of a graph or function and of the bodies inside."""
    for inner in scopes_in(scope):
        for node in inner.container.node:
            yield _key(node.domain, node.op_type, node.overload)


def _key(domain: str, name: str, overload: str) -> Key:
    return ("" if domain == "ai.onnx" else domain, name, overload)
