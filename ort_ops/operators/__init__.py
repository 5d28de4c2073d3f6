"""The operators of this project, each in a folder of its own. Only these folders know an operator by name.

A new operator is a folder with a module ``kit`` that has ``KIT``, and its name in `FOLDERS`; a new version of one is a
folder within its folder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ort_ops.opdef.kit import OperatorKit

FOLDERS = ("mylinear", "mylinear.version_2", "mylineargrad", "adamstep")


def load() -> list[OperatorKit]:
    """Import and return the kits."""
    return [import_module(f"{__name__}.{folder}.kit").KIT for folder in FOLDERS]
