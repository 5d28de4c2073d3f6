"""What a new package is asked to have: read, checked, and with defaults for the rest."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from ort_ops.opdef import registry
from ort_ops.opdef.element_types import FLOATS
from ort_ops.scaffold.attributes import MOST, WORD, ExampleAttribute, PackageError, check_text, read_attributes

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_DOMAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_RESERVED_DOMAINS = ("ai.onnx", "com.microsoft", "ai.graphcore", "mylinear", "pkg.")
_OWN_WORDS = frozenset(
    {"self", "ctx", "torch", "np", "nn", "total", "wide", "gradient", "features", "sum", "forward", "element_type"}
)
"""What the written files use themselves."""
_OPTIONAL = ":optional"
DTYPES = tuple(element_type.name for element_type in FLOATS)
"""The element types that the example operator has."""


@dataclass(frozen=True)
class PackageRequest:
    """An operator to write a package for.

    Attributes:
        name: of the operator, in ONNX.
        module: the Python package.
        domain: of the operator.
        with_cpp: whether there is a kernel in C++.
        with_cuda: whether there is one in CUDA beside it.
        dtypes: the element types of inputs and outputs, the widest first.
        optional: the last of the inputs, which nodes may lack.
    """

    name: str
    module: str
    domain: str
    inputs: tuple[str, ...]
    attributes: tuple[ExampleAttribute, ...]
    outputs: tuple[str, ...]
    with_cpp: bool = True
    dtypes: tuple[str, ...] = DTYPES
    optional: tuple[str, ...] = ()
    with_cuda: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """The inputs that every node has."""
        return self.inputs[: len(self.inputs) - len(self.optional)]

    @property
    def distribution(self) -> str:
        """The name that pip knows."""
        return package_names(self.name)[1]

    @property
    def class_name(self) -> str:
        """The name of the torch module and of the C++ struct."""
        return self.name if "_" not in self.name and self.name[0].isupper() else _camel_case(self.name)


def read_request(
    name: str,
    *,
    domain: str | None = None,
    inputs: str = "x",
    attributes: str = "scale:float=1.0",
    outputs: str = "y",
    with_cpp: bool = True,
    dtypes: str = ",".join(DTYPES),
    with_cuda: bool = False,
) -> PackageRequest:
    """Read what `mylinear new` was asked for.

    Args:
        name: of the operator: ``ScaledSum``, or ``scaled_sum``.
        domain: by default the Python package's name, which no other package has.
        inputs, outputs: names, separated by commas; ``name:optional`` for an input that may be absent.
        attributes: ``name:float=1.0``, ``name:int=2``, ``name:string=plain``, ``name:floats`` and ``name:ints``,
            separated by commas; empty for none. Lists are empty by default.
        dtypes: of inputs and outputs, separated by commas: float64, which the gradients are checked in, and any of
            float32, float16 and bfloat16.
        with_cuda: whether to write a CUDA kernel, beside that in C++.

    Raises: PackageError for a name that is no identifier, or is taken.
    """
    module = package_names(name)[0]
    if module in sys.stdlib_module_names or keyword.iskeyword(module):
        raise PackageError(f"NAME must give a free package name, got '{name}': Python itself has '{module}'")
    domain = module if domain is None else domain
    check_text("--domain", domain, _DOMAIN, "words of letters, digits, '-' and '_', joined by '.'")
    if any(domain == taken or domain.startswith(f"{taken.rstrip('.')}.") for taken in _RESERVED_DOMAINS):
        raise PackageError(f"--domain must be one of your own, got '{domain}', which others have")
    if with_cuda and not with_cpp:
        raise PackageError("--cuda must go without --no-cpp: the library with the CUDA kernel has the CPU's too")
    names, optional = _inputs(inputs)
    given = names, read_attributes(attributes), _words("--outputs", outputs)
    request = PackageRequest(name, module, domain, *given, with_cpp, _dtypes(dtypes), optional, with_cuda)
    _check_words(request)
    _check_free(request)
    return request


def package_names(name: str) -> tuple[str, str]:
    """Return the Python package and the distribution that an operator gets. Raises: PackageError for no identifier."""
    check_text("NAME", name, _NAME, "letters, digits and underscores, a letter first")
    module = _snake_case(name)
    return module, module.replace("_", "-")


def _words(what: str, text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        check_text(f"each of {what}", word, WORD, "a lower-case identifier, such as 'x' or 'weight'")
    if len(words) > MOST:
        raise PackageError(f"{what} must be at most {MOST} names, got {len(words)}")
    return words


def _inputs(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all inputs, and of those that are optional."""
    parts = [part.strip() for part in text.split(",")]
    optional = [part.removesuffix(_OPTIONAL) for part in parts if part.endswith(_OPTIONAL)]
    names = _words("--inputs", ",".join(part.removesuffix(_OPTIONAL) for part in parts))
    if len(optional) == len(names) or list(names[len(names) - len(optional) :]) != optional:
        raise PackageError(
            f"--inputs must begin with one that is not optional, and end with those that are, got '{text}'"
        )
    return names, tuple(optional)


def _dtypes(text: str) -> tuple[str, ...]:
    words = {word.strip() for word in text.split(",")}
    if not {DTYPES[0]} <= words <= {*DTYPES}:
        hint = "gradients are checked in float64; add types of other kinds to the written files"
        rule = f"--dtypes must be {DTYPES[0]} and any of {', '.join(DTYPES[1:])}"
        raise PackageError(f"{rule}, got '{text}'; {hint}")
    return tuple(dtype for dtype in DTYPES if dtype in words)


def _check_words(request: PackageRequest) -> None:
    words = [*request.inputs, *(a.name for a in request.attributes), *request.outputs]
    for word in words:
        if words.count(word) > 1:
            raise PackageError(f"inputs, attributes and outputs must have different names, got '{word}' twice")
        if word in _OWN_WORDS or keyword.iskeyword(word) or word == request.module:
            raise PackageError(f"names must not be Python's, or those of the written files, got '{word}'")


def _check_free(request: PackageRequest) -> None:
    module, distribution = request.module, request.distribution
    if registry.find(request.domain, request.name) is not None:
        raise PackageError(f"{request.domain}::{request.name} is taken by an installed operator; choose another NAME")
    try:
        metadata.version(distribution)
        is_taken = True
    except metadata.PackageNotFoundError:
        is_taken = find_spec(module) is not None
    if is_taken:
        raise PackageError(f"the package name '{module}' is taken by an installed package; choose another NAME")


def _snake_case(name: str) -> str:
    """Return the name in lower case with underscores.

    >>> _snake_case("ScaledSum"), _snake_case("RMSNorm2"), _snake_case("AXPY"), _snake_case("scaled_sum")
    ('scaled_sum', 'rms_norm2', 'axpy', 'scaled_sum')
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub("_+", "_", parted).strip("_").lower()


def _camel_case(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in _snake_case(name).split("_"))
