"""Register kernels with session options, and remember there what was registered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime

from ort_ops.kernels import extensions
from ort_ops.kernels.choose import (
    AUTO,
    Kernel,
    Need,
    check_element_types,
    check_name,
    choose,
    find_kit,
    joined,
    refusals,
    types_of,
)
from ort_ops.kernels.fallbacks import warn
from ort_ops.kernels.providers import CUDA, PROVIDERS, Offer, Provider
from ort_ops.kernels.refusal import KernelError
from ort_ops.kernels.registration import Registration
from ort_ops.native import cuda
from ort_ops.native import library as native
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import Operator
from ort_ops.python_kernels import overloads, trampoline

# Under these keys the options themselves remember what was registered.
_CONFIG_KEY = "mylinear.kernels"
_PLAN_KEY = "mylinear.plan"

ElementTypes = Collection[str] | Mapping[str, Collection[str]]
"""Names of element types: of all operators, or of each by its domain and name."""

_plans: list[Plan] = []  # the entry of _PLAN_KEY is an index into it, because a value holds only 8192 bytes


@dataclass(frozen=True)
class Plan:
    """The kernels registered with session options.

    Attributes:
        kernels: the name that was asked for.
        providers: the provider of each operator, by its domain and name.
        operators: the operator that is registered under each domain and name.
        python_domains: domains of `python_kernel` operators.
    """

    kernels: str
    providers: Mapping[str, Provider]
    python_domains: frozenset[str]
    operators: Mapping[str, Operator]

    @property
    def name(self) -> str:
        """The kernels' names as one text."""
        return joined(provider.name for provider in self.providers.values())


def register(
    session_options: onnxruntime.SessionOptions,
    kernels: str = AUTO,
    *,
    element_types: ElementTypes = (),
    providers: Sequence[Any] | None = None,
    python_domains: Collection[str] | None = None,
    versions: Mapping[str, int] | None = None,
    operators: Collection[str] | None = None,
) -> Kernel:
    """Register kernels of all operators with session options, before a session is made of them.

    Args:
        session_options: changed in place.
        kernels: ``auto`` takes for each operator the best that is available; a name from `available_kernels` takes
            that one for all operators that have it.
        element_types: those of the model, such as ``("float16",)``, or those of each operator by its domain and name.
            Once a kernel is registered, onnxruntime does not fall back to the function body for types that the
            kernel lacks, so where the C++ kernel is missing, ``auto`` needs to know of float16 and bfloat16.
            `InferenceSession` finds them out by itself.
        providers: the execution providers that the session will have, as onnxruntime takes them. Where CUDA's is among
            them, ``auto`` is ``cuda`` if that is available; a CPU kernel serves otherwise, with a CpuFallbackWarning.
        python_domains: domains of `python_kernel` operators to register too. By default all that have any at this
            time, where the C++ library is there, without which none can run. Others, of operators defined later,
            need new options; a new kernel for an operator that is registered does not.
        versions: of the domains that the model imports, where an operator has several.
        operators: domain and name of each operator, ``"my.domain::NAME"``, that must be able to run. By default all
            that are registered in this process, without those that lack the kernel that was asked for by name.

    Returns: what was registered; where operators have different kernels, their names joined by commas.
    Raises: KernelError if these options have kernels already, or a kernel that was asked for is not available.
    """
    plan, offers = register_plan(
        session_options, kernels, element_types, providers, python_domains, versions, operators
    )
    dtypes = dict.fromkeys(name for offer in offers for name in offer.dtypes)
    details = joined(offer.detail for offer in offers if offer.detail)
    return Kernel(plan.name or kernels, tuple(dtypes), None, details)


