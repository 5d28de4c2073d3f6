"""Find the cause of an error of onnxruntime, which has only text, so this is the one place that searches texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ort_ops.errors import MylinearError
from ort_ops.kernels.refusal import KernelError
from ort_ops.opdef.operator import ContractError

if TYPE_CHECKING:
    import onnx

_REGISTERED_TWICE = ("Domain already set in registry", "Conflicting with a registered kernel")


def raise_cause(error: Exception, proto: onnx.ModelProto, model: str | Path | bytes, domains: Iterable[str]) -> None:
    """Raise an error of ours for a cause that we know from onnxruntime's text; do nothing otherwise.

    Args:
        domains: of the operators that were registered.
    """
    from ort_ops.models.checks import check_shapes, function_difference
    from ort_ops.models.files import describe_source, look_at_model

    try:
        look_at_model(model)
        check_shapes(proto)
    except MylinearError as cause:
        raise cause from error
    difference = function_difference(proto)
    if difference is not None:
        raise ContractError(f"{describe_source(model)}: {difference}; onnxruntime says: {error}") from error
    if any(text in str(error) for text in _REGISTERED_TWICE):
        names = ", ".join(f"'{domain}'" for domain in dict.fromkeys(domains))
        raise KernelError(
            f"one of the domains {names}, or a domain of onnxruntime-extensions, was registered twice with these "
            "session options; register onnxruntime-extensions' library through ort_ops alone, or use kernels='body'"
        ) from error
