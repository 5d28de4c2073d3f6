"""Promises of the description: schema, shapes, samples, reference and bound, and what the C++ library says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product, zip_longest
from typing import Any

import numpy as np
import onnx

from exporter.promises.result import Outcome, Promise
from exporter.promises.subject import BrokenError, Overload, Subject, attempt, model_of
from ort_ops.console.counts import counted
from ort_ops.models.nodes import check_operator_nodes
from ort_ops.native import library
from ort_ops.numerics.bound import ROUNDED
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.onnx_objects import register_schema
from ort_ops.opdef.operator import Operator
from ort_ops.opdef.shapes import Shape, format_shape


def description_promises(subject: Subject) -> Iterator[Promise]:
    """Try the description of an operator, without a kernel; the first one that is broken may hide others."""
    samples = attempt("samples", "the kit", lambda: _check_samples(subject))
    yield samples
    if samples.outcome is Outcome.BROKEN and not _has_calls(subject):
        return
    for overload in subject.overloads:
        yield attempt("schema", overload.name, partial(_check_schema, overload))
        yield attempt("shapes", overload.name, partial(_check_shapes, subject.kit, overload))
        yield attempt("reference", overload.name, partial(_check_reference, subject.kit, overload))
    if subject.kit.library is not None:
        yield cpp_promise(subject)


def cpp_promise(subject: Subject, name: str = "its library") -> Promise:
    """Try whether the library says the same of the operator as Python."""
    return attempt("description in C++", name, lambda: _check_cpp(subject.kit, name))


def _has_calls(subject: Subject) -> bool:
    try:
        return all(overload.calls for overload in subject.overloads)
    except Exception:
        return False


def _check_samples(subject: Subject) -> Promise | str:
    operator = subject.kit.operator
    lacking = []
    for overload in subject.overloads:
        calls = overload.calls
        if not calls:
            raise BrokenError(f"there are none of {overload.name}")
        missing = []
        if not any(0 in array.shape for call in calls for array in call.arrays if array is not None):
            missing.append("an empty array")
        for index, parameter in enumerate(operator.inputs):
            if parameter.is_optional and {call.arrays[index] is None for call in calls} != {True, False}:
                missing.append(f"calls with and without {parameter.argument}")
        for attribute in operator.attributes:
            if len({str(call.attributes[attribute.name]) for call in calls}) < 2:
                missing.append(f"two values of {attribute.name}")
        if missing:
            lacking.append((overload.name, ", ".join(missing)))
    count = counted(sum(len(overload.calls) for overload in subject.overloads), "call")
    if not lacking:
        return count
    name, missing_there = lacking[0]
    if not subject.kit.samples_are_examples:
        raise BrokenError(f"of {name} they lack {missing_there}")
    return Promise("samples", "the kit", Outcome.FEW, f"{count}; add to examples= what they lack: {missing_there}")


def _check_schema(overload: Overload) -> str:
    register_schema(overload.calls[0].operator)
    for call in overload.calls:
        model = model_of(call, with_function=False)
        onnx.checker.check_model(model, full_check=True, check_custom_domain=True)
        stated = [value.SerializeToString() for value in model.graph.output]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        if [value.SerializeToString() for value in inferred.graph.output] != stated:
            raise BrokenError(f"{call.label}: onnx infers other types or shapes than the shape rule")
        check_operator_nodes(model)
    return "onnx's checker takes it, and infers types and shapes"


def _check_shapes(kit: OperatorKit, overload: Overload) -> str:
    """Compare the shape rule with the reference's results, for known, named and unknown dimensions."""
    operator = kit.operator
    for call in overload.calls:
        shapes: list[Shape | None] = [None if a is None else [*a.shape] for a in call.arrays]
        results = [result.shape for result in map(np.asarray, kit.reference(call))]
        for known in (shapes, *_less_known(shapes)):
            stated = operator.infer_shape(known, call.attributes)
            for output, shape, actual in zip(operator.outputs, stated, results, strict=True):
                if shape is None:
                    continue
                pairs = list(zip(shape, actual, strict=False))
                if len(shape) != len(actual) or any(isinstance(a, int) and a != b for a, b in pairs):
                    of = ", ".join("unknown" if s is None else format_shape(s) for s in known)
                    raise BrokenError(
                        f"{call.label}: the shape rule says {output.argument} is {format_shape(shape)} for {of}, the "
                        f"reference makes {format_shape([*actual])}"
                    )
    return "the shape rule says what the reference makes"


def _less_known(shapes: Sequence[Shape | None]) -> Iterator[list[Shape | None]]:
    """Yield the shapes as models know them: dimensions without a number, with names, and inputs of unknown rank."""
    yield [None if shape is None else [None] * len(shape) for shape in shapes]
    yield [None if shape is None else [f"d{dim}" for dim in shape] for shape in shapes]
    for index in range(len(shapes)):
        yield [None if i == index else shape for i, shape in enumerate(shapes)]


