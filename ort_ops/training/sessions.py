"""Open sessions of what onnxruntime's optimizer may make of a step, and see what it made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import onnxruntime
from packaging.version import Version

from ort_ops.files.atomic import temporary_folder
from ort_ops.files.inputs import first_line
from ort_ops.models.files import look_at_model
from ort_ops.session import InferenceSession
from ort_ops.training.errors import TrainingError

_SILENT = 3  # the level of errors: onnxruntime warns of the file that shows what its optimizer made
_FUSIONS = ("MatmulTransposeFusion", "MatMulScaleFusion", "GemmActivationFusion", "QuickGeluFusion", "FastGeluFusion")
"""Make operators that lack kernels for float64: the first and QuickGelu's do up to 1.23.2, Gemm's up to 1.17.3."""
_OF_THE_OPTIMIZER = ("NotImplemented", "RuntimeException")
"""onnxruntime's errors where its optimizer makes what no kernel computes, or fails; up to 1.20.1 it fails on
some graphs."""

_PATTERNS_WORK = Version("1.19")
"""Up to 1.18.1, plans of memory that onnxruntime makes in the first run give wrong numbers from the second on, in some
graphs and at every level of optimization (`tests/training_runtime/random_steps.py` has them); 1.19.2 is right."""

T = TypeVar("T")


def open_session(
    model: bytes, options: onnxruntime.SessionOptions, kernels: str, *, with_graph: bool
) -> tuple[InferenceSession, Any]:
    """Open a session; return it with the graph that its optimizer made of the model, if that is wanted, or None.

    Raises: TrainingError if onnxruntime cannot run the model.
    """

    def open_with(more: Mapping[str, Any]) -> InferenceSession:
        return InferenceSession(model, options, kernels=kernels, **more)

    try:
        with _changed(options, enable_mem_pattern=options.enable_mem_pattern and has_right_patterns()):
            if not with_graph:
                return first_that_opens(open_with, options), None
            with temporary_folder() as folder:
                path, level = str(folder / "optimized.onnx"), max(options.log_severity_level, _SILENT)
                with _changed(options, optimized_model_filepath=path, log_severity_level=level):
                    session = first_that_opens(open_with, options)
                return session, look_at_model(path, for_session=True).graph
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise TrainingError(
            f"onnxruntime {onnxruntime.__version__} cannot run the step: {first_line(error)}"
        ) from error


def first_that_opens(open_with: Callable[[Mapping[str, Any]], T], options: onnxruntime.SessionOptions) -> T:
    """Open a session; with less optimization where onnxruntime's own makes the model one that it cannot run.

    Args:
        open_with: takes further arguments of ``onnxruntime.InferenceSession``.
        options: that it opens with.

    Raises: what ``open_with`` raises in the end.
    """
    for more in ({}, {"disabled_optimizers": [*_FUSIONS]}):
        try:
            return open_with(more)
        except Exception as error:
            if type(error).__name__ not in _OF_THE_OPTIMIZER:
                raise
    levels = onnxruntime.GraphOptimizationLevel
    level = options.graph_optimization_level
    lower = level if level == levels.ORT_DISABLE_ALL else levels.ORT_ENABLE_BASIC
    with _changed(options, graph_optimization_level=lower):
        return open_with({})


def has_right_patterns() -> bool:
    """Whether this onnxruntime may plan memory by its first run."""
    return Version(onnxruntime.__version__) >= _PATTERNS_WORK


@contextmanager
def _changed(options: onnxruntime.SessionOptions, **values: Any) -> Iterator[None]:
    """Change options while sessions are opened with them."""
    before = {name: getattr(options, name) for name in values}
    try:
        for name, value in values.items():
            setattr(options, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(options, name, value)


def is_of_onnxruntime(error: Exception, has_python_kernels: bool) -> bool:
    """Whether an error of a run is onnxruntime's own, which may be a plain RuntimeError, and not that of a kernel."""
    is_plain = type(error) is RuntimeError and not has_python_kernels
    return is_plain or type(error).__module__.startswith("onnxruntime")
