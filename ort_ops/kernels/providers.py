"""The ways to run an operator in onnxruntime: one object for each, which says what it has for an operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ort_ops.errors import MylinearError
from ort_ops.kernels import extensions
from ort_ops.kernels.registration import Registration
from ort_ops.native import cuda
from ort_ops.native import library as native
from ort_ops.native.library_file import check_whole
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import Operator, TypeVariable


@dataclass(frozen=True)
class Offer:
    """One provider's kernel for one operator.

    Attributes:
        reason: why it is not available, with the remedy; None if it is.
        host: what registers the operator's domain with onnxruntime, which takes a domain from one host only: the path
            of a library, or one of the names below; empty where nothing is registered.
    """

    provider: Provider
    kit: OperatorKit
    reason: str | None = None
    host: str = ""

    @property
    def name(self) -> str:
        """The name of the kernel, as users give it."""
        return self.provider.name

    @property
    def is_available(self) -> bool:
        """Whether it can run here."""
        return self.reason is None

    @property
    def detail(self) -> str:
        """More about it, such as the instruction set in use."""
        return self.provider.detail(self)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The names of the element types that it serves."""
        served = {name for v in self.kit.operator.variables for name in self.provider.dtypes(v)}
        return tuple(name for name in ELEMENT_TYPES if name in served)


PYTHON_HOST, EXTENSIONS_HOST = "python", "onnxruntime-extensions"


class Provider(ABC):
    """One way to run operators.

    Attributes:
        name: of its kernels, as users give it; two providers may share one.
        needs_inputs: whether the nodes of a model must have all their optional inputs; `complete_inputs` adds them.
        needs_functions: whether the model must hold the definitions of its operators.
    """

    name: str
    needs_inputs = False
    needs_functions = False

    @abstractmethod
    def offer(self, kit: OperatorKit) -> Offer | None:
        """Return the offer for an operator; None where no such kernel was ever written for it."""

    def dtypes(self, variable: TypeVariable) -> tuple[str, ...]:
        """Return which element types of a type variable are served; by default all that the operator takes."""
        return variable.dtypes

    def lacking(self, operator: Operator, names: Collection[str]) -> tuple[str, ...]:
        """Return which of a model's element types are not served, among those that the operator takes."""
        variables = operator.variables
        return tuple(sorted({n for v in variables for n in names if n in v.dtypes and n not in self.dtypes(v)}))

    def serves_all(self, operator: Operator) -> bool:
        """Whether every element type that the operator takes is served."""
        return all(self.dtypes(variable) == variable.dtypes for variable in operator.variables)

    @abstractmethod
    def add(self, offer: Offer, registration: Registration) -> None:
        """Add what onnxruntime needs to run the operator by this provider."""

    def detail(self, offer: Offer) -> str:
        """Say more about an offer; empty where there is nothing to say."""
        return ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _Library(Provider):
    """Kernels in a shared library that onnxruntime registers."""

    @abstractmethod
    def _find(self, kit: OperatorKit) -> Any:
        """Return the kit's function that gives the path, or None."""

    def detail(self, offer: Offer) -> str:
        """Name the library of another package."""
        return offer.host

    def offer(self, kit: OperatorKit) -> Offer | None:
        """Ask the kit for its library."""
        find = self._find(kit)
        if find is None:
            return None
        try:
            path = str(find())
            if not native.is_own(path):  # which was looked at just now
                path = _checked(path, kit.operator.op_type)
        except Exception as error:  # another package's fault must not end sessions with another kernel
            return Offer(self, kit, _reason(error))
        return Offer(self, kit, None, path)

    def add(self, offer: Offer, registration: Registration) -> None:
        """Register the library."""
        registration.add_library(offer.host)


class Cuda(_Library):
    """C++ kernels for onnxruntime's CUDA provider."""

    name = "cuda"

    def _find(self, kit: OperatorKit) -> Any:
        return kit.cuda_library

    def offer(self, kit: OperatorKit) -> Offer | None:
        """Ask the kit for its library, and this machine for CUDA."""
        found = super().offer(kit)
        if found is None or not found.is_available or native.is_own(found.host):
            return found
        return Offer(self, kit, reason) if (reason := cuda.missing(found.host)) else found

    def detail(self, offer: Offer) -> str:
        """Name the devices, or the library of another package."""
        return cuda.status().detail if native.is_own(offer.host) else offer.host

    def add(self, offer: Offer, registration: Registration) -> None:
        """Register the library, and require its CUDA kernels."""
        super().add(offer, registration)
        if native.is_own(offer.host):
            registration.entries[cuda.CONFIG_KEY] = "require"


