"""Why a kernel does not run an operator: structured, and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ort_ops.errors import MylinearError


class Lack(Enum):
    """Why a kernel does not run an operator."""

    NONE_WRITTEN = "there is none for this operator"
    NOT_AVAILABLE = "it is not available here"
    ELEMENT_TYPES = "it does not serve the model's element types"
    SHARED_DOMAIN = "another operator of the domain needs a kernel of another kind"


@dataclass(frozen=True)
class Refusal:
    """Why one kernel does not run one operator.

    Attributes:
        op_type: domain and name of the operator; empty for every operator that is registered.
        kernel: name of the kernel.
        detail: for a kernel that is not available: the reason and the remedy.
        served, missing: names of the element types that the kernel serves, and of those that it lacks.
    """

    op_type: str
    kernel: str
    lack: Lack
    detail: str = ""
    served: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        start = f"{self.op_type}: " if self.op_type else ""
        if self.lack is Lack.NOT_AVAILABLE:
            return f"{start}the {self.kernel} kernel is not available: {self.detail}"
        if self.lack is Lack.NONE_WRITTEN:
            return f"{start}there is no {self.kernel} kernel; use kernels='auto'"
        if self.lack is Lack.ELEMENT_TYPES:
            return (
                f"{start}the {self.kernel} kernel serves {' and '.join(self.served)}, and the model has "
                f"{' and '.join(self.missing)}; use kernels='auto' or 'body'"
            )
        return (
            f"{start}the {self.kernel} kernel cannot be registered beside those of {self.detail}, which has the same "
            "domain and a kernel of another kind; onnxruntime takes a domain once; use kernels='body'"
        )

    @property
    def short(self) -> str:
        """The reason in a list of kernels: ``python: serves float64 only``."""
        if self.lack is Lack.ELEMENT_TYPES:
            return f"{self.kernel}: serves {' and '.join(self.served)} only"
        return f"{self.kernel}: {self.detail or self.lack.value}"


class KernelError(MylinearError, RuntimeError):
    """Kernels are missing, do not serve a model's element types, or are registered already.

    Attributes:
        refusals: why each kernel that was tried does not run an operator; empty for another mistake.
    """

    def __init__(self, message: str, refusals: Sequence[Refusal] = ()) -> None:
        super().__init__(message)
        self.refusals = tuple(refusals)
