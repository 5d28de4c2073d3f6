"""Keep one session of each model in a process, for the many tasks that an engine runs there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Hashable
from pathlib import Path

from ort_ops.exclusive import guarded, new_lock
from ort_ops.files.inputs import InputError
from ort_ops.prediction.served import ServedModel
from ort_ops.session import InferenceSession
from ort_ops.session_options import SessionOptions

MAX_SESSIONS = 4
"""In a process; the one that was opened first makes room for a fifth."""

_served: dict[Hashable, ServedModel] = {}
_lock = new_lock()


@guarded(lambda: _lock)
def served_model(model: str | bytes, kernels: str, num_threads: int, sha256: str | None = None) -> ServedModel:
    """Return a model with this process's session of it, which is opened at the first call.

    A file that was replaced since is opened anew, and so is a bundle.

    Args:
        model: path or bytes of a model, or the folder of a bundle, all of which is checked when it is opened.
        sha256: of the bundle's manifest; None for any, and for what is no bundle.

    Raises: as `InferenceSession`, `load_bundle` and `ServedModel`.
    """
    key = (model, _state(model), kernels, num_threads, sha256)
    if key not in _served:
        while len(_served) >= MAX_SESSIONS:
            _served.pop(next(iter(_served)))
        _served[key] = ServedModel(_open(model, kernels, num_threads, sha256))
    return _served[key]


def _open(model: str | bytes, kernels: str, num_threads: int, sha256: str | None) -> InferenceSession:
    options = quiet_options(num_threads)
    if sha256 is not None or (isinstance(model, str) and Path(model).is_dir()):
        if isinstance(model, bytes):
            raise InputError("sha256 is for the folder of a bundle, got the bytes of a model")
        from ort_ops.bundle.load import load_bundle  # late: it takes as long to import as all else

        return load_bundle(model, kernels=kernels, sess_options=options, sha256=sha256).session
    return InferenceSession(model, options, kernels=kernels)


def quiet_options(num_threads: int = 0) -> SessionOptions:
    """Return options without a log and with threads that sleep between batches; by default they would spin.

    Args:
        num_threads: 0 for onnxruntime's own number, one for each core.
    """
    options = SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4  # errors come as exceptions too
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    return options


def threads_given() -> int:
    """Return the number of threads that the engine gives this process.

    Ray, Spark and Dask set ``OMP_NUM_THREADS`` in a worker to the CPUs of its task. Without it: 1.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not text:
        return 1
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"OMP_NUM_THREADS must be a number of threads, 1 or more, got '{text}'")
    return int(text)


def _state(model: str | bytes) -> tuple[int, ...]:
    if isinstance(model, bytes) or not Path(model).exists():
        return ()
    path = Path(model)
    if path.is_dir():
        from ort_ops.bundle.manifest import FILE_NAME

        if (path / FILE_NAME).exists():
            path /= FILE_NAME
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _forget_parents() -> None:
    """Leave a parent's sessions alone: their threads are not in a forked child, and closing would wait for them."""
    global _lock
    for model in _served.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(model.session))
    _served.clear()
    _lock = new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