def register_plan(
    session_options: onnxruntime.SessionOptions,
    kernels: str = AUTO,
    element_types: ElementTypes = (),
    providers: Sequence[Any] | None = None,
    python_domains: Collection[str] | None = None,
    versions: Mapping[str, int] | None = None,
    operators: Collection[str] | None = None,
    *,
    infer_types: Callable[[], Mapping[str, Collection[str]]] | None = None,
) -> tuple[Plan, list[Offer]]:
    """Do what `register` does, and return the plan and the offers.

    Args:
        infer_types: finds the element types that ``element_types`` lacks; called where a kernel does not serve all.

    Raises: as `register`.
    """
    check_request(session_options, kernels)
    check_name(kernels)
    before = plan_of(session_options)
    if before is not None:
        raise KernelError(
            f"these session options have the {before.name} kernel of domain {_domains_of(before)} registered already, "
            "and onnxruntime takes a domain once; make new SessionOptions"
        )
    needs = _needs(kernels, element_types, versions, operators)
    calls: list[Any] = getattr(session_options, "_calls", [])  # what options that can be pickled remember
    num_calls = len(calls)
    own = overloads.domains_to_register(python_domains, versions)
    with_cuda = cuda.asks_for_cuda(providers)
    taken = {domain[0] for domain in own}
    offers = choose(kernels, needs, with_cuda=with_cuda, python_domains=taken)
    if infer_types is not None and not all(offer.provider.serves_all(offer.kit.operator) for offer in offers):
        element_types = infer_types()
        needs = _needs(kernels, element_types, versions, operators)
        offers = choose(kernels, needs, with_cuda=with_cuda, python_domains=taken)
    if kernels != AUTO and needs and not offers:  # no operator has it; this says why the first does not
        refusal = refusals(needs[0], None, [kernels])[0]
        raise KernelError(str(refusal), [refusal])
    domains = _register_offers(session_options, offers, own, python_domains, versions)
    if kernels == AUTO:
        warn(needs, offers, with_cuda)
    chosen = {offer.kit.operator.op_type: offer for offer in offers}
    plan = Plan(
        kernels,
        {op_type: offer.provider for op_type, offer in chosen.items()},
        domains,
        {op_type: offer.kit.operator for op_type, offer in chosen.items()},
    )
    enter_plan(session_options, plan)
    request = {"kernels": kernels, "element_types": element_types, "providers": providers, "operators": operators}
    # One call of `register` stands for all that it did.
    calls[num_calls:] = [("", (), {**request, "python_domains": python_domains, "versions": versions})]
    return plan, offers


def check_request(session_options: object, kernels: object) -> None:
    """Check the types of options and kernel name. Raises: TypeError."""
    if not isinstance(session_options, onnxruntime.SessionOptions):
        rule = "onnxruntime.SessionOptions"
        if isinstance(session_options, onnxruntime.InferenceSession):
            rule += ", before a session is made of them"
        raise TypeError(f"the session options must be {rule}, got {type(session_options).__name__}")
    if not isinstance(kernels, str):
        raise TypeError(f"kernels must be one name, such as 'auto' or 'cpp', got {kernels!r}")


def enter_plan(session_options: onnxruntime.SessionOptions, plan: Plan) -> None:
    """Let options remember what was registered with them."""
    if plan not in _plans:
        _plans.append(plan)
    session_options.add_session_config_entry(_CONFIG_KEY, plan.name or plan.kernels)
    session_options.add_session_config_entry(_PLAN_KEY, str(_plans.index(plan)))


def plan_of(session_options: onnxruntime.SessionOptions) -> Plan | None:
    """Return the plan that `register` put into the options, or None."""
    try:
        index: str = session_options.get_session_config_entry(_PLAN_KEY)
    except RuntimeError:  # raised by onnxruntime for a missing entry
        return None
    return _plans[int(index)]


def _needs(
    kernels: str, element_types: ElementTypes, versions: Mapping[str, int] | None, operators: Collection[str] | None
) -> list[Need]:
    """Return the operators to register. Raises: KernelError for unknown operators or element types."""
    stated = element_types.values() if isinstance(element_types, Mapping) else [element_types]
    check_element_types(name for names in stated for name in names)
    if operators is not None:
        kits = [
            _kit_for(op_type, version, kernels) or find_kit(op_type, version)
            for op_type in operators
            for version in [_version(versions, op_type)]
        ]
    else:
        names = dict.fromkeys(kit.operator.op_type for kit in registry.kits())
        found = [_kit_for(op_type, _version(versions, op_type), kernels) for op_type in names]
        kits = [kit for kit in found if kit is not None]
    is_required = operators is not None
    return [Need(kit, types_of(element_types, kit.operator.op_type), is_required) for kit in kits]


