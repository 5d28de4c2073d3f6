"""Errors of the exporter that several of its parts raise."""

from ort_ops.errors import MylinearError


class ExportError(MylinearError, RuntimeError):
    """A model that could not be exported, or not as it should be; no file was written."""
