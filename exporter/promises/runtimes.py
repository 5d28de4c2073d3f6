"""Promises beyond one kernel: several runtimes compute the same, and operators of other packages run beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import compose

from exporter.promises.result import Outcome, Promise
from exporter.promises.subject import BrokenError, Overload, Subject, attempt, feed_of, in_words, model_of
from exporter.verification.backends.session import quiet_options
from exporter.verification.nodes.drawn import dtype_of
from ort_ops.console.counts import counted
from ort_ops.files.atomic import temporary_folder
from ort_ops.models.runtimes import run_in
from ort_ops.numerics.bound import ROUNDED
from ort_ops.numerics.compare import compare_output, failed, worst_of
from ort_ops.numerics.faults import WrongCount
from ort_ops.opdef import registry
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.session import InferenceSession

Array = NDArray[Any]
Run = Callable[[onnx.ModelProto, Call], Sequence[Array]]
_CPU = ["CPUExecutionProvider"]


def runtime_promises(subject: Subject, pythons: Sequence[str] = ()) -> Iterator[Promise]:
    """Try other runtimes than `ort_ops` sessions, each without this project where it can be.

    Args:
        pythons: that have an onnxruntime of their own.
    """
    plain = f"onnxruntime {onnxruntime.__version__} alone"
    has_body, library = subject.kit.operator.make_body is not None, _library(subject.kit)
    for overload in subject.overloads:
        # Plain onnxruntime takes no bfloat16 arrays from Python, nor does onnx's evaluator in every operator.
        if any(element_type.name == "bfloat16" for element_type in overload.types.values()):
            continue
        if has_body:
            yield _runtime(subject.kit, f"{plain}, body, {overload.name}", overload, _run_body)
            yield _runtime(subject.kit, f"onnx's evaluator, body, {overload.name}", overload, _run_evaluator)
        if library:
            run = _run_library(library)
            yield _runtime(subject.kit, f"{plain}, library, {overload.name}", overload, run, with_function=False)
        for python in pythons:
            first = Overload(overload.types, overload.calls[:2])
            for path in [*([""] if has_body else []), *([library] if library else [])]:
                name = f"{python}, {'library' if path else 'body'}, {overload.name}"
                yield _runtime(subject.kit, name, first, _run_elsewhere(python, path), with_function=not path)


def _library(kit: OperatorKit) -> str:
    try:
        return kit.library() if kit.library is not None else ""
    except Exception:  # the kernel's own line says so
        return ""


def _runtime(kit: OperatorKit, name: str, overload: Overload, run: Run, *, with_function: bool = True) -> Promise:
    def compare_all() -> Promise | str:
        worst = []
        for call in overload.calls:
            try:
                results = run(model_of(call, with_function=with_function), call)
            except BrokenError:
                raise
            except Exception as error:
                if run is _run_evaluator:  # it does not know every use of every operator; onnxruntime does
                    return Promise("runtime", name, Outcome.NOT_MADE, f"{call.label}: {in_words(error)}")
                raise BrokenError(f"{call.label}: {in_words(error)}") from error
            worst.append(_compared(kit, call, results))
        return f"{counted(len(worst), 'call')}, largest error {max(worst):.3f} of its bound"

    return attempt("runtime", name, compare_all)


def _compared(kit: OperatorKit, call: Call, results: Sequence[Array]) -> float:
    """Compare the outputs that a call has; return the largest error in units of its bound."""
    wanted = [i for i, has in enumerate(call.has_output) if has]
    exact, bounds = kit.reference(call), kit.bound(call, ROUNDED)
    found = (
        [failed(WrongCount(len(results), len(wanted)))]
        if len(results) != len(wanted)
        else [
            compare_output(
                np.asarray(got), np.asarray(exact[i]), bounds[i], call.output_type(i), dtype_of(call.output_type(i))
            )
            for i, got in zip(wanted, results, strict=True)
        ]
    )
    worst = worst_of(found)
    if not worst.is_within_bound:
        raise BrokenError(f"{call.operator.op_type}: {call.label}: {worst.text}")
    return worst.max_in_bounds


def _run_body(model: onnx.ModelProto, call: Call) -> Sequence[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet_options(), providers=_CPU)
    results: Sequence[Array] = session.run(None, _needed(model, call))
    return results


def _run_evaluator(model: onnx.ModelProto, call: Call) -> Sequence[Array]:
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(model).run(None, _needed(model, call))
    return [*results]


def _run_library(path: str) -> Run:
    def run(model: onnx.ModelProto, call: Call) -> Sequence[Array]:
        options = quiet_options()
        options.register_custom_ops_library(path)
        for value in model.graph.output:  # then only the library's own shape rule states one
            value.type.tensor_type.ClearField("shape")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=_CPU)
        results: Sequence[Array] = session.run(None, _needed(model, call))
        for stated, got in zip(session.get_outputs(), results, strict=True):
            # Not known has no dimensions either, so a scalar cannot be told from it.
            pairs = zip(stated.shape, got.shape, strict=False)
            if stated.shape and (len(stated.shape) != got.ndim or any(isinstance(a, int) and a != b for a, b in pairs)):
                raise BrokenError(
                    f"{call.label}: the shape rule in C++ says {stated.name} is {list(stated.shape)}, and it is "
                    f"{list(got.shape)}"
                )
        return results

    return run


def _run_elsewhere(python: str, library: str) -> Run:
    def run(model: onnx.ModelProto, call: Call) -> Sequence[Array]:
        with temporary_folder() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            return run_in(python, path, _needed(model, call), library=library)[1]

    return run


def _needed(model: onnx.ModelProto, call: Call) -> dict[str, Array]:
    feed = feed_of(call)
    return {value.name: feed[value.name] for value in model.graph.input}


def session_promises(subject: Subject) -> Iterator[Promise]:
    """Run the operator beside each other registered one, in one session, each by its best kernel."""
    own = subject.overloads[0].usual or subject.overloads[0].calls[0]
    for other in registry.kits():
        if other.operator.key == subject.kit.operator.key:
            continue
        found = Subject(other).overloads[0]
        call = found.usual or found.calls[0]
        name = f"with {_in_words(other)}"
        yield attempt("one session", name, partial(_run_both, [(subject.kit, own), (other, call)]))


def _in_words(kit: OperatorKit) -> str:
    """Return domain and name of an operator, with its version where there are several."""
    op_type = kit.operator.op_type
    versions = [other for other in registry.kits() if other.operator.op_type == op_type]
    return op_type if len(versions) == 1 else f"{op_type} of version {kit.operator.since_version}"


def _run_both(pairs: Sequence[tuple[OperatorKit, Call]]) -> Promise | str:
    models = [compose.add_prefix(model_of(call, with_function=False), f"{i}_") for i, (_, call) in enumerate(pairs)]
    both = onnx.ModelProto()
    both.CopyFrom(models[0])
    for part in ("node", "input", "output", "initializer"):
        getattr(both.graph, part).extend(getattr(models[1].graph, part))
    newest = {entry.domain: entry.version for entry in both.opset_import}
    newest |= {e.domain: max(e.version, newest.get(e.domain, 0)) for e in models[1].opset_import}
    for kit in (kit for kit, _ in pairs):
        domain, name, version = kit.operator.key
        there = registry.find(domain, name, newest[domain])
        if there is not None and not there.operator.oldest_served <= version:
            note = f"version {newest[domain]} of domain '{domain}' has another {name} than version {version}"
            return Promise("one session", f"with {_in_words(pairs[1][0])}", Outcome.NOT_MADE, note)
    del both.opset_import[:]
    both.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in newest.items())
    feed = {f"{i}_{name}": array for i, (_, call) in enumerate(pairs) for name, array in feed_of(call).items()}
    session = InferenceSession(both.SerializeToString(), quiet_options())
    results = dict(zip([v.name for v in both.graph.output], session.run(None, feed), strict=True))
    for i, (kit, call) in enumerate(pairs):
        _compared(kit, call, [array for name, array in results.items() if name.startswith(f"{i}_")])
    kernels = session.kernels
    return ", ".join(f"{kit.operator.name} by {kernels.get(kit.operator.op_type)}" for kit, _ in pairs)
