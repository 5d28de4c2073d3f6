"""Choose the kernel for each operator of a session, by preference or by name, and say why where none can run it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ort_ops.kernels.providers import CUDA, NAMES, PROVIDERS, PYTHON_HOST, Offer, Offers
from ort_ops.kernels.refusal import KernelError, Lack, Refusal
from ort_ops.native import cuda
from ort_ops.opdef import registry
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.kit import OperatorKit

AUTO = "auto"


@dataclass(frozen=True)
class Kernel:
    """One way to compute an operator in onnxruntime.

    Attributes:
        name: what `register` takes: ``cuda`` (with ``cpp`` for what stays on the CPU), ``cpp``, ``python`` or ``body``
            (the definition inside the model).
        element_types: names of the element types that it serves.
        reason: why it is not available, with the remedy; None if it is.
        detail: more about it, such as the instruction set in use.
    """

    name: str
    element_types: tuple[str, ...]
    reason: str | None = None
    detail: str = ""

    @property
    def is_available(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class Need:
    """An operator that a session must run.

    Attributes:
        types: names of the element types that its nodes have, as far as they are known.
        is_required: whether it is an error if no kernel can run it; otherwise the operator is left out.
    """

    kit: OperatorKit
    types: frozenset[str] = frozenset()
    is_required: bool = True

    @property
    def op_type(self) -> str:
        """Domain and name of the operator."""
        return self.kit.operator.op_type


def available_kernels(operator: str | None = None) -> list[Kernel]:
    """Return every kernel that this version knows, the preferred first, with the reason where one is missing.

    >>> [kernel.name for kernel in available_kernels()]
    ['cuda', 'cpp', 'python', 'body']

    Args:
        operator: domain and name, ``"my.domain::NAME"``: only the kernels of this operator. By default a kernel is
            available if any registered operator has it, and serves the element types of all of them.

    Raises: KernelError for an operator that is not registered.
    """
    kits = registry.kits() if operator is None else [find_kit(operator)]
    offers = Offers()
    kernels = []
    for name in NAMES:
        found = [offer for kit in kits if (offer := offers.named(name, kit)) is not None]
        if not found:
            if operator is None:
                kernels.append(Kernel(name, (), "no registered operator has one"))
            continue
        usable = [offer for offer in found if offer.is_available]
        first = (usable or found)[0]
        kernels.append(Kernel(name, _served(usable or found), first.reason, first.detail))
    return kernels


def find_kit(op_type: str, version: int | None = None) -> OperatorKit:
    """Return the kit of ``domain::NAME``. Raises: KernelError if there is none."""
    domain, _, name = op_type.rpartition("::")
    kit = registry.find(domain, name, version)
    if kit is None:
        known = ", ".join(sorted(kit.operator.op_type for kit in registry.kits()))
        raise KernelError(f"the operator must be among {known}, got {op_type!r}")
    return kit


def select_kernel(kernels: str, element_types: Collection[str] = (), providers: Sequence[Any] | None = None) -> Kernel:
    """Return the kernel that ``kernels`` names, or for ``auto`` the first that serves ``element_types``.

    It does not ask whether a certain operator has the kernel; `choose` does. It looks for the CUDA kernel only if that
    is named, or CUDA's is among the execution providers.

    Raises: KernelError if it is unknown, not available, or does not serve the element types.
    """
    check_name(kernels)
    if kernels == AUTO:
        wanted = [name for name in NAMES if name != CUDA.name or cuda.asks_for_cuda(providers)]
    else:
        wanted = [kernels]
    refusals = []
    for kernel in available_kernels():
        if kernel.name not in wanted:
            continue
        missing = [name for name in element_types if name not in kernel.element_types]
        if kernel.reason is not None:
            refusals.append(Refusal("", kernel.name, Lack.NOT_AVAILABLE, kernel.reason))
        elif missing:
            served, lacking = kernel.element_types, tuple(sorted(missing))
            refusals.append(Refusal("", kernel.name, Lack.ELEMENT_TYPES, "", served, lacking))
        else:
            return kernel
    raise KernelError(str(refusals[0]), refusals)


def check_name(kernels: object) -> None:
    """Check the name of a kernel. Raises: TypeError for anything but text, KernelError for an unknown name."""
    if not isinstance(kernels, str):
        raise TypeError(f"kernels must be one name, such as 'auto' or 'cpp', got {kernels!r}")
    if kernels != AUTO and kernels not in NAMES:
        raise KernelError(f"kernels must be {AUTO}, {', '.join(NAMES[:-1])} or {NAMES[-1]}, got {kernels!r}")


def check_element_types(names: Iterable[str]) -> None:
    """Check names of element types. Raises: KernelError for an unknown one."""
    unknown = sorted(set(names) - set(ELEMENT_TYPES))
    if unknown:
        raise KernelError(f"element_types must be among {', '.join(ELEMENT_TYPES)}, got {', '.join(unknown)}")


def choose(
    kernels: str, needs: Sequence[Need], *, with_cuda: bool = False, python_domains: Collection[str] = ()
) -> list[Offer]:
    """Return an offer for each operator, in the order of ``needs``; one that is not required may have none.

    Args:
        kernels: ``auto`` takes for each operator the first kernel that can; a name takes that one for all.
        with_cuda: whether ``auto`` looks for CUDA kernels.
        python_domains: domains with `python_kernel` operators, which have no kit.

    Raises: KernelError that names the operator that no kernel can run.
    """
    offers = Offers()
    by_domain: dict[str, list[Need]] = {}
    for need in needs:
        by_domain.setdefault(need.kit.operator.domain, []).append(need)
    chosen: dict[int, Offer] = {}
    for domain, group in by_domain.items():
        host = PYTHON_HOST if domain in python_domains else ""
        chosen.update(_choose_in_domain(kernels, group, with_cuda, host, offers))
    return [chosen[id(need)] for need in needs if id(need) in chosen]


def _choose_in_domain(
    kernels: str, group: Sequence[Need], with_cuda: bool, host: str, offers: Offers
) -> dict[int, Offer]:
    """Choose for the operators of one domain, which onnxruntime takes from one host only."""
    if len(group) == 1 and not host:
        first = _usable(kernels, group[0], with_cuda, offers, 1)
        return {id(group[0]): first[0]} if first else {}
    usable = {id(need): _usable(kernels, need, with_cuda, offers) for need in group}
    hosts = [host] if host else list(dict.fromkeys(o.host for found in usable.values() for o in found if o.host))
    best: dict[int, Offer] = {}
    for one in hosts or [""]:
        allowed = {key: [o for o in found if o.host in ("", one)] for key, found in usable.items()}
        taken = {key: found[0] for key, found in allowed.items() if found}
        if len(taken) > len(best):
            best = taken
    for need in group:
        if id(need) not in best and need.is_required and usable[id(need)]:
            offer = usable[id(need)][0]
            other = next((o.kit.operator.op_type for o in best.values() if o.host), "python_kernel")
            refusal = Refusal(need.op_type, offer.name, Lack.SHARED_DOMAIN, other)
            raise KernelError(str(refusal), [refusal])
    return best


def _usable(kernels: str, need: Need, with_cuda: bool, offers: Offers, count: int = len(PROVIDERS)) -> list[Offer]:
    """Return the first offers that can run an operator. Raises: KernelError if it is required and none can."""
    found: list[Offer] = []
    for provider in PROVIDERS:
        if kernels == AUTO and provider is CUDA and not with_cuda:
            continue
        if kernels not in (AUTO, provider.name):
            continue
        offer = offers.get(provider, need.kit)
        if offer is not None and offer.is_available and not offer.provider.lacking(need.kit.operator, need.types):
            found.append(offer)
            if len(found) == count:
                break
    if not found and need.is_required:
        raise _error(kernels, need, offers)
    return found


def refusals(need: Need, offers: Offers | None = None, names: Collection[str] = NAMES) -> list[Refusal]:
    """Return why kernels do not run an operator, one for each name that does not."""
    offers = offers or Offers()
    found = []
    for name in names:
        offer = offers.named(name, need.kit)
        if offer is None:
            found.append(Refusal(need.op_type, name, Lack.NONE_WRITTEN))
        elif offer.reason is not None:
            found.append(Refusal(need.op_type, name, Lack.NOT_AVAILABLE, offer.reason))
        elif missing := offer.provider.lacking(need.kit.operator, need.types):
            found.append(Refusal(need.op_type, name, Lack.ELEMENT_TYPES, "", offer.dtypes, missing))
    return found


def _error(kernels: str, need: Need, offers: Offers) -> KernelError:
    names = [name for name in NAMES if kernels in (AUTO, name) and (kernels != AUTO or name != CUDA.name)]
    found = refusals(need, offers, names)
    if kernels != AUTO:
        return KernelError(str(found[0]), found)
    reasons = "; ".join(refusal.short for refusal in found)
    return KernelError(f"{need.op_type}: no kernel can run it here ({reasons})", found)


def _served(offers: Sequence[Offer]) -> tuple[str, ...]:
    """Return the names of the element types that any of the offers serves, in the order of `ELEMENT_TYPES`."""
    names = {name for offer in offers for name in offer.dtypes}
    return tuple(name for name in ELEMENT_TYPES if name in names)


def joined(names: Iterable[str]) -> str:
    """Return names of kernels as one text, each once: ``cpp``, or ``cpp, python``."""
    return ", ".join(dict.fromkeys(names))


def types_of(operator_types: Mapping[str, Collection[str]] | Collection[str], op_type: str) -> frozenset[str]:
    """Return the element types that were stated for an operator, or for all."""
    if isinstance(operator_types, Mapping):
        return frozenset(operator_types.get(op_type, ()))
    return frozenset(operator_types)
