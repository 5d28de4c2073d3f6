"""What makes the tests quick, and changes none of their results.

Each of several workers gives torch one thread. What collection left in memory is not searched for garbage again and
again, which takes a sixth of the time. Of what torch's exporter computes anew for each of a thousand exports, three
quarters of a small model's, the tests keep what is the same.
"""

from __future__ import annotations

import copy
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core; torch reads this when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    # Objects that are frozen do not count when the next full collection is due, so it would come far too often.
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 10 * old)


@pytest.fixture(scope="session", autouse=True)
def one_table_of_translations() -> Iterator[None]:
    """Let each export of the same operators have a copy of one table; do nothing where this torch has none."""
    registry: Any = getattr(_find("torch.onnx._internal.exporter._registration"), "ONNXRegistry", None)
    make = getattr(registry, "from_torchlib", None)
    if make is None:
        yield
        return
    tables: dict[Any, Any] = {}

    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        # A table has the translations that were known when it was made.
        known = sys.modules.get("exporter.torch_ops.registration")
        operators = () if known is None else tuple(known.entries())
        key = (operators, args, tuple(sorted(kwargs.items())))
        if key not in tables:
            tables[key] = make(*args, **kwargs)
        table = copy.copy(tables[key])
        table.functions = {name: list(entries) for name, entries in table.functions.items()}
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(from_torchlib))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_list_of_composite_operators() -> Iterator[None]:
    """List the operators that torch.export may keep whole again only where new ones have been registered."""
    name = "_collect_all_valid_cia_ops"
    users = [_find(f"torch.{user}") for user in ("_export.utils", "export.exported_program", "export.decomp_utils")]
    collect: Callable[[], Any] | None = getattr(users[0], name, None)
    if collect is None:
        yield
        return
    torch: Any = sys.modules["torch"]
    lists: dict[Any, Any] = {}

    def collect_once() -> Any:
        registered = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        key = (len(registered), tuple(torch.ops._dir))
        if key not in lists:
            lists[key] = collect()
        return lists[key]

    with pytest.MonkeyPatch.context() as patch:
        for user in users:
            if getattr(user, name, None) is collect:
                patch.setattr(user, name, collect_once)
        yield


class _AnyCallable(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return callable(instance)

    def __getitem__(cls, _: object) -> _AnyCallable:
        return cls


class _Callable(metaclass=_AnyCallable):
    """`collections.abc.Callable`, whose subscripts are not computed."""


@pytest.fixture(scope="session", autouse=True)
def no_types_of_inner_functions() -> Iterator[None]:
    """Spare `torch._ops` the annotations of a function that it defines ten thousand times in an export."""
    operators = _find("torch._ops")
    with pytest.MonkeyPatch.context() as patch:
        if getattr(operators, "Callable", None) is Callable:
            patch.setattr(operators, "Callable", _Callable)
        yield


def _find(module: str) -> ModuleType | None:
    """Import a module of torch, or return None where this torch, or this installation, has none."""
    try:
        return importlib.import_module(module) if importlib.util.find_spec(module) else None
    except ModuleNotFoundError:
        return None
