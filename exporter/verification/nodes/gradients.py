"""Check torch's backward at the nodes of a model, by the operator's own checks or torch's gradcheck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.verification.nodes.drawn import dtype_of, rounded
from exporter.verification.nodes.run import NodeCall
from exporter.verification.reasons import NoGradients, NothingRan
from exporter.verification.row import Part, Row
from ort_ops.analysis.rows import thinned
from ort_ops.numerics.compare import Comparison, compare_output, failed, worst_of
from ort_ops.numerics.faults import Failure
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
FINITE_DIFFERENCES = "gradients, finite differences in float64"
EXACT = "gradients, exact"
_MAX_ROWS, _MAX_ROWS_DIFFERENCES = 64, 3
_MOST_OF_A_SHAPE = 3  # nodes of one shape to check: they are one function
_SLOW_NUMBERS = 200  # up to so many numbers every derivative is compared; beyond, random projections


def gradient_labels(kits: Sequence[OperatorKit]) -> list[str]:
    """Return the labels of all checks that these operators have, each once."""
    return list(dict.fromkeys(check.label for kit in kits for check in _checks(kit)))


def gradient_row(name: str, label: str, calls: Mapping[str, Sequence[NodeCall]]) -> Row:
    """Check the gradients at the nodes by one check: at a few nodes of equal shapes.

    torch's backward is one function; its result depends on shapes and dtypes, but not on the node.

    Args:
        name: of the backend.
        calls: what each node received.
    """
    rng = np.random.default_rng(0)
    comparisons: list[Comparison] = []
    reasons: dict[str, None] = {}
    dtypes: dict[str, None] = {}
    counts: dict[Any, int] = {}
    for received in calls.values():
        kit = received[-1].kit
        check = next((check for check in _checks(kit) if check.label == label), None)
        if check is None:
            continue
        call = thinned(kit, received[-1].call, _MAX_ROWS)
        key = kit.operator.key, _shapes(call), tuple(call.types.values())
        counts[key] = counts.get(key, 0) + 1
        if counts[key] > _MOST_OF_A_SHAPE:
            continue
        try:
            comparisons.append(check.compare(call, rng))
        except NoGradientsError as error:
            reasons[str(error)] = None
            continue
        dtypes[check.dtype or call.element_type.name] = None
    if not comparisons:
        reason = NoGradients("; ".join(reasons)) if reasons else NothingRan()
        return Row(name, label, None, reason, part=Part.GRADIENTS)
    return Row(name, label, worst_of(comparisons), part=Part.GRADIENTS, dtype=", ".join(dtypes))


class NoGradientsError(Exception):
    """The check does not suit the operator; the message says why."""


def _shapes(call: Call) -> tuple[Any, ...]:
    """Return what a backward depends on: the shapes of stored inputs, and the ranks of the others."""
    values = (call.array(index) for index in range(len(call.inputs)))
    index = next((i for i, p in enumerate(call.operator.inputs) if not hasattr(call.inputs[i], "load")), None)
    return tuple(None if v is None else v.ndim if i == index else v.shape for i, v in enumerate(values))


def _checks(kit: OperatorKit) -> list[Any]:
    from exporter.torch_ops.kit import GradientCheck, torch_kit

    part = torch_kit(kit)
    if part is None:
        return []
    if part.gradient_checks is not None:
        return list(part.gradient_checks())
    checks = [GradientCheck(FINITE_DIFFERENCES, lambda call, rng: _by_gradcheck(kit, call, rng), "float64")]
    if kit.gradient is not None and kit.gradient_bound is not None:
        checks.append(GradientCheck(EXACT, lambda call, rng: _by_exact_gradient(kit, call, rng)))
    return checks


def _by_gradcheck(kit: OperatorKit, call: Call, rng: np.random.Generator) -> Comparison:
    """Compare all derivatives with central differences in float64, by ``torch.autograd.gradcheck``."""
    import torch
    from torch.autograd.gradcheck import GradcheckError

    from exporter.torch_ops.gradients import explain

    floating = _floating_inputs(call)
    names = {call.operator.inputs[i].type for i in floating}
    if not floating or not all("float64" in variable.dtypes for variable in names):
        raise NoGradientsError(f"{call.operator.name} takes no float64, which finite differences need")
    call = thinned(kit, call, _MAX_ROWS_DIFFERENCES)
    arrays = _tame(call, "float64")
    leaves = {i: _leaf(arrays[i]) for i in floating}
    others = {i: _leaf(array, is_leaf=False) for i, array in enumerate(arrays) if array is not None and i not in leaves}

    def run(*tensors: Any) -> tuple[Any, ...]:
        given = {**others, **dict(zip(leaves, tensors, strict=True))}
        return tuple(_differentiable(kit, call, [given.get(i) for i in range(len(arrays))]))

    numbers = sum(leaf.numel() for leaf in leaves.values())
    if not any(output.requires_grad for output in run(*leaves.values())):
        raise NoGradientsError(f"no output of {call.operator.name} has a gradient in torch")
    try:
        torch.autograd.gradcheck(run, tuple(leaves.values()), fast_mode=numbers > _SLOW_NUMBERS)
    except GradcheckError as error:
        arguments = [call.operator.inputs[i].argument for i in leaves]
        return failed(Failure(explain(error, run, list(leaves.values()), arguments)), numbers)
    return Comparison(0.0, 0.0, None, numbers)


def _by_exact_gradient(kit: OperatorKit, call: Call, rng: np.random.Generator) -> Comparison:
    """Compare the backward in the call's own element types with the exact gradient, each allowed its derived bound."""
    import torch

    from exporter.torch_ops.tensors import to_numpy

    assert kit.gradient is not None
    assert kit.gradient_bound is not None
    floating = _floating_inputs(call)
    arrays = _tame(call, None)
    call = replace(call, inputs=tuple(arrays))
    tensors = [None if a is None else _leaf(a, is_leaf=i in floating) for i, a in enumerate(arrays)]
    outputs = _outputs(kit, call, tensors)
    seeds = [
        None if o is None or not o.requires_grad else rounded(rng.standard_normal(tuple(o.shape)), call.output_type(i))
        for i, o in enumerate(outputs)
    ]
    used = [(o, _leaf(s, is_leaf=False)) for o, s in zip(outputs, seeds, strict=True) if s is not None]
    if not used:
        raise NoGradientsError(f"no output of {call.operator.name} has a gradient in torch")
    leaves: list[Any] = [tensors[i] for i in floating]
    found = torch.autograd.grad([o for o, _ in used], leaves, [s for _, s in used], allow_unused=True)
    exact, bounds = kit.gradient(call, seeds), kit.gradient_bound(call, seeds)
    comparisons = []
    for i, gradient in zip(floating, found, strict=True):
        array, expected = arrays[i], exact[i]
        assert array is not None
        expected = np.zeros(array.shape) if expected is None else expected
        got = np.zeros(array.shape, array.dtype) if gradient is None else to_numpy(gradient)
        element_type = call.types[call.operator.inputs[i].type.name]
        comparisons.append(compare_output(got, expected, bounds[i], element_type, dtype_of(element_type)))
    return worst_of(comparisons)


