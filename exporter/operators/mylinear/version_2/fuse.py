"""`fuse_activations`: let the linear layers of a model apply the activations that follow them, in place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from exporter.operators.mylinear.module import MyLinear
from exporter.operators.mylinear.version_2.known_activations import activation_of
from exporter.operators.mylinear.version_2.plain_calls import index_depths, plain_calls
from exporter.torch_ops.arguments import dtype_name
from exporter.torch_ops.swap import is_parametrized_of, rebased
from ort_ops.operators.mylinear.contract import ELEMENT_TYPES, NAME
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, NONE

_DTYPES = frozenset(getattr(torch, element_type.name) for element_type in ELEMENT_TYPES)
_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
_FAST_PATH = (
    "in eval mode nn.TransformerEncoderLayer may go around both; call torch.backends.mha.set_fastpath_enabled(False) "
    "first"
)


@dataclass(frozen=True)
class FuseReport:
    """What `fuse_activations` did. A module with several names appears under each.

    Attributes:
        fused: the activation that a linear layer now applies, by the layer's name as in ``named_modules``.
        left: name and reason for each activation that stays where it is.
    """

    fused: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.fused)} fused, {len(self.left)} left"]
        lines += [f"fused {name}: {activation}" for name, activation in self.fused.items()]
        lines += [f"left {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def fuse_activations(model: nn.Module) -> FuseReport:
    """Let each linear layer apply the activation that follows it, in place, where that is certain to be the same.

    A ``nn.Linear`` becomes `MyLinear` as by `exporter.swap_linear`, and takes the activation; ``nn.Identity``, or a
    function that does nothing, stands in its place. Parameters, their names and references to them stay what they are,
    and so does training: values and gradients are the same, bit for bit. Known are ``nn.Sequential``,
    ``nn.TransformerDecoderLayer``, ``nn.TransformerEncoderLayer`` without its fast path, and modules whose methods
    apply one attribute to the result of another and to nothing else, which their source tells. Code outside of a
    module that calls its layer alone would get the activation too.

    Args:
        model: of any kind.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2), nn.ELU())
    >>> print(fuse_activations(model))
    1 fused, 1 left
    fused 0: gelu
    left 3: nn.ELU is no activation of MYLINEAR, which has relu, gelu, gelu_tanh, silu, sigmoid and tanh
    >>> model[:2]
    Sequential(
      (0): MyLinear(in_features=2, out_features=3, bias=True, activation=gelu)
      (1): Identity()
    )
    """
    slots = _Slots(model)
    fused: dict[str, str] = {}
    left: dict[str, str] = {}
    for holder in slots.holders:
        pairs = list(_pairs(holder))
        for pair in pairs:
            activation = activation_of(pair.activation)
            reason = _why_left(pair, activation, slots)
            if activation is not None and reason is None:
                _fuse(pair, activation, slots)
                fused.update(dict.fromkeys(slots.names(holder, pair.linear_key), activation))
            else:
                left.update(dict.fromkeys(slots.names(holder, pair.activation_key), reason or ""))
        if not isinstance(holder, nn.Sequential):
            for key in _unknown(holder, {pair.activation_key for pair in pairs}):
                kind = type(holder)
                reason = f"{kind.__module__}.{kind.__qualname__} may apply it to more than the result of one layer"
                left.update(dict.fromkeys(slots.names(holder, key), reason))
    return FuseReport(fused, left)


@dataclass(frozen=True)
class _Pair:
    """A linear layer, and what is applied to its result and to nothing else, as attributes of one module."""

    holder: nn.Module
    linear_key: str
    activation_key: str

    @property
    def linear(self) -> nn.Module:
        return self.holder._modules[self.linear_key]  # type: ignore[return-value]  # `_pairs` looked

    @property
    def activation(self) -> Any:
        found = self.holder._modules.get(self.activation_key)
        return vars(self.holder).get(self.activation_key) if found is None else found


class _Slots:
    """Where in a model each module is."""

    def __init__(self, model: nn.Module) -> None:
        self.holders = list(model.modules())
        self.of: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for holder in self.holders:
            for key, child in holder._modules.items():
                if child is not None:
                    self.of.setdefault(child, []).append((holder, key))
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)
        self._depths: dict[type[nn.Module], Mapping[str, int] | None] = {}

    def names(self, holder: nn.Module, key: str) -> list[str]:
        """Return the full names of an attribute."""
        return [f"{name}.{key}".lstrip(".") for name in self._names[holder]]

    def why_not_whole(self, holder: nn.Module) -> str | None:
        """Return why a ``nn.Sequential`` may not always be called as a whole; None if nothing speaks for that."""
        for parent, key in self.of.get(holder, ()):
            reason = self._why_indexed(parent, key, 1)
            if reason is None and isinstance(parent, nn.ModuleList | nn.ModuleDict):
                for above, name in self.of.get(parent, ()):
                    reason = reason or self._why_indexed(above, name, 2)
            if reason is not None:
                return reason
        return None

    def _why_indexed(self, parent: nn.Module, key: str, depth: int) -> str | None:
        kind = type(parent)
        if kind.__module__.startswith("torch.nn."):
            return None
        if kind not in self._depths:
            self._depths[kind] = index_depths(kind)
        depths = self._depths[kind]
        if depths is None:
            return f"the source of {kind.__qualname__}, which holds its nn.Sequential, cannot be read"
        if depths.get(key, 0) >= depth:
            return f"{kind.__qualname__} takes its nn.Sequential apart by an index"
        return None


def _pairs(holder: nn.Module) -> Iterator[_Pair]:
    """Yield the linear layers of a module with what follows them, if it is an activation of any kind."""
    kind = type(holder)
    if isinstance(holder, nn.Sequential) and kind.forward is nn.Sequential.forward:
        keys = list(holder._modules)
        found = list(itertools.pairwise(keys))
    elif kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        found = [("linear1", "activation")]
    elif any(_is_linear(child) for child in holder.children()):
        found = list(plain_calls(kind))
    else:
        return
    for linear_key, activation_key in found:
        pair = _Pair(holder, linear_key, activation_key)
        if _is_linear(holder._modules.get(linear_key)) and _is_activation(pair.activation):
            yield pair


def _is_linear(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear) or "Linear" in type(module).__name__


def _is_activation(value: Any) -> bool:
    is_torch_s = type(value).__module__ == nn.ReLU.__module__ and not isinstance(value, nn.MultiheadAttention)
    return is_torch_s or type(value).__module__ == "transformers.activations" or activation_of(value) is not None


def _unknown(holder: nn.Module, known: set[str]) -> list[str]:
    """Return the activations of a module that may follow its linear layers, but that nothing is known of."""
    if not any(_is_linear(child) for child in holder.children()):
        return []
    return [key for key, child in holder._modules.items() if key not in known and activation_of(child) is not None]


def _why_left(pair: _Pair, activation: str | None, slots: _Slots) -> str | None:
    """Return why a pair stays as it is; None if it can be fused."""
    holder, linear, follower = pair.holder, pair.linear, pair.activation
    kind = type(linear)
    if activation is None:
        *names, last = (name for name in ACTIVATIONS if name != NONE)
        return f"{_name_of(follower)} is no activation of {NAME}, which has {', '.join(names)} and {last}"
    if not isinstance(linear, nn.Linear):
        return f"follows {kind.__module__}.{kind.__name__}, which is no nn.Linear"
    if isinstance(linear, LazyModuleMixin):
        return "follows a layer that has no weight yet; call the model once, then fuse"
    if kind not in (nn.Linear, MyLinear) and not any(is_parametrized_of(linear, c) for c in (nn.Linear, MyLinear)):
        return f"follows {kind.__name__}, a subclass of nn.Linear that may compute something else"
    if isinstance(linear, MyLinear) and linear.activation not in (None, NONE):
        return f"follows a layer that applies {linear.activation}"
    if any("forward" in vars(m) for m in (holder, linear, follower) if isinstance(m, nn.Module)):
        return "a forward was replaced on the instance"
    if any(getattr(linear, hooks) for hooks in _HOOKS):
        return "the layer has a hook, which would get the result after the activation"
    if isinstance(follower, nn.Module) and any(getattr(follower, hooks) for hooks in ("_forward_pre_hooks", *_HOOKS)):
        return "has a hook, which would no longer be called"
    if getattr(linear, "qconfig", None) is not None:
        return "the layer is about to be quantized"
    if len(slots.of[linear]) > 1:
        where = " and ".join(name for place in slots.of[linear] for name in slots.names(*place))
        return f"the layer is used in several places: {where}"
    wrong = [p.dtype for p in linear.parameters() if p.dtype not in _DTYPES]
    if wrong:
        return f"{NAME} has no {dtype_name(wrong[0])} with an activation"
    if type(holder).__module__.startswith("torch.ao."):
        return f"{type(holder).__name__} is known to torch's quantization as a whole"
    if isinstance(holder, nn.TransformerEncoderLayer):
        may_go_around = torch.backends.mha.get_fastpath_enabled() and holder.activation_relu_or_gelu
        return _FAST_PATH if may_go_around else None
    return slots.why_not_whole(holder) if isinstance(holder, nn.Sequential) else None


def _name_of(value: Any) -> str:
    kind = type(value)
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else f"{kind.__module__}.{kind.__name__}"


def unchanged(result: Tensor) -> Tensor:
    """Stand in the place of a function that a layer applies itself."""
    return result


def _fuse(pair: _Pair, activation: str, slots: _Slots) -> None:
    linear, holder = pair.linear, pair.holder
    if not isinstance(linear, MyLinear):
        linear.__class__ = rebased(type(linear), nn.Linear, MyLinear)
    linear.activation = activation  # type: ignore[assignment]  # an attribute of `MyLinear`, not a module
    key = pair.activation_key
    if key in holder._modules and not isinstance(holder, nn.TransformerDecoderLayer):
        holder._modules[key] = nn.Identity().train(holder.training)
    else:  # a copy of nn.TransformerDecoderLayer gets relu where its attribute is a module
        holder._modules.pop(key, None)
        vars(holder)[key] = unchanged
    if isinstance(holder, nn.TransformerEncoderLayer):  # whose fast path would leave the activation out
        holder.activation_relu_or_gelu = 0
        for layers, _ in slots.of.get(holder, ()):
            for encoder, _ in slots.of.get(layers, ()):
                if isinstance(encoder, nn.TransformerEncoder):
                    encoder.use_nested_tensor = False
