"""Check that every call of an operator is a node of the exported graph; counts are by ``domain::NAME``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx
import onnx_ir
import torch

from exporter.errors import ExportError
from exporter.to_onnx.example_call import Example, flatten_outputs
from exporter.torch_ops.kit import torch_kits
from exporter.torch_ops.translation import overloads
from ort_ops.console.counts import counted
from ort_ops.models.nodes import operator_nodes
from ort_ops.opdef import registry


def count_in_model(proto: onnx.ModelProto) -> Counter[str]:
    """Count the operators' nodes of a model, also in bodies and functions."""
    return Counter(found.operator.op_type for found in operator_nodes(proto))


def count_in_graphs(model: onnx_ir.Model) -> Counter[str]:
    """Count the operators' nodes in all graphs of a model that torch's exporter made."""
    names = registry.names()
    return Counter(
        f"{node.domain}::{node.op_type}"
        for graph in model.graphs()
        for node in graph
        if (node.domain, node.op_type) in names
    )


def count_in_program(program: torch.export.ExportedProgram) -> Counter[str]:
    """Count the calls of operators' library ops in all graphs of a program."""
    targets = {op: kit.operator.op_type for kit in torch_kits() for op in overloads(kit.library_op)}
    modules = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    nodes = [node for module in modules for node in module.graph.nodes if node.op == "call_function"]
    return Counter(targets[node.target] for node in nodes if node.target in targets)


def check_count(
    found: Mapping[str, int],
    expected: Mapping[str, int],
    example: Example,
    *,
    has_inner_graphs: bool,
    is_program: bool,
) -> None:
    """Check that no call of an operator that an output needs is missing.

    Args:
        found: nodes of the exported graph.
        expected: calls of the model.
        has_inner_graphs: whether the graph has loops or branches; a node in a loop's body stands for many calls.
        is_program: whether an exported program was counted, all of whose calls count.

    Raises: ExportError naming the first operator with too few nodes.
    """
    missing = {
        op_type: count
        for op_type, count in expected.items()
        if found.get(op_type, 0) < count and not (has_inner_graphs and found.get(op_type, 0))
    }
    if not missing:
        return
    live = missing if is_program else _live_calls(example)
    for op_type, count in missing.items():
        needed, got = min(count, live.get(op_type, 0)), found.get(op_type, 0)
        if got < needed:
            raise ExportError(
                f"the model calls {op_type.rpartition(':')[2]} {needed} times and the exported graph has "
                f"{counted(got, 'node')} of it; call its function or its module directly, not through torch.jit.script "
                "or a fused fast path"
            )


def _live_calls(example: Example) -> Counter[str]:
    """Count the calls that an output depends on; exporters leave out the others, such as an unused pooler.

    They are found in the graph that autograd records. Inputs are differentiated too where the model allows it.
    """
    parameters = [p for p in example.call.parameters() if p.is_floating_point()]
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            try:
                # Copies, because a model may overwrite its inputs.
                tracked = [t.detach().requires_grad_().clone() if t.is_floating_point() else t for t in example.tensors]
                outputs = flatten_outputs(example.call(*tracked))
            except Exception:  # it may convert them to NumPy, or refuse to be differentiated
                outputs = flatten_outputs(example.call(*example.tensors))
    finally:
        for parameter, needs_grad in zip(parameters, before, strict=True):
            parameter.requires_grad_(needs_grad)
    names = {name: kit.operator.op_type for kit in torch_kits() for name in kit.autograd_nodes}
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        for function, _ in waiting.pop().next_functions:
            if function is not None and function not in seen:
                seen.add(function)
                waiting.append(function)
    return Counter(names[function.name()] for function in seen if function.name() in names)
