"""Choose the opset of an export, among those that torch's exporters write."""

from __future__ import annotations

from exporter.errors import ExportError
from ort_ops.models.runtimes import TargetError, newest_versions

DEFAULT_OPSET = 20
"""The newest opset that onnxruntime 1.17 can load; so the default export runs wherever this project does."""
ENGINES = ("dynamo", "torchscript")
_MIN_OPSET = {"dynamo": 18, "torchscript": 9}
_MAX_OPSET = {"dynamo": 25, "torchscript": 20}


def choose_opset(engine: str, opset: int | None, target: str | None) -> int:
    """Return the requested opset, or the target's newest, or the default, after checking it."""
    if target is None:
        chosen = DEFAULT_OPSET if opset is None else opset
    else:
        newest, _ = newest_versions(target)
        if opset is not None and opset > newest:
            raise TargetError(f"opset {opset} is too new for onnxruntime {target}, which loads {newest} and older")
        chosen = min(newest, _MAX_OPSET.get(engine, newest)) if opset is None else opset
    _check_engine(engine, chosen)
    return chosen


def ir_version(opset: int) -> int:
    """The oldest IR version that has the opset, so that older runtimes load the file."""
    return next(ir for last, ir in ((18, 8), (20, 9), (22, 10), (23, 11), (24, 12), (1000, 13)) if opset <= last)


def _check_engine(engine: str, opset: int) -> None:
    if engine not in ENGINES:
        raise ExportError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}")
    low, high = _MIN_OPSET[engine], _MAX_OPSET[engine]
    if not low <= opset <= high:
        other = next(e for e in ENGINES if e != engine)
        fits = _MIN_OPSET[other] <= opset <= _MAX_OPSET[other]
        hint = f"; engine='{other}' has it" if fits else ""
        raise ExportError(f"opset must be {low} to {high} for engine '{engine}', got {opset}{hint}")
