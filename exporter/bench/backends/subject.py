"""Find the operator that is measured, by the `OperatorKit` that names a `BenchKit`."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from exporter.torch_ops.workloads.bench import BenchKit
from ort_ops.opdef import registry
from ort_ops.opdef.operator import ContractError


@cache
def subject() -> BenchKit:
    """Return the kit of the first registered operator that has one. Raises: ContractError if none has."""
    for kit in registry.kits():
        if kit.bench:
            module, _, attribute = kit.bench.partition(":")
            found = getattr(import_module(module), attribute)
            assert isinstance(found, BenchKit), f"{kit.bench} must be a BenchKit"
            return found
    raise ContractError("no registered operator can be measured; name a BenchKit in OperatorKit.bench")
