"""What tests do with any registered operator: draw its calls, make models of them, compare with its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ort_ops.models.complete import complete_inputs
from ort_ops.models.make import make_model
from ort_ops.models.nodes import attach_functions, operator_nodes
from ort_ops.numerics.bound import ROUNDED
from ort_ops.numerics.compare import compare, compare_exactly
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.opdef.kit import OperatorKit
from ort_ops.session import InferenceSession

Array = NDArray[Any]
KERNELS = ("cpp", "python", "body")


def kernels_of(kit: OperatorKit) -> list[str]:
    """Return the names of the kernels that were written for an operator; `KERNELS` are all on the CPU."""
    has = {"cpp": kit.library, "python": kit.python_kernel, "body": kit.operator.make_body}
    return [name for name in KERNELS if has[name] is not None]


def combinations(kit: OperatorKit) -> list[dict[str, ElementType]]:
    """Return every combination of element types, by the names of the type variables."""
    return [{v.name: ELEMENT_TYPES[name] for v, name in bound.items()} for bound in kit.operator.overloads()]


def in_words(types: dict[str, ElementType]) -> str:
    """Name a combination of element types, for the names of tests."""
    return "-".join(element_type.name for element_type in types.values())


def sample_calls(kit: OperatorKit, types: dict[str, ElementType], seed: int = 0) -> list[Call]:
    """Return the calls that the kit finds worth trying."""
    found = list(kit.samples(np.random.default_rng(seed), types))
    assert found, f"{kit.operator.op_type} has no samples of {in_words(types)}"
    return found


def one_node(
    call: Call,
    *,
    stored: Sequence[int] = (),
    outputs: Sequence[bool] = (),
    opset: int | None = None,
    with_function: bool = False,
) -> onnx.ModelProto:
    """Make a model of one node for a call.

    Args:
        stored: indices of the inputs that the model stores; the others are fed.
        outputs: which outputs the node has; empty for those of the call.
        opset: version of ONNX's own domain; None for what `make_model` takes.
    """
    arrays = call.arrays
    inputs = [a if a is None or i in stored else [*a.shape] for i, a in enumerate(arrays)]
    types = {name: element_type.name for name, element_type in call.types.items()}
    model = make_model(
        call.operator,
        inputs,
        call.attributes,
        types=types,
        outputs=outputs or call.has_output,
        name="one",
        with_function=False,
    )
    if opset is not None:
        next(entry for entry in model.opset_import if entry.domain == "").version = opset
    if with_function:
        complete_inputs(model)
        attach_functions(model)
    return model


def feed_of(call: Call, model: onnx.ModelProto) -> dict[str, Array]:
    """Return the arrays of a call that the model does not store, by name."""
    named = zip(call.operator.inputs, call.arrays, strict=True)
    arrays = {parameter.argument: array for parameter, array in named if array is not None}
    return {value.name: arrays[value.name] for value in model.graph.input}


def run_call(call: Call, kernels: str, **options: Any) -> list[Array | None]:
    """Run a call as a model of one node, by a kernel of the operator or its function body.

    Returns: each output, None for one that the node lacks.
    """
    model = one_node(call, with_function=kernels == "body", **options)
    results = InferenceSession(model.SerializeToString(), kernels=kernels).run(None, feed_of(call, model))
    return in_place(model, results)


def in_place(model: onnx.ModelProto, results: Sequence[Array]) -> list[Array | None]:
    """Return the results of a model of one node in the places of the operator's outputs, None for an absent one."""
    (found,) = operator_nodes(model)
    named = dict(zip([value.name for value in model.graph.output], results, strict=True))
    return [named[name] if name else None for name in found.outputs]


def complaints(kit: OperatorKit, call: Call, results: Sequence[Array | None]) -> list[str]:
    """Compare results with the reference, within the bound; an output of None is one that is not there."""
    expected, bounds = kit.reference(call), kit.bound(call, ROUNDED)
    found = []
    for index, (got, exact, bound) in enumerate(zip(results, expected, bounds, strict=True)):
        if got is None:
            continue
        element_type, output = call.output_type(index), call.operator.outputs[index].argument
        if got.dtype.name != element_type.name:
            found.append(f"{call.label}: {output} is {got.dtype} instead of {element_type.name}")
            continue
        outcome = compare_exactly(got, exact) if bound is None else compare(got, exact, bound, element_type)
        if outcome.complaint is not None:
            found.append(f"{call.label}: {output}: {outcome.complaint}")
    return found
