"""Swap modules of a model for modules that call an operator, in place, by changing their class; and swap them back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from exporter.torch_ops.arguments import dtype_name

Parents = Sequence[nn.Module]


@dataclass(frozen=True)
class SwapReport:
    """What a swap, or its undoing, did. A module with several names appears under each.

    Attributes:
        swapped: names of the modules that changed, as in ``named_modules``; the model itself is ``""``.
        skipped: name and reason for each other map of the kind that was found, those without a module of their own too.
        notes: name and remark for what was swapped, but which torch may go around.
    """

    swapped: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} swapped, {len(self.skipped)} skipped"]
        lines += [f"swapped {name or '(the model)'}" for name in self.swapped if name not in self.notes]
        lines += [f"swapped {name or '(the model)'}: {note}" for name, note in self.notes.items()]
        lines += [f"skipped {name or '(the model)'}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Swap:
    """Which modules become which, and what is to be said of the others.

    Attributes:
        operator: name of the operator that the new modules call.
        old, new: classes with the same parameters, attributes and constructor; ``new`` is a subclass of ``old``.
        old_name: of the class, for messages, such as ``nn.Linear``.
        mark: an attribute that a swapped module gets, so that a copy and a pickle of a swapped model can be restored
            too; no name of ``nn.Module``'s own.
        dtypes: of the parameters that the operator takes.
        is_like: whether a module of another class deserves a reason why it was skipped.
        reason_to_skip: (module, modules that hold it) -> why it cannot be swapped, or None.
        others: (name, module) -> name and reason of what is computed without a module of its own.
        note: (module, modules that hold it) -> a remark on a swapped module, or None.
        reason_to_keep: module of the new class -> why it cannot be one of the old again, or None.
    """

    operator: str
    old: type[nn.Module]
    new: type[nn.Module]
    old_name: str
    mark: str
    dtypes: Collection[torch.dtype]
    is_like: Callable[[nn.Module], bool]
    reason_to_skip: Callable[[nn.Module, Parents], str | None]
    others: Callable[[str, nn.Module], Mapping[str, str]]
    note: Callable[[nn.Module, Parents], str | None]
    reason_to_keep: Callable[[nn.Module], str | None] = lambda module: None


def swap_modules(model: nn.Module, swap: Swap, filter_fn: Callable[[str, Any], bool] | None = None) -> SwapReport:
    """Turn every module of the old class into one of the new, in place.

    Only the class of a module changes. Its parameters, also the tied ones, hooks, parametrizations, state_dict and
    every reference to it stay what they are; an optimizer made before goes on.

    Args:
        model: of any kind; it may be a module of the old class itself.
        filter_fn: called with a module's first name and the module; where it is false, the module is left alone.
    """
    reasons: dict[nn.Module, str | None] = {}
    swapped: list[str] = []
    skipped: dict[str, str] = {}
    notes: dict[str, str] = {}
    parents = _parents(model)
    for name, module in model.named_modules(remove_duplicate=False):
        skipped.update(swap.others(name, module))
        if not isinstance(module, swap.old) and not swap.is_like(module):
            continue
        if module not in reasons:
            reason = _reason_to_skip(swap, module, parents.get(module, []))
            if reason is None and filter_fn is not None and not filter_fn(name, module):
                reason = "left out by filter_fn"
            if reason is None:
                module.__class__ = rebased(type(module), swap.old, swap.new)
                setattr(module, swap.mark, True)
            reasons[module] = reason
        reason = reasons[module]
        if reason is not None:
            skipped[name] = reason
            continue
        swapped.append(name)
        note = swap.note(module, parents.get(module, []))
        if note is not None:
            notes[name] = note
    return SwapReport(tuple(swapped), skipped, notes)


def restore_modules(model: nn.Module, swap: Swap) -> SwapReport:
    """Undo `swap_modules`; a module that was built as one of the new class stays."""
    restored, skipped = [], {}
    done: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if module in done:
            restored.append(name)
        elif isinstance(module, swap.new) and (reason := swap.reason_to_keep(module)) is not None:
            skipped[name] = reason
        elif swap.mark not in vars(module):
            if isinstance(module, swap.new):
                skipped[name] = f"was built as a {swap.new.__name__}"
        elif type(module) is swap.new or is_parametrized_of(module, swap.new):
            module.__class__ = rebased(type(module), swap.new, swap.old)
            delattr(module, swap.mark)
            done.add(module)
            restored.append(name)
        else:
            skipped[name] = f"has become a {type(module).__name__} since"
    return SwapReport(tuple(restored), skipped)


def _reason_to_skip(swap: Swap, module: nn.Module, parents: Parents) -> str | None:
    kind = type(module).__name__
    if isinstance(module, swap.new):
        return f"is a {swap.new.__name__} already"
    if not isinstance(module, swap.old):
        return f"{type(module).__module__}.{kind} is no {swap.old_name}"
    if isinstance(module, LazyModuleMixin):
        return "has no weight yet; call the model once, then swap"
    reason = swap.reason_to_skip(module, parents)
    if reason is not None:
        return reason
    if type(module) is not swap.old and not is_parametrized_of(module, swap.old):
        return f"{kind} is a subclass of {swap.old_name}, and may compute something else"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    dtypes = [parameter.dtype for parameter in module.parameters() if parameter.dtype not in swap.dtypes]
    return f"{swap.operator} has no {dtype_name(dtypes[0])}" if dtypes else None


def is_parametrized_of(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether the module's class is the one that torch.nn.utils.parametrize makes of ``base`` for one instance."""
    return is_parametrized(module) and type(module).__bases__ == (base,)


def rebased(cls: type[nn.Module], old: type[nn.Module], new: type[nn.Module]) -> type[nn.Module]:
    """``new`` for ``old``; for a class that parametrize made of ``old``, the like of it made of ``new``."""
    if cls is old:
        return new
    # Not by assigning __bases__: a deepcopy of a parametrized module shares its class.
    namespace = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{new.__name__}", (new,), namespace)


def _parents(model: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    parents: dict[nn.Module, list[nn.Module]] = {}
    for module in model.modules():
        for child in module.children():
            parents.setdefault(child, []).append(module)
    return parents
