"""Find what a kernel never writes: its outputs are filled beforehand, twice with other bytes, and keep them there.

A kernel that leaves an element as it is may pass a comparison, by what memory held before. A Python kernel returns
arrays of its own, so those of ``np.empty`` are filled too while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ort_ops.errors import MylinearError
from ort_ops.numerics.faults import Unwritten
from ort_ops.opdef.element_types import ELEMENT_TYPES

Array = NDArray[Any]
_FILLS = (0xFF, 0x5A)
"""The first is NaN in every floating-point type. No right value is both."""


class UnwrittenError(MylinearError, RuntimeError):
    """A kernel leaves elements of an output as they were."""

    def __init__(self, fault: Unwritten) -> None:
        super().__init__(str(fault))
        self.fault = fault


def check_written(session: Any, feed: Mapping[str, Array], results: Sequence[Array]) -> None:
    """Run again on filled outputs, on the CPU.

    Args:
        results: of a run before, for their shapes and types.

    Raises: UnwrittenError.
    """
    names = [output.name for output in session.get_outputs()]
    left = [np.ones(result.size, bool) for result in results]
    for fill in _FILLS:
        filled = _run_filled(session, feed, dict(zip(names, results, strict=True)), fill)
        if filled is None:
            return
        for mask, array in zip(left, filled, strict=True):
            mask &= (array.reshape(mask.size, array.size // max(1, mask.size)) == fill).all(axis=1)
        if not any(mask.any() for mask in left):
            return
    for name, mask in zip(names, left, strict=True):
        if mask.any():
            raise UnwrittenError(Unwritten(name, int(mask.sum()), mask.size, int(mask.argmax())))


def _run_filled(session: Any, feed: Mapping[str, Array], results: Mapping[str, Array], fill: int) -> list[Array] | None:
    """Return the bytes of each output; None where onnxruntime cannot take such arrays."""
    binding = session.io_binding()
    kept, filled = [], []
    for name, array in feed.items():
        kept.append(_ort_value(array))
        if kept[-1] is None:
            return None
        binding.bind_ortvalue_input(name, kept[-1])
    for name, result in results.items():
        filled.append(np.full(result.nbytes, fill, np.uint8))
        if not result.size:  # there is no memory to bind
            binding.bind_output(name)
            continue
        kept.append(_ort_value(filled[-1].view(result.dtype).reshape(result.shape)))
        if kept[-1] is None:
            return None
        binding.bind_ortvalue_output(name, kept[-1])
    with _filled_empty(fill):
        session.run_with_iobinding(binding)
    return filled


def _ort_value(array: Array) -> Any:
    """Return an OrtValue on the memory of an array; None for a type that has none."""
    if array.dtype.kind in "OUS":
        return None
    if array.dtype.kind != "V":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    make = getattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type", None)
    if make is None or array.dtype.name != "bfloat16":
        return None
    return make(array.view(np.uint16), ELEMENT_TYPES["bfloat16"].onnx_type)


@contextmanager
def _filled_empty(fill: int) -> Iterator[None]:
    """Let ``np.empty`` and ``np.empty_like`` return filled arrays."""

    def filling(make: Any) -> Any:
        def filled(*args: Any, **kwargs: Any) -> Array:
            array: Array = make(*args, **kwargs)
            if array.dtype.kind != "O" and array.flags.c_contiguous and array.size:
                array.reshape(-1).view(np.uint8).fill(fill)
            return array

        return filled

    with mock.patch.multiple(np, empty=filling(np.empty), empty_like=filling(np.empty_like)):
        yield
