"""An example call of a model as flat tensors with names: what both of torch's exporters can take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

DynamicShapes = Mapping[str, Mapping[int, str]]
"""``{input name: {dimension: its name}}``."""


@dataclass(frozen=True)
class Example:
    """A model, called with tensors by position.

    Attributes:
        model: takes the tensors and returns what the model returns; the model itself where it can be called so.
        tensors: all tensors of the example call, in order, however nested they were.
        names: one for each, from the parameters of ``forward`` and the keys within.
        is_wrapped: whether ``model`` is a wrapper, whose parameters carry the prefix `PREFIX`.
    """

    model: nn.Module
    tensors: tuple[Tensor, ...]
    names: list[str]
    is_wrapped: bool


PREFIX = "model."


class _Flat(nn.Module):
    """Calls a model with tensors put back into the structure of the example, other arguments as they were."""

    def __init__(self, model: nn.Module, spec: pytree.TreeSpec, leaves: Sequence[Any]) -> None:
        super().__init__()
        self.model = model
        self._spec = spec
        self._leaves = list(leaves)
        self._positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self._leaves)
        for position, tensor in zip(self._positions, tensors, strict=True):
            leaves[position] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(flatten_outputs(self.model(*args, **kwargs)))


def make_example(
    model: nn.Module, args: Tensor | Sequence[Any], kwargs: Mapping[str, Any] | None, *, must_wrap: bool = False
) -> Example:
    """Flatten an example call; the model is wrapped only if the call is more than tensors by position."""
    positional = (args,) if isinstance(args, Tensor) else tuple(args)
    keywords = dict(kwargs or {})
    paths_and_leaves, spec = pytree.tree_flatten_with_path((positional, keywords))
    found = [(path, leaf) for path, leaf in paths_and_leaves if isinstance(leaf, Tensor)]
    tensors = tuple(leaf for _, leaf in found)
    names = _names(model, [path for path, _ in found])
    is_plain = not keywords and len(tensors) == len(positional) == len(paths_and_leaves)
    if is_plain and not must_wrap:
        return Example(model, tensors, names, False)
    # Held by the wrapper, a tensor of the example would be exported as a constant.
    leaves = [leaf.new_empty(0) if isinstance(leaf, Tensor) else leaf for _, leaf in paths_and_leaves]
    return Example(_Flat(model, spec, leaves), tensors, names, True)


def _names(model: nn.Module, paths: list[Any]) -> list[str]:
    """Name inputs after the parameters of ``forward`` and the keys within: ``x``, ``batch_ids``, ``states_0``."""
    if len(paths) == 1 and len(paths[0]) == 2:
        return ["x"]
    try:
        signature = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        signature = []
    by_position = [p.name for p in signature if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    names = []
    for path in paths:
        section, first, *rest = (_key(part) for part in path)
        if section == 0:
            first = by_position[first] if first < len(by_position) else f"x{first}"
        names.append("_".join(map(str, (first, *rest))))
    return names


def _key(part: Any) -> Any:
    return getattr(part, "key", getattr(part, "idx", getattr(part, "name", str(part))))


def flatten_outputs(outputs: Any) -> list[Tensor]:
    """Return the tensors of a model's outputs, however nested, in order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def grow(tensor: Tensor, dims: Mapping[int, str], more: int, only: str | None = None) -> Tensor:
    """Return the tensor with ``more`` further entries, copies of its first, along ``dims`` (of the name ``only``)."""
    for dim, name in dims.items() if more else ():
        if only is None or name == only:
            tensor = torch.cat([tensor, *[tensor.narrow(dim, 0, min(1, tensor.shape[dim]))] * more], dim)
    return tensor


def output_dims(example: Example, names: list[str], axes: DynamicShapes) -> list[list[int | str]]:
    """Find the dimensions of each output by growing the inputs one named dimension at a time."""

    def shapes(only: str | None) -> list[list[int]]:
        more = 0 if only is None else 1
        grown = [grow(t, axes[name], more, only) for t, name in zip(example.tensors, names, strict=True)]
        with torch.no_grad():
            return [list(output.shape) for output in flatten_outputs(example.model(*grown))]

    before = shapes(None)
    found: list[list[int | str]] = [list(shape) for shape in before]
    for name in dict.fromkeys(name for dims in axes.values() for name in dims.values()):
        try:
            after = shapes(name)
        except Exception:  # a model may tie two dimensions, so that one alone cannot grow
            continue
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            for dim, (a, b) in enumerate(zip(old, new, strict=False)):
                if a != b:
                    found[index][dim] = name if b == a + 1 and isinstance(found[index][dim], int) else f"y{index}_{dim}"
    return found
