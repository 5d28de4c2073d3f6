"""What `mylinear inspect` prints of a model, and a notebook shows: lines and tables, all but the faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ort_ops.console.shown import Table
from ort_ops.inspection import training
from ort_ops.inspection.nodes import table

if TYPE_CHECKING:
    from ort_ops.inspection.model import Inspection


def parts(found: Inspection) -> Iterator[str | Table]:
    """Yield lines and tables, each table as header and rows."""
    fed = {} if found.training is None else found.training.feeds
    rows = [["input", name, what] for name, what in found.inputs.items()]
    rows += [["output", name, what] for name, what in found.outputs.items() if name not in fed]
    yield ["", "name", "type"], rows
    yield ""
    if found.training is not None:
        header, state = training.table(found.training)
        if state:
            yield header, state
            yield ""
        yield from training.lines(found.training)
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    oldest = f"onnxruntime {found.oldest_runtime}" if found.oldest_runtime else "no known onnxruntime"
    yield f"opsets     {opsets}; IR version {found.ir_version}; loads from {oldest} on"
    yield f"weights    {found.weights_nbytes / 2**20:.2f} MiB;  nodes  {sum(found.operators.values())}"
    yield f"body       {found.body}"
    if found.training is not None:
        yield f"operators  {training.operators(found.training, found.nodes)}"
    running = found.running
    if running.error:
        yield f"here       does not run: {running.error}"
    else:
        each = [f"{op_type} by the {name} kernel" for op_type, name in running.kernels.items()]
        kernels = ", ".join(each) if len(set(running.kernels.values())) > 1 else f"by the {running.kernel} kernel"
        if not each:
            kernels = "by onnxruntime's own kernels (no node of a registered operator)"
        yield f"here       {kernels}, on {', '.join(running.providers)}"
        for provider, nodes in running.assignment.items():
            yield f"           {provider}: {', '.join(f'{count} {name}' for name, count in nodes.items())}"
        yield f"inserted   {running.copies} copies between devices, {running.casts} casts"
    yield ""
    for header, body in table(found.nodes, running.kernels):
        yield header, body