def _check_reference(kit: OperatorKit, overload: Overload) -> str:
    """Check that the reference and the bound can prove anything: types, shapes, and a bound that is no free pass."""
    proves = [False] * len(kit.operator.outputs)
    for call in overload.calls:
        results, bounds = list(kit.reference(call)), list(kit.bound(call, ROUNDED))
        for index, (result, bound) in enumerate(zip_longest(results, bounds)):
            if index >= len(proves) or result is None:
                raise BrokenError(f"{call.label}: it must have {len(proves)} results and bounds, one for each output")
            output = kit.operator.outputs[index].argument
            array = np.asarray(result)
            if call.output_type(index).is_floating and array.dtype != np.float64:
                raise BrokenError(f"{call.label}: the reference must return {output} in float64, got {array.dtype}")
            if bound is None:
                proves[index] = True
                continue
            error = np.asarray(bound.error, np.float64)
            if (error < 0).any():
                raise BrokenError(f"{call.label}: the bound of {output} must be 0 or more, got {np.nanmin(error):.3g}")
            with np.errstate(all="ignore"):
                proves[index] |= bool((error < np.abs(array)).any())
    for parameter, does in zip(kit.operator.outputs, proves, strict=True):
        if not does:
            raise BrokenError(f"the bound of {parameter.argument} is never less than its value, so it proves nothing")
    return "results in float64, each with a bound"


def _check_cpp(kit: OperatorKit, name: str) -> Promise | str:
    """Compare what the library says of the operator with the description in Python; a difference would be silent."""
    assert kit.library is not None
    operator = kit.operator
    try:
        path = kit.library()
    except Exception as error:
        return Promise("description in C++", name, Outcome.UNTESTED, str(error))
    if library.is_own(path):
        described = library.describe(path, "mylinear_describe")["operators"]
    else:
        try:
            described = library.describe(path, "mylinear_operators")
        except AttributeError:
            note = "the library does not say what it has, so nothing compares it with the description"
            return Promise("description in C++", name, Outcome.NOT_MADE, note)
    found = [d for d in described if (d["domain"], d["name"]) == operator.key[:2] and _serves(d, operator)]
    if not found:
        raise BrokenError(f"{path} has no {operator.op_type} of version {operator.since_version}")
    for one in found:
        newest = max(other.since_version for other in _versions(operator) if _serves(one, other))
        if operator.since_version == newest:
            _check_same(one, operator)
        else:
            _check_superset(one, operator)
    return "the same inputs, outputs, attributes and types as in Python"


def _versions(operator: Operator) -> list[Operator]:
    """Return the registered operators of a name."""
    return [operator, *(kit.operator for kit in registry.kits() if kit.operator.op_type == operator.op_type)]


def _serves(described: Mapping[str, Any], operator: Operator) -> bool:
    """Whether a kernel runs nodes of an operator's version."""
    since = described["since_version"]
    return bool(since <= operator.since_version <= described.get("end_version", since))


def _check_same(described: Mapping[str, Any], operator: Operator) -> None:
    """Check that a kernel says the same as the description of the newest version that it serves."""
    expected: dict[str, Any] = {
        "types": [{"name": v.name, "types": list(v.dtypes)} for v in operator.variables],
        "inputs": [(p.name, p.type.name, p.is_optional) for p in operator.inputs],
        "outputs": [(p.name, p.type.name, p.is_optional) for p in operator.outputs],
        "attributes": [(a.name, a.kind, a.is_required) for a in operator.attributes],
    }
    got = {
        "types": described["types"],
        "inputs": [(p["name"], p["type"], p["optional"]) for p in described["inputs"]],
        "outputs": [(p["name"], p["type"], p["optional"]) for p in described["outputs"]],
        "attributes": [(a["name"], a["kind"], a["required"]) for a in described["attributes"]],
    }
    for what, wanted in expected.items():
        if got[what] != wanted:
            raise BrokenError(f"C++ has the {what} {got[what]}, Python {wanted}")
    allowed = [list(bound.values()) for bound in operator.overloads()]
    overloads = described.get("overloads") or allowed
    is_partial = "CPU" not in described.get("provider", "CPU")  # a device may lack some
    if overloads != allowed and not (is_partial and all(overload in allowed for overload in overloads)):
        raise BrokenError(f"C++ has the combinations of types {overloads}, Python {allowed}")
    for stated, attribute in zip(described["attributes"], operator.attributes, strict=True):
        default = stated.get("default")
        if default is not None and attribute.default is not None and not _is_equal(default, attribute.default):
            raise BrokenError(f"the default of {attribute.name} is {default} in C++, {attribute.default} in Python")


def _check_superset(described: Mapping[str, Any], operator: Operator) -> None:
    """Check that a kernel of a newer version takes every call of an older one."""
    for what, formal in (("inputs", operator.inputs), ("outputs", operator.outputs)):
        got = [(p["name"], p["optional"]) for p in described[what]]
        wanted = [(p.name, p.is_optional) for p in formal]
        if got[: len(wanted)] != wanted or not all(is_optional for _, is_optional in got[len(wanted) :]):
            raise BrokenError(f"C++ has the {what} {got}, Python {wanted}")
    known = {a["name"]: (a["kind"], a["required"]) for a in described["attributes"]}
    own = {a.name: (a.kind, a.is_required) for a in operator.attributes}
    if own.items() - known.items() or any(required for name, (_, required) in known.items() if name not in own):
        raise BrokenError(f"C++ has the attributes {known}, Python {own}")
    variables = [variable["name"] for variable in described["types"]]
    overloads = described.get("overloads") or [list(o) for o in product(*(v["types"] for v in described["types"]))]
    for bound in operator.overloads():
        by_name = {p.name: bound[p.type] for p in (*operator.inputs, *operator.outputs)}
        of_variable = {p["type"]: by_name[p["name"]] for p in (*described["inputs"], *described["outputs"])}
        if [of_variable.get(name) for name in variables] not in overloads:
            raise BrokenError(f"C++ has no kernel for {', '.join(bound.values())}, of version {operator.since_version}")


def _is_equal(default: Any, other: Any) -> bool:
    if isinstance(default, float) or isinstance(other, float):
        return bool(np.float32(default) == np.float32(other))
    return bool(default == other)
