"""Parameters to and from safetensors files. The package is optional."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.atomic import open_atomically
from ort_ops.files.inputs import InputError, first_line, open_input
from ort_ops.installation.extras import missing_extra

Array = NDArray[Any]


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, completely or not at all. Raises: RequirementError, OutputError."""
    library = _library()
    with open_atomically(path) as temporary:
        library.save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, temporary)


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Return the arrays of a file by name. Raises: RequirementError, InputError."""
    library = _library()
    with open_input(Path(path), what="safetensors file", folder_advice="a .safetensors file"):
        try:
            found: dict[str, Array] = library.load_file(path)
        except Exception as error:  # SafetensorError, and others for dtypes that NumPy lacks
            raise InputError(f"'{path}' is no safetensors file, or is damaged: {first_line(error)}") from error
    return found


def _library() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a safetensors file") or error from error
    return safetensors.numpy