def _floating_inputs(call: Call) -> list[int]:
    types = [call.types.get(parameter.type.name) for parameter in call.operator.inputs]
    return [
        i
        for i, (found, value) in enumerate(zip(types, call.inputs, strict=False))
        if value is not None and found is not None and found.is_floating
    ]


def _tame(call: Call, dtype: str | None) -> list[Array | None]:
    """Return the inputs without NaN, infinities and large numbers, at which derivatives say nothing."""
    arrays: list[Array | None] = []
    floating = _floating_inputs(call)
    for i, parameter in enumerate(call.operator.inputs):
        array = call.array(i)
        if array is not None and i in floating:
            wide = np.clip(np.nan_to_num(array.astype(np.float64), nan=0.5, posinf=1, neginf=-1), -1e2, 1e2)
            array = rounded(wide, ELEMENT_TYPES[dtype] if dtype else call.types[parameter.type.name])
        arrays.append(array)
    return arrays


def _leaf(array: Array | None, *, is_leaf: bool = True) -> Any:
    from exporter.torch_ops.tensors import from_numpy

    assert array is not None
    return from_numpy(array).requires_grad_() if is_leaf else from_numpy(array)


def _outputs(kit: OperatorKit, call: Call, tensors: Sequence[Any]) -> tuple[Any, ...]:
    from exporter.torch_ops.kit import required_torch_kit

    return required_torch_kit(kit).run(tensors, call.attributes, call.has_output)


def _differentiable(kit: OperatorKit, call: Call, tensors: Sequence[Any]) -> list[Any]:
    return [output for output in _outputs(kit, call, tensors) if output is not None and output.is_floating_point()]
