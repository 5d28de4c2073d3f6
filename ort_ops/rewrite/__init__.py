"""Rewrite ONNX graphs: adopt our operators, or lower them to standard ones.

`adopt` and `lower` take files, and report in a `Rewrite` what they did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ort_ops.rewrite.report import Rewrite
    from ort_ops.rewrite.rewrite import adopt, lower

__all__ = ["Rewrite", "adopt", "lower"]


def __getattr__(name: str) -> Any:
    """Import names on demand, so that `ort_ops.rewrite.files` and the patterns of operators import little."""
    if name not in __all__:
        raise AttributeError(f"module 'ort_ops.rewrite' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("ort_ops.rewrite.rewrite"), name)
