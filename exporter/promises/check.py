"""`check_operator`: try every promise of one operator, and say which are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from exporter.promises.description import cpp_promise, description_promises
from exporter.promises.in_torch import torch_promises
from exporter.promises.kernels import kernel_promises, library_promises
from exporter.promises.result import OperatorCheck, Outcome, Promise
from exporter.promises.runtimes import runtime_promises, session_promises
from exporter.promises.subject import Subject
from ort_ops.errors import MylinearError
from ort_ops.kernels.choose import available_kernels
from ort_ops.kernels.refusal import KernelError
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit

OnPromise = Callable[[int, str], None]


class UnknownOperatorError(MylinearError, LookupError):
    """No registered operator, or several, have a name; the message says which there are."""


def find_kit(name: str) -> OperatorKit:
    """Return the newest kit of an operator, by ``NAME`` or ``domain::NAME``; ``NAME@1`` is that of version 1.

    Raises: UnknownOperatorError.
    """
    full, _, version = name.partition("@")
    domain, _, short = full.rpartition("::")
    kits = registry.kits()
    named = [kit for kit in kits if kit.operator.name == short and domain in ("", kit.operator.domain)]
    found = {kit.operator.op_type for kit in named}
    if version and len(found) == 1:
        versions = {str(kit.operator.since_version): kit for kit in named}
        if version not in versions:
            raise UnknownOperatorError(f"{full} has no version '{version}'; there are {', '.join(sorted(versions))}")
        return versions[version]
    if len(found) == 1:
        return max(named, key=lambda kit: kit.operator.since_version)
    if found:
        raise UnknownOperatorError(
            f"several operators are called '{name}': {', '.join(sorted(found))}; name one of them"
        )
    known = ", ".join(sorted({kit.operator.op_type for kit in kits}))
    broken = "".join(
        f"; the operators of '{entry}' could not be loaded: {why}" for entry, why in registry.failures().items()
    )
    raise UnknownOperatorError(f"no installed operator is called '{name}'; there are {known}{broken}")


def check_operator(
    operator: str | OperatorKit,
    *,
    seed: int = 0,
    compile_backend: str | None = "aot_eager",
    device: str = "auto",
    pythons: Sequence[str] = (),
    on_promise: OnPromise | None = None,
) -> OperatorCheck:
    """Try every promise of an operator on the samples of its kit.

    In a test of yours: ``exporter.check_operator("NAME").check()``. What is tried: the samples, schema, shapes,
    reference and bound; every kernel, the function body and torch's function, each within the bound; gradients; torch's
    own checks of the library op; export of the example modules by both of torch's exporters; other runtimes; and each
    other registered operator in the same session.

    Args:
        operator: ``NAME`` or ``domain::NAME`` of a registered one, or its kit, which must be registered.
        seed: of the samples.
        compile_backend, device: as for `verify`.
        pythons: paths of Pythons with another onnxruntime, in which the body and the C++ library are run too.
        on_promise: called with the number of promises tried, and the next.

    Raises: UnknownOperatorError, KernelError; never for a promise that is broken, which the result reports.
    """
    kit = _registered(operator)
    if device == "cuda" and kit.cuda_library is not None:
        reason = next(kernel.reason for kernel in available_kernels(kit.operator.op_type) if kernel.name == "cuda")
        if reason is not None:
            raise KernelError(f"{kit.operator.op_type}: the cuda kernel is not available: {reason}")
    found: list[Promise] = []
    for promise in _promises(Subject(kit, seed), compile_backend, device, pythons):
        found.append(promise)
        if on_promise is not None:
            on_promise(len(found), f"{promise.promise}, {promise.subject}")
    return OperatorCheck(kit.operator.op_type, tuple(found))


def check_library(
    operator: str | OperatorKit, library: str | Path, name: str = "cpp", *, seed: int = 0
) -> OperatorCheck:
    """Compare the kernels of any library for the CPU's provider with the reference, on the samples of the kit.

    For a build that no session is to have: with a sanitizer, or of a ``.cu`` file with CUDA emulated, as
    ``ort/cuda/on_cpu.h`` of the C++ headers says.

    Args:
        operator: as for `check_operator`.
        library: path of a shared library that registers the operator.
        name: of the kernels in the result.
        seed: of the samples.

    Raises: UnknownOperatorError; never for a kernel that is wrong, which the result reports.
    """
    kit = _registered(operator)
    changed = replace(kit, library=lambda: str(library), cuda_library=None, torch="")
    registry.remove(kit)
    registry.add(changed)
    try:
        subject = Subject(changed, seed)
        return OperatorCheck(kit.operator.op_type, (cpp_promise(subject, name), *library_promises(subject, name)))
    finally:
        registry.remove(changed)
        registry.add(kit)


def _registered(operator: str | OperatorKit) -> OperatorKit:
    kit = find_kit(operator) if isinstance(operator, str) else operator
    if registry.find(*kit.operator.key) is not kit:
        raise UnknownOperatorError(f"{kit.operator.op_type} must be registered, as by `registry.add`")
    return kit


def _promises(subject: Subject, compile_backend: str | None, device: str, pythons: Sequence[str]) -> Iterator[Promise]:
    description = list(description_promises(subject))
    yield from description
    # Without samples, reference or bound there is nothing to compare with.
    needed = [p for p in description if p.promise in ("samples", "reference")]
    if any(p.outcome is Outcome.BROKEN for p in needed if p.promise == "reference") or len(needed) < 2:
        yield Promise("everything else", "kernels, torch, export", Outcome.UNTESTED, "the description is broken")
        return
    yield from kernel_promises(subject, compile_backend, device)
    yield from torch_promises(subject)
    yield from runtime_promises(subject, pythons)
    yield from session_promises(subject)
