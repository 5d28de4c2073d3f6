"""Promises in torch: the backward is the derivative, the library op is a proper one, and both exporters make a node."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from exporter.promises.result import Outcome, Promise
from exporter.promises.subject import Overload, Subject, attempt
from exporter.to_onnx.export import export
from exporter.torch_ops.kit import ExampleModule, TorchKit, torch_kit
from exporter.torch_ops.tensors import from_numpy
from exporter.verification.nodes.gradients import FINITE_DIFFERENCES, gradient_labels, gradient_row
from exporter.verification.nodes.run import NodeCall
from ort_ops.console.counts import counted
from ort_ops.files.atomic import temporary_folder
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit

ENGINES = ("dynamo", "torchscript")
_MOST_CALLS = 4


def torch_promises(subject: Subject) -> Iterator[Promise]:
    """Try what an operator promises in torch; nothing where it has no torch part."""
    kit = subject.kit
    if not kit.torch:
        yield Promise("torch part", "the kit", Outcome.NOT_MADE, "the kit names no TorchKit")
        return
    loaded = attempt("torch part", kit.torch, lambda: f"{torch_kit(kit) is not None}")
    if loaded.outcome is not Outcome.KEPT:
        yield loaded
        return
    part = torch_kit(kit)
    assert part is not None
    yield from _gradients(subject)
    wide = next((o for o in subject.overloads if "float64" in o.name), subject.overloads[0])
    yield attempt("opcheck", part.library_op, lambda: _opcheck(part, wide))
    yield from _exports(part)


def _gradients(subject: Subject) -> Iterator[Promise]:
    kit = subject.kit
    for label in gradient_labels([kit]):
        for overload in subject.overloads[:1] if label == FINITE_DIFFERENCES else subject.overloads:
            name = label.removeprefix("gradients, ")
            name = name if label == FINITE_DIFFERENCES else f"{name}, {overload.name}"
            yield attempt("gradients", name, partial(_gradient, kit, overload, label, name))


def _gradient(kit: OperatorKit, overload: Overload, label: str, name: str) -> Promise | str:
    """Check the backward at each call that has elements; each is a node of its own to the check."""
    calls = [call for call in overload.calls if all(a is None or a.size for a in call.arrays)][:_MOST_CALLS]
    for call in calls:
        row = gradient_row("torch eager", label, {call.label: [NodeCall(kit, call)]})
        if row.comparison is None:
            outcome = Outcome.UNTESTED if _is_too_narrow(kit) else Outcome.NOT_MADE
            return Promise("gradients", name, outcome, str(row.reason))
        if row.is_violated:
            return Promise("gradients", name, Outcome.BROKEN, f"{call.label}: {row.verdict}")
    if not calls:
        return Promise("gradients", name, Outcome.UNTESTED, "every sample has an empty array")
    return counted(len(calls), "call")


def _is_too_narrow(kit: OperatorKit) -> bool:
    """Whether the operator takes floating-point numbers, but no float64, without which nothing checks a backward."""
    types = [
        element_type for p in kit.operator.inputs for element_type in p.type.element_types if element_type.is_floating
    ]
    return bool(types) and all(element_type.name != "float64" for element_type in types)


def _opcheck(part: TorchKit, overload: Overload) -> Promise | str:
    """Run torch's own checks of a library op: schema, fake kernel, autograd, ahead-of-time compilation."""
    names = [p.name for p in part.operator.inputs], [a.name for a in part.operator.attributes]
    if not set(part.argument_names) <= {*names[0], *names[1]}:
        note = "its arguments are not the operator's alone"
        return Promise("opcheck", part.library_op, Outcome.NOT_MADE, note)
    namespace, _, name = part.library_op.partition("::")
    op = getattr(getattr(torch.ops, namespace), name).default
    calls = [call for call in overload.calls if all(call.has_output) and _is_tame(call)][:2]
    for call in calls:
        values = dict(zip(names[0], (None if a is None else _tensor(a) for a in call.arrays), strict=True))
        torch.library.opcheck(op, tuple(values[n] if n in values else call.attributes[n] for n in part.argument_names))
    if not calls:
        return Promise("opcheck", part.library_op, Outcome.UNTESTED, "no sample of usual numbers without empty arrays")
    return f"{len(calls)} calls pass torch.library.opcheck"


def _is_tame(call: Call) -> bool:
    floats = [a for a in call.arrays if a is not None and a.dtype.kind == "f"]
    return all(a is None or a.size for a in call.arrays) and all(np.abs(a).max() < 1e3 for a in floats)


def _tensor(array: np.ndarray) -> torch.Tensor:
    tensor = from_numpy(array)
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _exports(part: TorchKit) -> Iterator[Promise]:
    examples = list(part.examples()) if part.examples is not None else []
    if not examples:
        yield Promise("export", "both engines", Outcome.UNTESTED, "TorchKit.examples yields no module that calls it")
    for engine in ENGINES:
        for number, example in enumerate(examples, 1):
            name = f"{engine}, {example.label or f'example {number}'}"
            yield attempt("export", name, partial(_export, part, engine, example))


def _export(part: TorchKit, engine: str, example: ExampleModule) -> str:
    with temporary_folder() as folder:
        result = export(example.module, example.args, Path(folder) / "model.onnx", engine=engine)
    count = dict(result.num_nodes).get(part.operator.op_type, 0)
    if count == 0:
        raise part.operator.error("an exported module", f"a model with a node of {part.operator.op_type}", "none")
    worst = max(comparison.max_in_bounds for comparison in result.comparisons.values())
    return f"{counted(count, 'node')}; onnxruntime agrees with torch (largest error {worst:.3f} of its bound)"
