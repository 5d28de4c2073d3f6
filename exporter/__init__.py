"""Train with the MYLINEAR operator in PyTorch, export it to ONNX, and prove that both compute the same.

After ``import exporter``, plain ``torch.onnx.export`` emits MYLINEAR nodes, with either of its exporters.

Names are imported when they are first used, so that the command line can serve models where torch is not installed.
"""

from exporter.onnx_registration import install

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from typing import Any

    from exporter.errors import ExportError
    from exporter.functional import LinearF, linear
    from exporter.gradients import GradientError, check_gradients
    from exporter.module import MyLinear
    from exporter.onnx_export import ExportResult, export
    from exporter.swap import SwapReport, restore_linear, swap_linear
    from exporter.verification import Verification, verify

__all__ = [
    "ExportError",
    "ExportResult",
    "GradientError",
    "LinearF",
    "MyLinear",
    "SwapReport",
    "Verification",
    "check_gradients",
    "export",
    "linear",
    "restore_linear",
    "swap_linear",
    "verify",
]

_MODULES = {
    "ExportError": "errors",
    "ExportResult": "onnx_export",
    "GradientError": "gradients",
    "LinearF": "functional",
    "MyLinear": "module",
    "SwapReport": "swap",
    "Verification": "verification",
    "check_gradients": "gradients",
    "export": "onnx_export",
    "linear": "functional",
    "restore_linear": "swap",
    "swap_linear": "swap",
    "verify": "verification",
}


install()


def __getattr__(name: str) -> "Any":
    """Import the module that has ``name``, and take it from there."""
    if name not in _MODULES:
        raise AttributeError(f"module 'exporter' has no attribute '{name}'")
    from importlib import import_module

    from ort_ops import requirements

    requirements.check()
    try:
        return getattr(import_module(f"exporter.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        from ort_ops.extras import missing_extra

        explained = missing_extra(error, f"exporter.{name}")
        if explained is None:
            raise
        raise explained from error
