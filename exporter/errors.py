"""Errors and warnings of the exporter that several of its parts use."""

from ort_ops.errors import MylinearError


class ExportError(MylinearError, RuntimeError):
    """A model that could not be exported, or not as it should be; no file was written."""


class NoOperatorWarning(UserWarning):
    """A model was exported that calls no registered operator: its file has standard operators alone."""
