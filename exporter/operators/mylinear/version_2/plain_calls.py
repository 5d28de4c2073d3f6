"""Find calls ``self.b(self.a(...))`` of a class whose inner result goes nowhere else, by reading its source."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections import Counter
from collections.abc import Iterator
from types import FunctionType

from torch import nn


def plain_calls(cls: type[nn.Module]) -> tuple[tuple[str, str], ...]:
    """Return (a, b) for each place where a class applies its attribute ``b`` to the result of ``a``, and to that alone.

    Such a place is ``self.b(self.a(x))``, or ``y = self.a(x)`` with ``y = self.b(y)`` as the next statement. Each of
    the two is called once in the class, and used for nothing else (but ``self.a.weight`` may be read). Empty for a
    class whose source cannot be read.

    >>> from torch.nn import MultiheadAttention
    >>> plain_calls(MultiheadAttention)
    ()
    """
    found: list[tuple[str, str]] = []
    uses: Counter[str] = Counter()
    for function in _methods(cls):
        tree = _parse(function)
        if tree is None:
            return ()
        uses.update(_uses(tree, _self(tree)))
        if _walks_over_children(tree, _self(tree)):
            return ()
        found += _pairs(tree, _self(tree))
    return tuple(pair for pair in found if uses[pair[0]] == uses[pair[1]] == 1)


def index_depths(cls: type[nn.Module]) -> dict[str, int] | None:
    """Return which attributes a class indexes, and how deep: 2 for ``self.a[0][1]``; None where it cannot be read."""
    found: dict[str, int] = {}
    for function in _methods(cls):
        tree = _parse(function)
        if tree is None:
            return None
        for node in ast.walk(tree):
            depth = 0
            while isinstance(node, ast.Subscript):
                node, depth = node.value, depth + 1
            name = _attribute(node, _self(tree))
            if name is not None and depth:
                found[name] = max(depth, found.get(name, 0))
    return found


def _methods(cls: type[nn.Module]) -> Iterator[FunctionType]:
    """Yield the functions that a class has of its own or inherits, but those that only make it; overridden ones too."""
    for base in cls.__mro__:
        if base is nn.Module:
            return
        for name, member in vars(base).items():
            function = inspect.unwrap(member) if callable(member) else getattr(member, "fget", None)
            if isinstance(function, FunctionType) and name not in ("__init__", "__repr__", "extra_repr"):
                yield function


def _parse(function: FunctionType) -> ast.FunctionDef | None:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def _self(tree: ast.FunctionDef) -> str:
    parameters = [*tree.args.posonlyargs, *tree.args.args]
    return parameters[0].arg if parameters else ""


def _attribute(node: ast.AST | None, me: str) -> str | None:
    """Return ``a`` of ``self.a``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == me:
        return node.attr
    return None


def _called(node: ast.AST | None, me: str) -> str | None:
    """Return ``a`` of ``self.a(...)``."""
    return _attribute(node.func, me) if isinstance(node, ast.Call) else None


def _uses(tree: ast.AST, me: str) -> Iterator[str]:
    """Yield each attribute of ``self`` wherever it stands alone, as what is called or in any other way."""
    read = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        name = _attribute(node, me)
        if name is not None and id(node) not in read:
            yield name


def _walks_over_children(tree: ast.AST, me: str) -> bool:
    """Whether a function may reach the attributes of ``self`` without naming them."""
    for node in ast.walk(tree):
        if _attribute(node, me) in ("_modules", "children", "named_children", "modules", "named_modules", "__dict__"):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "vars"):
            return True
    return False


def _pairs(tree: ast.FunctionDef, me: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        outer, argument = _called(node, me), _only_argument(node)
        inner = _called(argument, me)
        if outer is not None and inner is not None:
            yield inner, outer
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                for first, second in itertools.pairwise(block):
                    yield from _in_a_row(first, second, tree, me)


def _only_argument(node: ast.AST) -> ast.expr | None:
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        return node.args[0]
    return None


def _in_a_row(first: ast.stmt, second: ast.stmt, tree: ast.FunctionDef, me: str) -> Iterator[tuple[str, str]]:
    """Yield the pair of ``y = self.a(x)`` and a statement that reads ``y`` once, as the argument of ``self.b``."""
    name, value = _assigned(first)
    inner = _called(value, me)
    if name is None or inner is None or not isinstance(second, ast.Assign | ast.Return | ast.Expr):
        return
    reads = [node for node in ast.walk(second) if _reads(node, name)]
    is_last = isinstance(second, ast.Return) or _assigned(second)[0] == name
    if len(reads) != 1 or not (is_last or sum(_reads(node, name) for node in ast.walk(tree)) == 1):
        return
    for node in ast.walk(second):
        outer, argument = _called(node, me), _only_argument(node)
        if outer is not None and argument is reads[0]:
            yield inner, outer


def _assigned(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    return None, None


def _reads(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
