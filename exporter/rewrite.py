"""Former place of `ort_ops.rewrite`, which needs no torch; imports from here keep working."""

from ort_ops.rewrite import Rewrite, adopt, lower

__all__ = ["Rewrite", "adopt", "lower"]
