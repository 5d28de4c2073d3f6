"""Find modules that multiply by a weight without a module of their own for it, by reading their bytecode."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

_LINEAR = {torch.nn.functional.linear: "torch.nn.functional.linear", torch.addmm: "torch.addmm"}
_IGNORED = ("CACHE", "EXTENDED_ARG", "PRECALL", "PUSH_NULL")


def linear_calls(cls: type[nn.Module]) -> tuple[str, ...]:
    """Return torch's linear functions that the methods of a class name, inherited methods included.

    Only functions that a method reaches by a global name are seen, such as ``F.linear``: not ``x @ self.weight``, and
    not the calls of another function.

    >>> linear_calls(nn.Linear), linear_calls(nn.ReLU)
    (('torch.nn.functional.linear',), ())
    """
    found: list[str] = []
    for base in cls.__mro__:
        if base is nn.Module:
            break
        for member in vars(base).values():
            function = inspect.unwrap(member) if callable(member) else None
            if isinstance(function, FunctionType):
                found += [_LINEAR[called] for called in _named(function.__code__, function.__globals__)]
    return tuple(dict.fromkeys(found))


def _named(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """Yield the functions of `_LINEAR` that a function names, directly or as attributes of modules."""
    current: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in _IGNORED:
            continue
        if instruction.opname == "LOAD_GLOBAL":
            current = names.get(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(current, ModuleType):
            current = getattr(current, instruction.argval, None)
        else:
            current = None
        if callable(current) and any(current is called for called in _LINEAR):
            yield current
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named(constant, names)
