"""The onnxruntime that the tests run on: some can do less than the newest."""

from __future__ import annotations

import onnxruntime
from packaging.version import Version


def is_older_than(version: str) -> bool:
    """Whether this onnxruntime is older than that version."""
    return Version(onnxruntime.__version__) < Version(version)
