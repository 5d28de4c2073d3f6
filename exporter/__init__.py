"""Train with custom operators in PyTorch, export models to ONNX, and prove that both compute the same.

After ``import exporter``, plain ``torch.onnx.export`` emits nodes of every registered operator, with either exporter.

Names are imported when they are first used, so that the command line can serve models where torch is not installed.
"""

from exporter.torch_ops.registration import install

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from typing import Any

    from exporter.definition.operator import TorchOperator, operator
    from exporter.errors import ExportError, NoOperatorWarning
    from exporter.operators.mylinear.autograd import LinearF
    from exporter.operators.mylinear.functional import linear
    from exporter.operators.mylinear.module import MyLinear
    from exporter.operators.mylinear.swap import SwapReport, restore_linear, swap_linear
    from exporter.operators.mylinear.version_2.fuse import FuseReport, fuse_activations
    from exporter.promises.check import check_library, check_operator
    from exporter.promises.result import OperatorCheck, PromiseError
    from exporter.to_onnx.export import ExportResult, export
    from exporter.torch_ops.gradients import GradientError, check_gradients
    from exporter.training_step.export import export_training
    from exporter.training_step.gradients.export import export_gradients
    from exporter.training_step.gradients.result import GradientsExport
    from exporter.training_step.result import TrainingExport
    from exporter.verification.verify import Verification, verify

__all__ = [
    "ExportError",
    "ExportResult",
    "FuseReport",
    "GradientError",
    "GradientsExport",
    "LinearF",
    "MyLinear",
    "NoOperatorWarning",
    "OperatorCheck",
    "PromiseError",
    "SwapReport",
    "TorchOperator",
    "TrainingExport",
    "Verification",
    "check_gradients",
    "check_library",
    "check_operator",
    "export",
    "export_gradients",
    "export_training",
    "fuse_activations",
    "linear",
    "operator",
    "restore_linear",
    "swap_linear",
    "verify",
]

_MODULES = {
    "ExportError": "errors",
    "ExportResult": "to_onnx.export",
    "FuseReport": "operators.mylinear.version_2.fuse",
    "GradientError": "torch_ops.gradients",
    "GradientsExport": "training_step.gradients.result",
    "LinearF": "operators.mylinear.functional",
    "MyLinear": "operators.mylinear.module",
    "NoOperatorWarning": "errors",
    "OperatorCheck": "promises.result",
    "PromiseError": "promises.result",
    "SwapReport": "operators.mylinear.swap",
    "TorchOperator": "definition.operator",
    "TrainingExport": "training_step.result",
    "Verification": "verification.verify",
    "check_gradients": "torch_ops.gradients",
    "check_library": "promises.check",
    "check_operator": "promises.check",
    "export": "to_onnx.export",
    "export_gradients": "training_step.gradients.export",
    "export_training": "training_step.export",
    "fuse_activations": "operators.mylinear.version_2.fuse",
    "linear": "operators.mylinear.functional",
    "operator": "definition.operator",
    "restore_linear": "operators.mylinear.swap",
    "swap_linear": "operators.mylinear.swap",
    "verify": "verification.verify",
}


install()


def __getattr__(name: str) -> "Any":
    """Import the module that has ``name``, and take it from there."""
    if name not in _MODULES:
        raise AttributeError(f"module 'exporter' has no attribute '{name}'")
    from importlib import import_module

    from ort_ops.installation import requirements

    requirements.check()
    try:
        return getattr(import_module(f"exporter.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        from ort_ops.installation.extras import missing_extra

        explained = missing_extra(error, f"exporter.{name}")
        if explained is None:
            raise
        raise explained from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
