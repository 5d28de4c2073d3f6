"""What the optional parts of the installation are for, and the one remedy where something of them is missing."""

from __future__ import annotations

from ort_ops.installation.requirements import DISTRIBUTION, RequirementError

_EXTRAS = {"onnx_ir": "rewrite", "torch": "export", "onnxscript": "export", "matplotlib": "export", "sklearn": "export"}
"""The smallest extra of ``pyproject.toml`` that has each module."""
_PACKAGES = {"onnx_ir": "onnx-ir", "sklearn": "scikit-learn"}


def install_extra(module: str) -> str:
    """Return the command that installs an optional module; the project is on no package index.

    >>> install_extra("torch")
    "pip install '.[export]' in ort-mylinear's source"
    """
    return f"pip install '.[{_EXTRAS[module]}]' in {DISTRIBUTION}'s source"


def missing_extra(error: ModuleNotFoundError, what: str) -> RequirementError | None:
    """Return the error of ours where an optional module is missing; None where it is any other.

    Args:
        error: of the import.
        what: needs the module, in words.
    """
    module = (error.name or "").split(".")[0]
    if module not in _EXTRAS:
        return None
    needs = _PACKAGES.get(module, module) + (", and no torch" if _EXTRAS[module] == "rewrite" else "")
    return RequirementError(f"{what} needs {needs}: {install_extra(module)}")
