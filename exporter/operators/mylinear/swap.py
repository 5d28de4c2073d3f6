"""`swap_linear` turns every ``nn.Linear`` of a model into `MyLinear`, in place; `restore_linear` turns them back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from exporter.operators.mylinear.arguments import DTYPES
from exporter.operators.mylinear.linear_calls import linear_calls
from exporter.operators.mylinear.module import MyLinear
from exporter.torch_ops.swap import Parents, Swap, SwapReport, restore_modules, swap_modules
from ort_ops.operators.mylinear.contract import NAME

__all__ = ["SwapReport", "restore_linear", "swap_linear"]

_MARK = "_swapped_by_mylinear"
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_REMEDY = "; `mylinear adopt` makes a node of it in the exported file"

FilterFn = Callable[[str, nn.Linear], bool]


def swap_linear(model: nn.Module, filter_fn: FilterFn | None = None) -> SwapReport:
    """Turn every ``nn.Linear`` of a model into `MyLinear`, in place; see `swap_modules`.

    Args:
        model: of any kind; it may be a ``nn.Linear`` itself.
        filter_fn: called with a module's first name and the module; where it is false, the module is left alone.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LazyLinear(1))
    >>> print(swap_linear(model))
    1 swapped, 1 skipped
    swapped 0
    skipped 2: has no weight yet; call the model once, then swap
    """
    return swap_modules(model, _make_swap(), filter_fn)


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
    return restore_modules(model, _make_swap())


def _is_like(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or "Linear" in type(module).__name__


def _reason_to_skip(module: nn.Module, parents: Parents) -> str | None:
    if any(isinstance(parent, nn.MultiheadAttention) for parent in parents):
        return "nn.MultiheadAttention reads its weight and never calls it"
    return None


def _others(name: str, module: nn.Module, calls: dict[type[nn.Module], tuple[str, ...]]) -> dict[str, str]:
    """Name the weights that torch's attention multiplies by, and modules that call a linear function themselves."""
    found = {}
    if isinstance(module, nn.MultiheadAttention):
        for parameter in _ATTENTION_WEIGHTS:
            if getattr(module, parameter) is not None:
                taken = "is a parameter of nn.MultiheadAttention, which gives it to torch.nn.functional.linear"
                found[f"{name}.{parameter}".lstrip(".")] = taken + _REMEDY
    if not _is_like(module):
        kind: type[nn.Module] = type(module)
        called = calls[kind] = calls[kind] if kind in calls else linear_calls(kind)
        if called:
            found[name] = f"{kind.__module__}.{kind.__qualname__} calls {' and '.join(called)} itself{_REMEDY}"
    return found


def _note(module: nn.Module, parents: Parents) -> str | None:
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent in parents):
        return (
            "in eval mode without gradients nn.TransformerEncoderLayer goes around it; "
            "torch.backends.mha.set_fastpath_enabled(False) stops that"
        )
    return None


def _reason_to_keep(module: nn.Module) -> str | None:
    activation = getattr(module, "activation", None)
    return None if activation is None else f"applies {activation}, which nn.Linear does not"


def _make_swap() -> Swap:
    others = partial(_others, calls={})  # what a class calls is read once for a model
    return Swap(
        NAME,
        nn.Linear,
        MyLinear,
        "nn.Linear",
        _MARK,
        DTYPES,
        _is_like,
        _reason_to_skip,
        others,
        _note,
        _reason_to_keep,
    )
