"""Promises of everything that computes: kernels, the function body, torch; each within the bound on every sample."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from exporter.promises.result import Outcome, Promise
from exporter.promises.subject import Overload, Subject, attempt, in_words, model_of
from exporter.verification.backends.base import Backend
from exporter.verification.backends.find import find_backends
from exporter.verification.nodes.run import NodeCall, NodeRows, run_alone
from exporter.verification.reasons import LacksOperator
from ort_ops.native import library
from ort_ops.numerics.compare import Comparison, Verdict, worst_of
from ort_ops.opdef.kit import OperatorKit

_WHAT = {"body": "body", "torch": "torch function"}


def kernel_promises(subject: Subject, compile_backend: str | None, device: str = "auto") -> Iterator[Promise]:
    """Try every kernel that this machine has, in every combination of element types, on all samples."""
    for overload in subject.overloads:
        usual = overload.usual or overload.calls[0]
        for backend in _backends(subject.kit, usual, compile_backend, device):
            name = f"{backend.name}, {overload.name}"
            what = _WHAT.get(backend.name.split()[0].split(".")[0], "kernel")
            yield attempt(what, name, partial(_try, subject.kit, backend, overload, what, name))


def _backends(kit: OperatorKit, call: object, compile_backend: str | None, device: str) -> list[Backend]:
    model = model_of(call, with_function=False)  # type: ignore[arg-type]
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
    reason = backend.reason or backend.why_not(kit, overload.types)
    if isinstance(backend.why_not(kit, overload.types), LacksOperator):
        return Promise(what, name, Outcome.NOT_MADE, str(backend.why_not(kit, overload.types)))
    if reason is None and backend.name == "cpp" and kit.library is not None:
        try:
            kit.library()
        except Exception as error:
            return Promise(what, name, Outcome.UNTESTED, str(error))
    if reason is not None:
        return Promise(what, name, Outcome.UNTESTED, str(reason))
    comparisons: list[Comparison] = []
    for call in overload.calls:
        rows = NodeRows(backend, None)
        try:
            run_alone([NodeCall(kit, call)], [rows])
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
    return f"{len(comparisons)} calls, largest error {worst.max_in_bounds:.3f} of its bound{rest}"
