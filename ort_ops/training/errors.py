"""Errors of training in onnxruntime."""

from __future__ import annotations

from ort_ops.errors import MylinearError


class TrainingError(MylinearError, ValueError):
    """A step, a state or a file that cannot be used; the message says which and why."""


class UnusableError(TrainingError, RuntimeError):
    """A trainer that must not go on: a run failed half-way, or it was forked. The message says how to go on."""
