"""Promises of everything that computes: kernels, the function body, torch; each within the bound on every sample."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from exporter.promises.result import Outcome, Promise
from exporter.promises.subject import Overload, Subject, attempt, in_words, model_of
from exporter.verification.backends.base import Backend
from exporter.verification.backends.find import find_backends
from exporter.verification.backends.session import SessionBackend
from exporter.verification.nodes.run import NodeCall, NodeRows, run_alone
from exporter.verification.reasons import LacksOperator
from ort_ops.console.counts import counted
from ort_ops.kernels.choose import available_kernels
from ort_ops.native import cuda, library
from ort_ops.numerics.compare import Comparison, Verdict, worst_of
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit

_WHAT = {"body": "body", "torch": "torch function"}


def kernel_promises(subject: Subject, compile_backend: str | None, device: str = "auto") -> Iterator[Promise]:
    """Try every kernel that this machine has, in every combination of element types, on all samples."""
    for overload in subject.overloads:
        usual = overload.usual or overload.calls[0]
        for backend in _backends(subject.kit, usual, compile_backend, device):
            name = f"{backend.name}, {overload.name}"
            what = _WHAT.get(_kind(backend), "kernel")
            yield attempt(what, name, partial(_try, subject.kit, backend, overload, what, name))
    if subject.kit.cuda_library is not None and (reason := _no_gpu(device)):
        yield Promise("kernel", "cuda", Outcome.NOT_RUN, f"no GPU: {_with_state(reason, subject.kit)}")


def library_promises(subject: Subject, name: str) -> Iterator[Promise]:
    """Try the kernels of the kit's library alone, in every combination of element types, on all samples."""
    kernel = next(kernel for kernel in available_kernels(subject.kit.operator.op_type) if kernel.name == "cpp")
    for overload in subject.overloads:
        backend = SessionBackend("", kernel, [subject.kit])
        subject_name = f"{name}, {overload.name}"
        yield attempt("kernel", subject_name, partial(_compare, subject.kit, backend, overload, "kernel", subject_name))


def _no_gpu(device: str) -> str:
    """Return why CUDA kernels are not tried here; empty if they are."""
    if device == "cpu":
        return "the device is the CPU"
    return "" if cuda.PROVIDER in onnxruntime.get_available_providers() else cuda.no_provider()


def _with_state(reason: str, kit: OperatorKit) -> str:
    """Add to a reason whether the library with the CUDA kernel is built."""
    assert kit.cuda_library is not None
    if _is_of_this_project(kit):
        return reason
    try:
        kit.cuda_library()
    except Exception as error:
        return f"{reason}; {error}"
    return f"{reason}; the library is built"


def _kind(backend: Backend) -> str:
    """Return ``torch``, ``cpp``, ``python``, ``body`` or ``cuda``, without the variant."""
    kind: str = re.split(r"[\[ .]", backend.name)[0]
    return kind


def _is_promised(kit: OperatorKit, kind: str) -> bool:
    promised = {
        "torch": bool(kit.torch),
        "cpp": kit.library is not None,
        "python": kit.python_kernel is not None,
        "body": kit.operator.make_body is not None,
        "cuda": kit.cuda_library is not None or _is_of_this_project(kit),
    }
    return promised[kind]


def _backends(kit: OperatorKit, call: Call, compile_backend: str | None, device: str) -> list[Backend]:
    model = model_of(call, with_function=False)
    found = find_backends(model, "", None, compile_backend, device)
    found = [backend for backend in found if not backend.is_definition]
    if _is_of_this_project(kit):
        return found
    # Only this project's library chooses among instruction sets; another one has one kernel.
    in_cpp = [backend for backend in found if backend.name.startswith("cpp")]
    for backend in in_cpp[:1]:
        backend.name = "cpp"
    return [backend for backend in found if backend not in in_cpp[1:]]


def _is_of_this_project(kit: OperatorKit) -> bool:
    try:
        return kit.library is not None and library.is_own(kit.library())
    except Exception:  # it has no library here
        return False


def _try(kit: OperatorKit, backend: Backend, overload: Overload, what: str, name: str) -> Promise | str:
    refusal = backend.why_not(kit, overload.types)
    if not _is_promised(kit, _kind(backend)) or isinstance(refusal, LacksOperator):
        return Promise(what, name, Outcome.NOT_MADE, "nobody wrote one")
    missing = str(backend.reason or refusal or "")
    find = {"cpp": kit.library, "cuda": kit.cuda_library}.get(backend.name)
    if not missing and find is not None:
        try:
            find()
        except Exception as error:
            missing = str(error)
    if missing:
        return Promise(what, name, Outcome.UNTESTED, missing)
    return _compare(kit, backend, overload, what, name)


def _compare(kit: OperatorKit, backend: Backend, overload: Overload, what: str, name: str) -> Promise | str:
    """Run every call, and compare the results with the reference."""
    comparisons: list[Comparison] = []
    for call in overload.calls:
        rows = NodeRows(backend, None)
        try:
            run_alone([NodeCall(kit, call)], [rows])
        except NoKernel as error:
            if not (
                kit.samples_are_examples and what == "body" and call.element_type.accumulator != call.element_type.name
            ):
                return Promise(what, name, Outcome.BROKEN, f"{call.label}: {in_words(error)}")
            of = found[0] if (found := re.findall(r"implementation for (\w+)", str(error))) else "a node"
            advice = "give a body= that casts to float32 and back"
            return Promise(what, name, Outcome.NOT_RUN, f"onnxruntime has no {of} in {overload.name}; {advice}")
        except Exception as error:
            return Promise(what, name, Outcome.BROKEN, f"{call.label}: {in_words(error)}")
        ((_, comparison),) = rows.worst.values()
        if not comparison.is_within_bound:
            return Promise(what, name, Outcome.BROKEN, f"{call.label}: {comparison.text}")
        comparisons.append(comparison)
    worst = worst_of(comparisons)
    if not worst.is_proof:
        return Promise(what, name, Outcome.UNTESTED, "the bound allows any value on every sample")
    rest = "" if worst.verdict is Verdict.OK else f"; {worst.text}"
    return f"{counted(len(comparisons), 'call')}, largest error {worst.max_in_bounds:.3f} of its bound{rest}"
