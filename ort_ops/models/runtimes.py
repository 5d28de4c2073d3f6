"""Know which opset and IR version each onnxruntime loads, and run a model in one that is installed elsewhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from packaging.version import InvalidVersion, Version

from ort_ops.errors import MylinearError
from ort_ops.files.atomic import temporary_folder

_NEWEST = {
    Version("1.17"): (20, 9),
    Version("1.20"): (21, 10),
    Version("1.23"): (23, 11),
    Version("1.24"): (25, 13),
    Version("1.28"): (26, 13),
    Version("1.32"): (27, 14),
}
"""onnxruntime -> newest opset and IR version that it loads, each one tried; a version between two loads what the older
does."""

_RUN = """
import json, sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
if sys.argv[4]:
    options.register_custom_ops_library(sys.argv[4])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = dict(numpy.load(sys.argv[2]))
outputs = session.run(None, feed)
numpy.savez(sys.argv[3], **{str(i): output for i, output in enumerate(outputs)})
print(json.dumps(onnxruntime.__version__))
"""


class TargetError(MylinearError, ValueError):
    """A version of onnxruntime that is unknown, or that cannot run the model."""


def parse_version(version: str) -> Version:
    """Return a version's major and minor number.

    Raises: TargetError if it is not a version, or is older than this project supports.
    """
    try:
        found = Version(version.removeprefix("onnxruntime-").removeprefix("ort-"))
    except InvalidVersion:
        raise TargetError(f"target must be a version of onnxruntime such as '1.17', got {version!r}") from None
    parsed = Version(f"{found.major}.{found.minor}")
    if parsed < min(_NEWEST):
        raise TargetError(f"target must be onnxruntime 1.17 or newer, got {version!r}")
    return parsed


def newest_versions(target: str) -> tuple[int, int]:
    """Return the newest opset and IR version that this onnxruntime loads.

    >>> newest_versions("1.22.1")
    (21, 10)
    """
    parsed = parse_version(target)
    return _NEWEST[max(version for version in _NEWEST if version <= parsed)]


def oldest_runtime(opset: int, ir_version: int) -> str | None:
    """Return the oldest onnxruntime from 1.17 on that loads a model of these versions, or None if no known one does.

    >>> oldest_runtime(20, 9), oldest_runtime(21, 10), oldest_runtime(99, 9)
    ('1.17', '1.20', None)
    """
    for version, (newest_opset, newest_ir) in _NEWEST.items():
        if opset <= newest_opset and ir_version <= newest_ir:
            return str(version)
    return None


def run_elsewhere(
    python: str | Path, model: str | Path, feed: Mapping[str, NDArray[Any]], target: str
) -> list[NDArray[Any]]:
    """Run a model in the plain onnxruntime of another Python, which must be of the target's version.

    Raises: TargetError if it is another version, or does not load or run the model.
    """
    version, outputs = run_in(python, model, feed)
    if parse_version(version) != parse_version(target):
        raise TargetError(f"'{python}' has onnxruntime {version}, and the target is {target}")
    return outputs


def run_in(
    python: str | Path, model: str | Path, feed: Mapping[str, NDArray[Any]], *, library: str = ""
) -> tuple[str, list[NDArray[Any]]]:
    """Run a model in the plain onnxruntime of another Python.

    Args:
        library: path of a library with kernels, to register there; empty for none.

    Returns: the version of that onnxruntime, and the outputs.
    Raises: TargetError if it does not load or run the model.
    """
    with temporary_folder() as folder:
        inputs, outputs = folder / "inputs.npz", folder / "outputs.npz"
        np.savez(inputs, **feed)  # type: ignore[arg-type]
        command = [str(python), "-c", _RUN, str(Path(model).absolute()), str(inputs), str(outputs), library]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise TargetError(f"'{python}' is no Python that runs: {error.strerror or error}") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise TargetError(f"the onnxruntime of '{python}' does not run the model: {last}")
        version: str = json.loads(done.stdout.strip().splitlines()[-1])
        with np.load(outputs) as arrays:
            return version, [arrays[str(i)] for i in range(len(arrays))]