def _kit_for(op_type: str, version: int | None, kernels: str) -> OperatorKit | None:
    """Return the kit of an operator: of a version of its domain, or where that is not known, the most useful one.

    That is the newest that has the best kernel which any of them has: a newer version takes no kernel away.
    """
    domain, _, name = op_type.rpartition("::")
    newest = registry.find(domain, name, version)
    found = [kit for kit in registry.kits() if kit.operator.op_type == op_type]
    if version is not None or len(found) < 2:
        return newest
    found.sort(key=lambda kit: -kit.operator.since_version)
    for provider in PROVIDERS:
        if kernels == provider.name or (kernels == AUTO and provider is not CUDA):
            for kit in found:
                offer = provider.offer(kit)
                if offer is not None and offer.is_available:
                    return kit
    return newest


def _version(versions: Mapping[str, int] | None, op_type: str) -> int | None:
    return (versions or {}).get(op_type.rpartition("::")[0])


def _register_offers(
    options: onnxruntime.SessionOptions,
    offers: Sequence[Offer],
    own: Sequence[trampoline.Domain],
    python_domains: Collection[str] | None,
    versions: Mapping[str, int] | None,
) -> frozenset[str]:
    """Register the chosen kernels; return the domains of Python kernels. Raises: KernelError."""
    registration = Registration()
    for offer in offers:
        offer.provider.add(offer, registration)
    path = _own_library(registration, own, python_domains)
    names = frozenset(domain[0] for domain in own) if path else frozenset()
    for key, value in registration.entries.items():
        options.add_session_config_entry(key, value)
    if path:
        kernels = registration.python_kernels
        domains = overloads.domains_to_register(names, versions, kernels) if kernels else own
        with_cpp_kernels = path in registration.libraries
        if with_cpp_kernels or domains:
            trampoline.register(options, path, domains, with_cpp_kernels=with_cpp_kernels)
    for library in registration.libraries:
        if library != path:
            _register_library(options, library, offers)
    if registration.has_extensions:
        options.register_custom_ops_library(extensions.library_path())
    return names


def _own_library(
    registration: Registration, own: Sequence[trampoline.Domain], python_domains: Collection[str] | None
) -> str:
    """Return the path of this project's library where it is needed; empty where it is not.

    Raises: KernelError if domains of Python kernels were asked for and the library is not available.
    """
    missing = sorted(set(python_domains or ()) - {domain[0] for domain in own})
    if missing:
        known = ", ".join(domain[0] for domain in overloads.domains_to_register()) or "none"
        raise KernelError(f"python_domains must be among those of python_kernel ({known}), got {', '.join(missing)}")
    path = next((library for library in registration.libraries if native.is_own(library)), "")
    if path or not (own or registration.python_kernels):
        return path
    try:
        return native.library_path()
    except native.NativeLibraryError as error:
        if python_domains is None:
            return ""
        raise KernelError(f"Python kernels of your own need the C++ library: {error}") from error


def _register_library(options: onnxruntime.SessionOptions, path: str, offers: Sequence[Offer]) -> None:
    """Register the library of another package. Raises: KernelError that names its operators."""
    try:
        options.register_custom_ops_library(path)
    except Exception as error:  # onnxruntime's own errors are of many types
        names = " and ".join(offer.kit.operator.op_type for offer in offers if offer.host == path)
        raise KernelError(
            f"the library of {names} cannot be registered ('{path}'): {error}; install its package again, or use "
            "kernels='python' or 'body'"
        ) from error


def _domains_of(plan: Plan) -> str:
    return " and ".join(dict.fromkeys(f"'{op_type.rpartition('::')[0]}'" for op_type in plan.providers)) or "none"
