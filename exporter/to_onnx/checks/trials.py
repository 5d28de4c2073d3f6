"""Make the inputs on which an export is compared: the example, other sizes, and values at the edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.to_onnx.example_call import DynamicShapes, grow

_LARGE = {torch.float16: 64.0}
"""Values whose squares a model may still form; for every other dtype, 1e4."""
TIE_BREAKERS = frozenset({"ArgMax", "ArgMin", "TopK", "Unique"})
"""Operators that choose among equal values, each runtime in its own way."""


@dataclass(frozen=True)
class Trial:
    """Inputs for one comparison.

    Attributes:
        what: the values in words; empty for those of the example.
        tensors: one for each input.
        must_run: whether the model must take them; it may refuse other sizes and values than those of the example.
    """

    what: str
    tensors: tuple[Tensor, ...]
    must_run: bool = False

    @property
    def is_edge(self) -> bool:
        """Whether the values are not the example's, but chosen because graphs go wrong at them."""
        return bool(self.what)


def trials(
    example: Sequence[Tensor], names: Sequence[str], axes: DynamicShapes, *, with_ties: bool = True
) -> Iterator[Trial]:
    """Yield the example, one entry more in every dynamic dimension, and rows of zeros, ones and large values.

    Args:
        with_ties: whether equal values, zeros and ones, are among them.
    """
    yield Trial("", tuple(example), must_run=True)
    dims = [axes[name] for name in names]
    if any(dims):
        yield Trial("", tuple(grow(tensor, d, 1) for tensor, d in zip(example, dims, strict=True)))
    if not any(tensor.is_floating_point() and tensor.numel() for tensor in example):
        return
    kinds = (0.0, 1.0, None) if with_ties else (None,)
    if len({d.get(0) for d in dims}) == 1 and dims[0].get(0) is not None:
        rows = tuple(_rows(tensor, kinds) for tensor in example)
        yield Trial("rows of 0, of 1 and of large values" if with_ties else "rows of large values", rows)
        return
    for kind in kinds:
        what = "inputs of large values" if kind is None else f"inputs of {kind:g}"
        yield Trial(what, tuple(_filled(tensor, kind) for tensor in example))


def _rows(tensor: Tensor, kinds: Sequence[float | None]) -> Tensor:
    """Return one row for each kind; for integers, the first row again."""
    first = tensor[:1]
    return torch.cat([_filled(first, kind) for kind in kinds])


def _filled(tensor: Tensor, value: float | None) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.clone()
    large = _LARGE.get(tensor.dtype, 1e4)
    return torch.full_like(tensor, large if value is None else value)
