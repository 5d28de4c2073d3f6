"""Run a model once, on real or drawn inputs, and describe its outputs. Needs ONNX and onnxruntime only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ort_ops.errors import MylinearError
from ort_ops.models.files import look_at_model
from ort_ops.models.inputs.draw import InputDrawer, NoExampleError, read_examples
from ort_ops.opdef.shapes import format_shape
from ort_ops.session import InferenceSession
from ort_ops.training.file_format import find_metadata

_SIZES: tuple[tuple[int, int | None], ...] = ((2, None), (1, None), (2, 64))
REMEDY = "give real inputs by --inputs file.npz"


class TrialRunError(MylinearError, RuntimeError):
    """The model does not run on the given inputs."""


@dataclass(frozen=True)
class OutputInfo:
    """One output of a run.

    Attributes:
        least, largest: of the finite numbers; None if there are none.
        num_not_finite: number of NaN and infinities.
    """

    name: str
    dtype: str
    shape: str
    least: float | None
    largest: float | None
    num_not_finite: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)


def trial_run(
    path: str | Path, inputs: str | Path | None = None, providers: list[str] | None = None
) -> list[OutputInfo]:
    """Run the model once and describe its outputs.

    Args:
        inputs: an .npz file with an array for each input; None for numbers that the graph can take.

    Raises: ExampleError for a file that is not the model's, NoExampleError where nothing can be drawn for an input,
        TrialRunError where onnxruntime fails.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = InferenceSession(path, options, providers)
    names = [output.name for output in session.get_outputs()]
    return [_describe(name, value) for name, value in zip(names, _run(session, path, inputs), strict=True)]


def first_feed(session: Any, path: str | Path, inputs: str | Path | None) -> dict[str, NDArray[Any]]:
    """Return the examples, or the first drawn feed that the session takes. Raises: as `trial_run`."""
    model = look_at_model(path)
    if inputs is not None:
        return read_examples(inputs, model)
    training = find_metadata(model)
    drawer = InputDrawer(model, None if training is None else training.ranges)
    reasons = []
    for size, others in _SIZES:
        try:
            feed = drawer.draw(size, np.random.default_rng(0), others=others)
        except NoExampleError as error:
            raise NoExampleError(f"'{path}': {error}; {REMEDY}") from error
        try:
            session.run(None, feed)
        except Exception as error:  # onnxruntime's own errors are of many types
            reasons.append(_first_line(error))
            continue
        return feed
    raise TrialRunError(f"'{path}' does not run on drawn inputs: {reasons[0]}; {REMEDY}")


def _run(session: Any, path: str | Path, inputs: str | Path | None) -> list[Any]:
    feed = first_feed(session, path, inputs)
    try:
        outputs: list[Any] = session.run(None, feed)
    except Exception as error:
        raise TrialRunError(f"'{path}' does not run on '{inputs}': {_first_line(error)}") from error
    return outputs


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _describe(name: str, value: Any) -> OutputInfo:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiubV":
        return OutputInfo(name, type(value).__name__, "?", None, None, 0)
    numbers = value.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    least, largest = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    return OutputInfo(
        name, value.dtype.name, format_shape(value.shape), least, largest, int(numbers.size - finite.size)
    )
