"""Check a step of a rewrite that rounds weights, and say how much the outputs change by it. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ort_ops.analysis.wide_model import WideModel
from ort_ops.rewrite.files import ModelFile
from ort_ops.rewrite.proof.whole import compare_models, make_feeds, too_large, widened
from ort_ops.rewrite.proof.witnesses import WITNESSES
from ort_ops.rewrite.report import Check, Extent, Rewrite

Array = NDArray[Any]


def check_step(
    file: ModelFile, before: ir.Model, after: ir.Model, result: Rewrite, examples: str | Path | None = None
) -> Check:
    """Do what `check_whole` does for a further step. Where it rounded weights, also say how much an output changed.

    Args:
        file: the model as it was read, for its inputs.
        before: the model before the step.
    """
    if not result.rewritten:
        return Check(Extent.NOTHING)
    if (refusal := too_large(before)) is not None:
        return refusal
    old, new = widened(before, file.folder), widened(after, file.folder)
    feeds = make_feeds(file, examples)
    check = compare_models(old, new, result, feeds)
    if not result.rounded or check.extent is not Extent.WHOLE:
        return check
    return replace(check, change=_change_of_outputs(old, new, feeds))


def _change_of_outputs(old: WideModel, new: WideModel, feeds: Sequence[Callable[[], dict[str, Array]]]) -> float | None:
    """Return how much an output differs at most, relative to its largest number; None where that was not seen."""
    names = [output.name for output in old.proto.graph.output]
    for witness, make_feed in itertools.product(WITNESSES, feeds):
        try:
            feed = make_feed()
            expected = witness.load(old.proto)({**feed, **old.weights()})
            got = witness.load(new.proto)({**feed, **new.weights()})
        except Exception:  # the comparison before has said which witness runs which inputs
            continue
        found = [_difference(np.asarray(expected[name]), np.asarray(got[name])) for name in names]
        return max((difference for difference in found if difference is not None), default=None)
    return None


def _difference(expected: Array, got: Array) -> float | None:
    if expected.dtype.kind != "f" or expected.shape != got.shape:
        return None
    is_finite = np.isfinite(expected) & np.isfinite(got)
    largest = float(np.max(np.abs(expected[is_finite]), initial=0.0))
    return float(np.max(np.abs(expected - got)[is_finite], initial=0.0)) / largest if largest else None