class Cpp(_Library):
    """C++ kernels for the CPU."""

    name = "cpp"

    def _find(self, kit: OperatorKit) -> Any:
        return kit.library

    def detail(self, offer: Offer) -> str:
        """Name the instruction set, or the library of another package."""
        return native.status().isa or "" if native.is_own(offer.host) else offer.host


class Python(Provider):
    """Python kernels that this project's C++ library calls."""

    name = "python"

    def offer(self, kit: OperatorKit) -> Offer | None:
        """Ask the kit whether it has a Python kernel, and whether the library can call it."""
        if kit.python_kernel is None:
            return None
        return Offer(self, kit, native.status().reason or _python_reason(kit), PYTHON_HOST)

    def detail(self, offer: Offer) -> str:
        """Say what calls the kernel."""
        return "NumPy, called by the C++ library"

    def add(self, offer: Offer, registration: Registration) -> None:
        """Register the kernel with its domain."""
        assert offer.kit.python_kernel is not None
        registration.python_kernels.append(offer.kit.python_kernel())


class PythonByExtensions(Provider):
    """The same kernels, called by onnxruntime-extensions where the C++ library is missing."""

    name = "python"
    needs_inputs = True

    def offer(self, kit: OperatorKit) -> Offer | None:
        """Ask whether onnxruntime-extensions is here, and can call an operator of this kind."""
        if kit.python_kernel is None:
            return None
        return Offer(self, kit, _python_reason(kit) or extensions.unavailable_reason(kit), EXTENSIONS_HOST)

    def dtypes(self, variable: TypeVariable) -> tuple[str, ...]:
        """Return what onnxruntime-extensions can pass to Python."""
        return tuple(name for name in variable.dtypes if name in extensions.ELEMENT_TYPE_NAMES)

    def detail(self, offer: Offer) -> str:
        """Say what calls the kernel."""
        return "NumPy, by onnxruntime-extensions"

    def add(self, offer: Offer, registration: Registration) -> None:
        """Register onnxruntime-extensions' library."""
        registration.has_extensions = True


class Body(Provider):
    """The definition inside the model, in standard operators; onnxruntime's own kernels run it."""

    name = "body"
    needs_inputs = True
    needs_functions = True

    def offer(self, kit: OperatorKit) -> Offer | None:
        """Ask whether the operator has a definition."""
        return None if kit.operator.make_body is None else Offer(self, kit)

    def add(self, offer: Offer, registration: Registration) -> None:
        """Nothing has to be registered."""


CUDA, CPP, PYTHON, EXTENSIONS, BODY = Cuda(), Cpp(), Python(), PythonByExtensions(), Body()
PROVIDERS: tuple[Provider, ...] = (CUDA, CPP, PYTHON, EXTENSIONS, BODY)
"""Every provider, the preferred first."""
NAMES = tuple(dict.fromkeys(provider.name for provider in PROVIDERS))
"""The names of the kernels, the preferred first."""


class Offers:
    """Offers for one purpose; each is made once, because finding a library takes a tenth of a millisecond."""

    def __init__(self) -> None:
        self._found: dict[tuple[Provider, int], Offer | None] = {}

    def get(self, provider: Provider, kit: OperatorKit) -> Offer | None:
        """Return a provider's offer for an operator, or None."""
        key = provider, id(kit)
        if key not in self._found:
            self._found[key] = provider.offer(kit)
        return self._found[key]

    def named(self, name: str, kit: OperatorKit) -> Offer | None:
        """Return the offer of the kernel of this name: the first available one, or else the last."""
        found = None
        for provider in PROVIDERS:
            if provider.name == name and (offer := self.get(provider, kit)) is not None:
                found = offer
                if offer.is_available:
                    break
        return found


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, MylinearError) else f"{type(error).__name__}: {error}"


def _python_reason(kit: OperatorKit) -> str | None:
    """Return why a kit's Python kernel is not available; None if it is."""
    assert kit.python_kernel is not None
    try:
        kernel = kit.python_kernel()
    except Exception as error:  # of another package
        return _reason(error)
    if getattr(kernel, "operator", None) != kit.operator:
        return f"its kit must have a kernel made by implements({kit.operator.name}), got {kernel!r}"
    return None


def _checked(path: str, op_type: str) -> str:
    """Return the absolute path of a library of another package. Raises: MylinearError if there is no such file."""
    absolute = Path(path).absolute()
    if not absolute.is_file():
        raise MylinearError(f"the library of {op_type} is not there: '{path}'; install its package again")
    try:
        check_whole(absolute)
    except OSError as error:
        raise MylinearError(f"'{path}' does not load ({error}); install the package of {op_type} again") from error
    return str(absolute)
