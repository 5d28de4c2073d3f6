"""Name the optional parts of the installation, and what to do where one is missing."""

from __future__ import annotations

from ort_ops.installation.requirements import DISTRIBUTION, RequirementError, install_command

_EXTRAS = {
    "onnx_ir": "rewrite",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "pygraphviz": "graph",
    "pyarrow": "arrow",
    "ray": "ray",
    "pyspark": "spark",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "safetensors": "safetensors",
    "shtab": "completion",
    "torch": "export",
    "onnxscript": "export",
    "sklearn": "export",
}
"""The smallest extra of ``pyproject.toml`` that has each module."""
_WITH_TORCH = ("export", "tensorboard", "mlflow")
"""Extras of what needs torch too."""
_OF_THE_COMMAND_LINE = ("rich",)
"""Modules of the base install that only commands need."""
_PACKAGES = {"onnx_ir": "onnx-ir", "sklearn": "scikit-learn", "markupsafe": "jinja2"}


def install_extra(module: str) -> str:
    """Return the command that installs an optional module; the project is on no package index.

    >>> install_extra("torch")
    "pip install '.[export]' in ort-mylinear's source"
    """
    return f"pip install '.[{_EXTRAS[module]}]' in {DISTRIBUTION}'s source"


def missing_extra(error: ModuleNotFoundError, what: str) -> RequirementError | None:
    """Return an error of ours for a missing optional module, or one of the command line; None for any other.

    Args:
        error: from the import.
        what: the thing that needs the module, in words.
    """
    module = (error.name or "").split(".")[0]
    if module in _OF_THE_COMMAND_LINE:
        return RequirementError(f"{what} needs {module}: {install_command(module)}")
    if module not in _EXTRAS:
        return None
    needs = _PACKAGES.get(module, module) + (", and no torch" if _EXTRAS[module] not in _WITH_TORCH else "")
    return RequirementError(f"{what} needs {needs}: {install_extra(module)}")
