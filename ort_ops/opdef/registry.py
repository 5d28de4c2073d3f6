"""The registry of operators: those of this project, and those of installed packages.

A package adds its operators by the entry-point group ``mylinear.operators``; each entry names an `OperatorKit`, or a
sequence of them. `add` does the same within a process. Generic code asks here and knows no operator by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from ort_ops.exclusive import guarded, new_lock
from ort_ops.opdef.combinations import check_known
from ort_ops.opdef.operator import ContractError, DefinitionError

if TYPE_CHECKING:
    from ort_ops.opdef.kit import OperatorKit

GROUP = "mylinear.operators"
_OWN = "ort_ops.operators"

listeners: list[Callable[[OperatorKit], None]] = []
"""Called with each kit that `add` adds."""
_lock = new_lock()
_kits: dict[tuple[str, str, int], OperatorKit] = {}
_failures: dict[str, str] = {}
_is_loaded = False


def kits() -> tuple[OperatorKit, ...]:
    """Return every kit, ours first."""
    if not _is_loaded:
        _load()
    return tuple(_kits.values())


def failures() -> dict[str, str]:
    """Return why the operators of an installed package could not be loaded, by the name of its entry point."""
    kits()
    return dict(_failures)


def find(domain: str, name: str, version: int | None = None) -> OperatorKit | None:
    """Return the kit of an operator, or None if there is none.

    Args:
        version: of the domain, as a model imports it: the newest operator that is not newer. None for the newest.
    """
    found = [
        kit
        for kit in kits()
        if (kit.operator.domain, kit.operator.name) == (domain, name)
        and (version is None or kit.operator.since_version <= version)
    ]
    return max(found, key=lambda kit: kit.operator.since_version, default=None)


def oldest(
    domain: str, name: str, attributes: Mapping[str, Any], element_types: Sequence[str | None]
) -> OperatorKit | None:
    """Return the oldest operator of a name that a node needs; None where none takes the node.

    Args:
        attributes: of the node. One at the newest operator's default counts as absent.
        element_types: names of those of the inputs; None for an absent or unknown one.
    """
    found = sorted(
        (kit for kit in kits() if (kit.operator.domain, kit.operator.name) == (domain, name)),
        key=lambda kit: kit.operator.since_version,
    )
    defaults = found[-1].operator.defaults if found else {}
    given = {key: value for key, value in attributes.items() if key not in defaults or value != defaults[key]}
    for kit in found:
        try:
            kit.operator.check_attributes(given)
            kit.operator.check_values(given)
            check_known(kit.operator, element_types)
        except ContractError:
            continue
        return kit
    return None


def names() -> set[tuple[str, str]]:
    """Return domain and name of every operator."""
    return {(kit.operator.domain, kit.operator.name) for kit in kits()}


def domains() -> set[str]:
    """Return the domains of all operators."""
    return {kit.operator.domain for kit in kits()}


def newest_version(domain: str) -> int:
    """Return the newest version of a domain that any operator states; 0 for an unknown domain."""
    return max((kit.operator.since_version for kit in kits() if kit.operator.domain == domain), default=0)


def oldest_version(domain: str) -> int:
    """Return the oldest version of a domain that any operator states; 0 for an unknown domain."""
    return min((kit.operator.since_version for kit in kits() if kit.operator.domain == domain), default=0)


def add(kit: OperatorKit) -> None:
    """Add an operator for this process. Raises: DefinitionError if there is one of that domain, name and version."""
    kits()
    _add(kit)
    try:
        for listener in listeners:
            listener(kit)
    except BaseException:  # then the caller has nothing to remove
        remove(kit)
        raise


@guarded(lambda: _lock)
def remove(kit: OperatorKit) -> None:
    """Remove an operator that `add` added; do nothing if it is gone."""
    if _kits.get(kit.operator.key) is kit:
        del _kits[kit.operator.key]


@guarded(lambda: _lock)
def _add(kit: OperatorKit) -> None:
    if kit.operator.key in _kits:
        domain, name, version = kit.operator.key
        raise DefinitionError(f"{domain}::{name} of version {version} is registered already; give it another domain")
    _kits[kit.operator.key] = kit


@guarded(lambda: _lock)
def _load() -> None:
    global _is_loaded
    if _is_loaded:
        return
    try:
        for kit in import_module(_OWN).load():
            _add(kit)
        for entry in metadata.entry_points(group=GROUP):
            try:
                loaded = entry.load()
                for kit in loaded if isinstance(loaded, Iterable) else (loaded,):
                    _check(kit)
                    _add(kit)
            except Exception as error:  # another package's fault must not end models that do not need it
                _failures[entry.name] = f"'{entry.value}': {type(error).__name__}: {error}"
    except BaseException as error:
        if not isinstance(error, Exception):  # but Ctrl-C: the next call begins anew
            _kits.clear()
            _failures.clear()
        raise
    _is_loaded = True


def _check(kit: object) -> None:
    from ort_ops.opdef.kit import OperatorKit

    if not isinstance(kit, OperatorKit):
        raise ContractError(f"an entry point of {GROUP} must name an OperatorKit, got {type(kit).__name__}")
