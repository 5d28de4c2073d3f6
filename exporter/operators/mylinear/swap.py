"""`swap_linear` turns every ``nn.Linear`` of a model into `MyLinear`, in place; `restore_linear` turns them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from exporter.operators.mylinear.arguments import DTYPES
from exporter.operators.mylinear.linear_calls import linear_calls
from exporter.operators.mylinear.module import MyLinear

# On the instance, so that a copy and a pickle of a swapped model can be restored too. No name of nn.Module's own.
_MARK = "_swapped_by_mylinear"

_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_REMEDY = "; `mylinear adopt` makes a node of it in the exported file"

FilterFn = Callable[[str, nn.Linear], bool]


@dataclass(frozen=True)
class SwapReport:
    """What `swap_linear` or `restore_linear` did. A module with several names appears under each.

    Attributes:
        swapped: names of the modules that changed, as in ``named_modules``; the model itself is ``""``.
        skipped: name and reason for each other linear map that was found, those without a module of their own too.
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


def swap_linear(model: nn.Module, filter_fn: FilterFn | None = None) -> SwapReport:
    """Turn every ``nn.Linear`` of a model into `MyLinear`, in place.

    Only the class of a module changes. Its parameters, also the tied ones, hooks, parametrizations, state_dict and
    every reference to it stay what they are; an optimizer made before goes on.

    Args:
        model: of any kind; it may be a ``nn.Linear`` itself.
        filter_fn: called with a module's first name and the module; where it is false, the module is left alone.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LazyLinear(1))
    >>> print(swap_linear(model))
    1 swapped, 1 skipped
    swapped 0
    skipped 2: has no weight yet; call the model once, then swap
    """
    reasons: dict[nn.Module, str | None] = {}
    swapped, skipped, notes = [], {}, {}
    calls: dict[type[nn.Module], tuple[str, ...]] = {}
    parents = _parents(model)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.MultiheadAttention):
            for parameter in _ATTENTION_WEIGHTS:
                if getattr(module, parameter) is not None:
                    taken = "is a parameter of nn.MultiheadAttention, which gives it to torch.nn.functional.linear"
                    skipped[f"{name}.{parameter}".lstrip(".")] = taken + _REMEDY
        if not isinstance(module, nn.Linear) and "Linear" not in type(module).__name__:
            kind: type[nn.Module] = type(module)
            called = calls[kind] = calls[kind] if kind in calls else linear_calls(kind)
            if called:
                skipped[name] = f"{kind.__module__}.{kind.__qualname__} calls {' and '.join(called)} itself{_REMEDY}"
            continue
        if module not in reasons:
            reason = _reason_to_skip(module, parents.get(module, []))
            if reason is None and filter_fn is not None and isinstance(module, nn.Linear):
                reason = None if filter_fn(name, module) else "left out by filter_fn"
            if reason is None:
                module.__class__ = _rebased(type(module), nn.Linear, MyLinear)
                setattr(module, _MARK, True)
            reasons[module] = reason
        reason = reasons[module]
        if reason is not None:
            skipped[name] = reason
            continue
        swapped.append(name)
        if any(isinstance(parent, nn.TransformerEncoderLayer) for parent in parents.get(module, [])):
            notes[name] = (
                "in eval mode without gradients nn.TransformerEncoderLayer goes around it; "
                "torch.backends.mha.set_fastpath_enabled(False) stops that"
            )
    return SwapReport(tuple(swapped), skipped, notes)


def restore_linear(model: nn.Module) -> SwapReport:
    """Undo `swap_linear`: what it swapped is ``nn.Linear`` again; a `MyLinear` that was built as one stays.

    >>> model = nn.Sequential(nn.Linear(2, 3), MyLinear(3, 1))
    >>> _ = swap_linear(model)
    >>> restore_linear(model).swapped, model
    (('0',), Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): MyLinear(in_features=3, out_features=1, bias=True)
    ))
    """
    restored, skipped = [], {}
    done: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if module in done:
            restored.append(name)
        elif _MARK not in vars(module):
            if isinstance(module, MyLinear):
                skipped[name] = "was built as a MyLinear"
        elif type(module) is MyLinear or _is_parametrized(module, MyLinear):
            module.__class__ = _rebased(type(module), MyLinear, nn.Linear)
            delattr(module, _MARK)
            done.add(module)
            restored.append(name)
        else:
            skipped[name] = f"has become a {type(module).__name__} since"
    return SwapReport(tuple(restored), skipped)


def _reason_to_skip(module: nn.Module, parents: list[nn.Module]) -> str | None:
    kind = type(module).__name__
    if isinstance(module, MyLinear):
        return "is a MyLinear already"
    if not isinstance(module, nn.Linear):
        return f"{type(module).__module__}.{kind} is no nn.Linear"
    if isinstance(module, LazyModuleMixin):
        return "has no weight yet; call the model once, then swap"
    if any(isinstance(parent, nn.MultiheadAttention) for parent in parents):
        return "nn.MultiheadAttention reads its weight and never calls it"
    if type(module) is not nn.Linear and not _is_parametrized(module, nn.Linear):
        return f"{kind} is a subclass of nn.Linear, and may compute something else"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    if module.weight.dtype not in DTYPES:
        return f"MYLINEAR has no {str(module.weight.dtype).removeprefix('torch.')}"
    return None


def _is_parametrized(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether the module's class is the one that torch.nn.utils.parametrize makes of ``base`` for one instance."""
    return is_parametrized(module) and type(module).__bases__ == (base,)


def _rebased(cls: type[nn.Module], old: type[nn.Module], new: type[nn.Module]) -> type[nn.Module]:
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
