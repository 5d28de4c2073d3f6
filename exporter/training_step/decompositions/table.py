"""Collect the decompositions to trace a graph of forward and backward with, such that torch's ONNX exporter is right.

The exporter has a translation for no ``*_backward``. Of some forwards its translation makes up the outputs that only a
backward reads: ``total_weight`` of the NLL loss is then the number of the losses, 1 for a mean, which makes gradients
as many times too large as the batch has rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, decomposition_table

from exporter.training_step.decompositions.convolution import convolution_backward
from exporter.training_step.decompositions.forwards import FORWARDS, OUTSIDE_FLOAT32, outside_float32, own_forwards
from exporter.training_step.decompositions.pooling import pooling_backwards

Table = dict[Any, Callable[..., Any]]


def decompositions() -> Table:
    """Return the table for `torch.fx.experimental.proxy_tensor.make_fx`; a new dict, whose functions are shared."""
    return dict(_table())


@cache
def _table() -> Table:
    aten = torch.ops.aten
    table = {op: function for op, function in core_aten_decompositions().items() if _is_backward(op)}
    known = {**decomposition_table, **core_aten_decompositions()}
    for op, function in known.items():
        name = _name(op)
        if name in FORWARDS:
            table[op] = function
        elif name in OUTSIDE_FLOAT32:
            table[op] = outside_float32(function)
    table |= own_forwards()
    table |= pooling_backwards()
    table[aten.convolution_backward.default] = convolution_backward
    return table


def _is_backward(op: Any) -> bool:
    return isinstance(op, torch._ops.OpOverload) and "backward" in _name(op)


def _name(op: Any) -> str:
    return str(op).partition(".")[2].rpartition(".")[0]
