"""Prove the model of a bundle: run a sample by each kernel, and compare it with exact values within their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.analysis.evaluation import Evaluation
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.bundle.load import open_sealed
from ort_ops.bundle.manifest import TEXT, BundledTensor, BundleError, Manifest, ParityRow
from ort_ops.bundle.model import PreparedModel
from ort_ops.bundle.platforms import this_platform
from ort_ops.bundle.sample import UNTESTED, compare_outputs, write_sample
from ort_ops.bundle.seal import sealed_file
from ort_ops.errors import MylinearError
from ort_ops.files.inputs import first_line
from ort_ops.inspection.trial_run import first_feed
from ort_ops.models.complete import remove_definitions
from ort_ops.models.files import load_model
from ort_ops.models.inputs.draw import model_inputs
from ort_ops.numerics.compare import Verdict
from ort_ops.session import InferenceSession
from ort_ops.session_options import SessionOptions

Array = NDArray[Any]
_NO_OPERATOR = "onnxruntime"
"""The name of the kernels of a model without registered operators."""
_REMEDY = "give real inputs by --sample FILE.npz"


def worst(rows: Sequence[ParityRow]) -> str:
    """Return the worst verdict."""
    ranks = [Verdict.OK.value, Verdict.UNDECIDED.value, Verdict.UNBOUNDED.value, UNTESTED, Verdict.VIOLATED.value]
    return max((row.verdict for row in rows), key=ranks.index, default=UNTESTED)


def prove(folder: Path, manifest: Manifest, prepared: PreparedModel, sample: str | Path | None) -> Manifest:
    """Write the sample, run it by each kernel, and return the manifest with what was found."""
    manifest = replace(manifest, files={manifest.model.path: sealed_file(folder / manifest.model.path)})
    has_library = bool(manifest.libraries_for(this_platform()))
    kinds = [True] * has_library + [False] * (not manifest.bodiless)
    if not kinds:
        raise BundleError(
            f"'{prepared.source}': {', '.join(manifest.bodiless)} runs by a library alone, and there is none for "
            f"{this_platform()} to prove it with; add this platform to --platforms"
        )
    path = folder / manifest.model.path
    feed: dict[str, Array] | None = None
    evaluation: Evaluation | None = None
    reason, rows = "", []
    for with_library in kinds:
        session = open_sealed(folder, manifest, with_library, _quiet())
        if feed is None:
            feed = first_feed(session, path, sample, source=prepared.source, remedy=_REMEDY)
            evaluation, reason = _evaluate(path, feed)
        results = _run(session, feed, prepared.source)
        if not manifest.outputs:
            manifest = _with_sample(folder, manifest, session, feed, results, evaluation)
        kernel = (session.kernel or "body") if manifest.operators else _NO_OPERATOR
        for row in compare_outputs(folder, manifest.outputs, results, kernel):
            rows.append(replace(row, detail=reason) if row.verdict == UNTESTED and reason else row)
        del session
    return replace(manifest, parity=tuple(rows))


def _quiet() -> SessionOptions:
    options = SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions too
    return options


def _evaluate(path: Path, feed: Mapping[str, Array]) -> tuple[Evaluation | None, str]:
    """Return exact outputs and their bounds, or why there are none."""
    model = load_model(path, external_data=False)
    remove_definitions(model)
    try:
        return Float64Run(model, path.parent)(feed), ""
    except MylinearError as error:
        return None, first_line(error)


def _run(session: InferenceSession, feed: Mapping[str, Array], source: Path) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    results = dict(zip(names, session.run(names, feed), strict=True))
    for name, value in results.items():
        if not isinstance(value, np.ndarray):
            raise BundleError(f"'{source}': output '{name}' must be a tensor, got {type(value).__name__}; leave it out")
    return results


def _with_sample(
    folder: Path,
    manifest: Manifest,
    session: InferenceSession,
    feed: Mapping[str, Array],
    results: Mapping[str, Array],
    evaluation: Evaluation | None,
) -> Manifest:
    model = load_model(folder / manifest.model.path, external_data=False)
    inputs = [
        BundledTensor(value.name, _dtype_name(feed[value.name]), None if value.dims is None else tuple(value.dims), "")
        for value in model_inputs(model)
        if value.name in feed
    ]
    shapes = {output.name: output.shape for output in session.get_outputs()}
    outputs = [
        BundledTensor(name, _dtype_name(array), _shape(shapes[name], array.ndim), "") for name, array in results.items()
    ]
    given, got = write_sample(folder, inputs, outputs, feed, results, evaluation)
    return replace(manifest, inputs=tuple(given), outputs=tuple(got))


def _shape(stated: Sequence[int | str | None], rank: int) -> tuple[int | str | None, ...] | None:
    """Return the shape that a session states; onnxruntime states none where it does not know the rank."""
    return tuple(stated) if len(stated) == rank else None


def _dtype_name(array: Array) -> str:
    return TEXT if array.dtype == object or array.dtype.kind == "U" else array.dtype.name
