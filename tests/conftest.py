"""What every test shares: one thread of torch for each of several workers, and torch's table of translations.

The table is made once for all exports of a run, in place of once for each (0.8 s of 1.3).
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core; torch reads this when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_TABLE = "torch.onnx._internal.exporter._registration"


@pytest.fixture(scope="session", autouse=True)
def one_table_of_translations() -> Iterator[None]:
    """Let each export of the same operators have a copy of one table; do nothing where this torch has none."""
    try:
        found = importlib.util.find_spec(_TABLE)
    except ModuleNotFoundError:
        found = None
    if found is None:
        yield
        return
    registry: Any = getattr(importlib.import_module(_TABLE), "ONNXRegistry", None)
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
