"""The torch parts of operators that `exporter.operator` defined, as attributes, for `OperatorKit.torch` to name."""

from __future__ import annotations

from typing import Any

from exporter.torch_ops.kit import TorchKit


def keep(kit: TorchKit) -> str:
    """Keep a torch part under a name of its own, and return ``module:attribute``."""
    name = kit.library_op.replace("::", "__")
    globals()[name] = kit
    return f"{__name__}:{name}"


def __getattr__(name: str) -> Any:
    raise AttributeError(f"no operator was defined here as '{name}'")
