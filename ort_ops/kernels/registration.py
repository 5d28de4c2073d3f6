"""What a session's options are to be given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Registration:
    """The libraries and kernels to register with session options, collected from the chosen offers.

    Attributes:
        libraries: paths of shared libraries, each once, in the order of the operators.
        python_kernels: of operators from kits, run by the C++ library.
        has_extensions: whether onnxruntime-extensions' library is registered too.
        entries: config entries that must be set before the libraries are registered.
    """

    libraries: list[str] = field(default_factory=list)
    python_kernels: list[Any] = field(default_factory=list)
    has_extensions: bool = False
    entries: dict[str, str] = field(default_factory=dict)

    def add_library(self, path: str) -> None:
        """Add a shared library, unless it is there."""
        if path not in self.libraries:
            self.libraries.append(path)
