"""The table of decompositions for a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._decomp import core_aten_decompositions, decomposition_table

_FORWARDS = (
    *("nll_loss_forward", "nll_loss2d_forward", "native_batch_norm", "_native_batch_norm_legit", "mse_loss"),
    *("_native_batch_norm_legit_functional", "native_dropout", "_fused_rms_norm"),
    *("native_layer_norm", "native_group_norm"),
)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return what is recorded in place of each operation.

    No backward of ATen has a translation, and some forwards have one whose second output, which only a backward
    reads, is made up.
    """
    table = {op: function for op, function in core_aten_decompositions().items() if "backward" in str(op)}
    names = {f"aten.{name}.{overload}" for name in _FORWARDS for overload in ("default", "no_stats")}
    table |= {op: function for op, function in decomposition_table.items() if str(op) in names}
    return table
