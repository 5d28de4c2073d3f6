"""Flatten an example call of a model into tensors with names, which both of torch's exporters can take."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from exporter.errors import ExportError

DynamicShapes = Mapping[str, Mapping[int, str]]
"""``{input name: {dimension: its name}}``."""


@dataclass(frozen=True)
class Example:
    """A model, called with tensors by position.

    Attributes:
        model: for the exporter: the caller's model if it can be called with tensors by position; otherwise a wrapper
            that puts them back into the structure of the example and returns a tuple of tensors.
        call: takes the same tensors and calls the caller's model as the caller does; exports are compared with it.
        tensors: all tensors of the example call, in order, however nested they were.
        names: one for each, from the parameters of ``forward`` and the keys within.
        is_wrapped: whether ``model`` is a wrapper, whose parameters carry the prefix `PREFIX`.
    """

    model: nn.Module
    call: nn.Module
    tensors: tuple[Tensor, ...]
    names: list[str]
    is_wrapped: bool


PREFIX = "model."


class _Flat(nn.Module):
    """Call a model with tensors put back into the structure of the example, and the other arguments unchanged."""

    def __init__(self, model: nn.Module, spec: pytree.TreeSpec, leaves: Sequence[Any]) -> None:
        super().__init__()
        self.model = model
        self._spec = spec
        # Held by the wrapper, a tensor of the example would be exported as a constant.
        self._leaves = [leaf.new_empty(0) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self._leaves)
        for position, tensor in zip(self._positions, tensors, strict=True):
            leaves[position] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(flatten_outputs(self.model(*args, **kwargs)))


class _OwnCall(nn.Module):
    """Call a model with the arguments of the example, in which other tensors take the places of its own."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self._arguments = args, kwargs

    def forward(self, *tensors: Tensor) -> Any:
        args, kwargs = self._arguments
        leaves, spec = pytree.tree_flatten((args, kwargs))
        positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        if any(leaves[i] is not tensor for i, tensor in zip(positions, tensors, strict=True)):
            for position, tensor in zip(positions, tensors, strict=True):
                leaves[position] = tensor
            args, kwargs = pytree.tree_unflatten(leaves, spec)
        with _kept(tensors):
            return self.model(*args, **kwargs)


@contextmanager
def _kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Give tensors their values back if a model overwrites its inputs."""
    mutable = [tensor for tensor in tensors if not tensor.is_inference()]
    before = [(tensor, tensor._version, tensor.detach().clone()) for tensor in mutable]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, version, values in before:
                if tensor._version != version:
                    tensor.copy_(values)


def make_example(
    model: nn.Module, args: Tensor | Sequence[Any], kwargs: Mapping[str, Any] | None, *, must_wrap: bool = False
) -> Example:
    """Flatten an example call; the model is wrapped only if the call is more than tensors by position.

    Raises: ExportError for arguments that ``forward`` does not take, or whose tensors torch cannot see.
    """
    positional, keywords = _arguments(args, kwargs)
    _check_call(model, positional, keywords)
    names, leaves = _named_leaves(model, positional, keywords)
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    taken = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    distinct = distinct_names([n for n, leaf in zip(names, leaves, strict=True) if isinstance(leaf, Tensor)], taken)
    call = _OwnCall(model, positional, keywords)
    is_plain = not keywords and all(isinstance(a, Tensor) for a in positional) and not _takes_any_number(model)
    if is_plain and not must_wrap:
        return Example(model, call, tensors, distinct, False)
    spec = pytree.tree_structure((positional, keywords))
    return Example(_Flat(model, spec, leaves), call, tensors, distinct, True)


def _arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the caller gave as positional and keyword arguments. Raises: ExportError."""
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ExportError(f"kwargs must be a dict of arguments by name, got {kind_of(kwargs)}")
    if isinstance(args, Tensor):
        return (args,), dict(kwargs or {})
    if isinstance(args, np.ndarray):
        raise ExportError("args must be tensors, got a numpy.ndarray; torch.from_numpy(array) makes a tensor of it")
    is_record = isinstance(args, tuple) and hasattr(args, "_fields")
    if not isinstance(args, tuple | list) or is_record:
        hint = "; the call is export(model, args, path)"
        if isinstance(args, Mapping) or is_record or pytree.tree_leaves(args) != [args]:
            hint = "; a single argument that has a structure goes into a tuple: args=(argument,)"
        elif isinstance(args, nn.Module):
            hint = "; are model and args swapped? The call is export(model, args, path)"
        raise ExportError(f"args must be a tensor, or a tuple of the arguments of forward, got {kind_of(args)}{hint}")
    return tuple(args), dict(kwargs or {})


def kind_of(value: Any) -> str:
    """Name the class of a value, with an article: ``a list``, ``a numpy.ndarray``."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _check_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = _signature(model)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = type(model).__name__
        raise ExportError(f"the example does not fit {name}.forward{signature}: {error}") from error


def _signature(model: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def _takes_any_number(model: nn.Module) -> bool:
    """Whether ``forward`` has ``*args``, for which torch wants dimensions in a structure of their own."""
    signature = _signature(model)
    kinds = [] if signature is None else [parameter.kind for parameter in signature.parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


def _named_leaves(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Name the leaves after parameters of ``forward`` and keys: ``x`` for one alone, ``batch_ids``, ``states_0``."""
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
        return ["x"], [args[0]]
    signature = _signature(model)
    names: list[str] = []
    several = None
    for parameter in signature.parameters.values() if signature is not None else ():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            several = parameter.name
        elif several is None:
            names.append(parameter.name)
    names += [f"{several or 'x'}_{i - len(names)}" for i in range(len(names), len(args))]
    found = [
        pair for name, value in (*zip(names, args, strict=False), *kwargs.items()) for pair in _leaves(name, value)
    ]
    for name, leaf in found:
        _check_leaf(name, leaf)
    return [name for name, _ in found], [leaf for _, leaf in found]


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    try:
        paths = pytree.tree_leaves_with_path(value)
    except ValueError:  # a class that was registered without keys
        return [(f"{name}_{i}", leaf) for i, leaf in enumerate(pytree.tree_leaves(value))]
    return [("_".join([name, *(str(_key(part)) for part in path)]), leaf) for path, leaf in paths]


def _key(part: Any) -> Any:
    return getattr(part, "key", getattr(part, "idx", getattr(part, "name", str(part))))


def _check_leaf(name: str, leaf: Any) -> None:
    """Refuse a tensor that holds an input's numbers but would become a constant of the file. Raises: ExportError."""
    if isinstance(leaf, np.ndarray):
        raise ExportError(f"argument '{name}' is a numpy.ndarray; torch.from_numpy(array) makes a tensor of it")
    if not isinstance(leaf, Tensor) and _holds_tensor(leaf, set()):
        raise ExportError(
            f"argument '{name}' is {kind_of(leaf)}, in which torch sees no tensors; register the class by "
            "torch.export.register_dataclass or torch.utils._pytree.register_pytree_node, or pass a dict"
        )


def _holds_tensor(value: Any, seen: set[int]) -> bool:
    if isinstance(value, Tensor):
        return True
    if id(value) in seen or isinstance(value, type | nn.Module | str | bytes):
        return False
    seen.add(id(value))
    parts: list[Any] = [*getattr(value, "__dict__", {}).values()]
    parts += [getattr(value, slot, None) for slot in getattr(type(value), "__slots__", ())]
    if isinstance(value, Mapping):
        parts += value.values()
    elif isinstance(value, Sequence | set | frozenset):
        parts += value
    return any(_holds_tensor(part, seen) for part in parts)


def distinct_names(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """Return the names, with a number after those that are taken or repeated.

    >>> distinct_names(["x", "x", "y"], {"y"})
    ['x', 'x_1', 'y_1']
    """
    found: list[str] = []
    used = set(taken)
    for name in names:
        wanted, number = name, 1
        while wanted in used:
            wanted, number = f"{name}_{number}", number + 1
        used.add(wanted)
        found.append(wanted)
    return found


def flatten_outputs(outputs: Any) -> list[Tensor]:
    """Return the tensors of a model's outputs, however nested, in order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def is_plain_output(raw: Any) -> bool:
    """Whether a model returns a tensor, or tensors in a tuple or list, as torch's exporters can give back."""
    return isinstance(raw, Tensor) or (isinstance(raw, tuple | list) and all(isinstance(v, Tensor) for v in raw))


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
            return [list(output.shape) for output in flatten_outputs(example.call(*grown))]

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
