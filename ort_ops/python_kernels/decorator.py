"""Define operators with kernels in Python, and keep the current kernel of each."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, ParamSpec, TypeVar

from ort_ops.exclusive import guarded, new_lock
from ort_ops.opdef import onnx_objects, registry, schemas
from ort_ops.opdef.operator import ContractError, DefinitionError, Operator, Parameter
from ort_ops.opdef.shapes import Shape, format_shape
from ort_ops.opdef.signature import read_operator, writes_output

_RESERVED = ("ai.onnx.", "com.microsoft", "org.pyt")  # how domains of onnxruntime and its extensions begin
P = ParamSpec("P")
R = TypeVar("R")

_lock = new_lock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class PythonKernelError(ContractError):
    """A Python kernel returned, kept or was given something that breaks its operator's signature."""


class PythonKernel(Generic[P, R]):
    """A function that is the kernel of an operator; made by `python_kernel`, and called like the function itself.

    Attributes:
        operator: what it is the kernel of.
        copy_inputs: whether the kernel gets copies that it may keep.
        writes_output: whether the function takes ``out``, the memory of its outputs.
    """

    def __init__(
        self,
        operator: Operator,
        function: Callable[P, R],
        infer_shape: Callable[..., Any] | None,
        copy_inputs: bool,
    ) -> None:
        self.operator = operator
        self.copy_inputs = copy_inputs
        self.writes_output = writes_output(function)
        self._function = function
        self._infer_shape = infer_shape
        self._shape_attributes = self._attributes_of(infer_shape)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", operator.name)
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, on arrays of your own."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Python kernel of {self.op_type}, version {self.since_version}>"

    @property
    def domain(self) -> str:
        """The operator's domain."""
        return self.operator.domain

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.operator.name

    @property
    def since_version(self) -> int:
        """The version of the domain that introduced the operator as the kernel has it."""
        return self.operator.since_version

    @property
    def signature(self) -> Operator:
        """Inputs, outputs and attributes: those of the operator."""
        return self.operator

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the attributes that need not be given."""
        return self.operator.defaults

    @property
    def op_type(self) -> str:
        """Domain and name: ``my.domain::ScaledTanh``."""
        return self.operator.op_type

    @property
    def key(self) -> tuple[str, str, int]:
        """Domain, name and version."""
        return self.operator.key

    def remove(self) -> None:
        """Remove the operator's kernel and schema; sessions that have the operator fail at their next run."""
        if _take_kernel(self.key):
            schemas.deregister(self.name, self.since_version, self.domain)

    def make_node(self, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> Any:
        """Make an ONNX node of the operator. Raises: PythonKernelError for an unknown or missing attribute."""
        self.check_attributes(attributes)
        return onnx_objects.make_node(self.operator, inputs, outputs, name, **attributes)

    def check_attributes(self, names: Mapping[str, Any] | Sequence[str]) -> None:
        """Check that a node's attributes are the operator's. Raises: PythonKernelError."""
        try:
            self.operator.check_attributes(list(names))
        except ContractError as error:
            raise PythonKernelError(str(error)) from None

    def error(self, argument: str, rule: str, got: str, hint: str = "") -> PythonKernelError:
        """Return the one form of every error: ``NAME: <argument> must be <rule>, got <value>[; hint]``."""
        return PythonKernelError(self.operator.message(argument, rule, got, hint))

    def infer_shapes(self, shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> list[Shape | None]:
        """Return the shape of each output, None for an unknown one; dimensions may be names, or None.

        Raises: what the shape function raises; PythonKernelError if it returns anything but shapes.
        """
        count = len(self.operator.outputs)
        if self._infer_shape is None or self._infer_shape is like_first:
            return [None if self._infer_shape is None else like_first(*shapes)] * count
        given = {name: attributes[name] for name in self._shape_attributes if name in attributes}
        result = self._infer_shape(*shapes, **given)
        results = [result] if count == 1 else list(result)
        if len(results) != count:
            raise self.error("what infer_shape returns", f"{count} shapes", str(len(results)))
        checked: list[Shape | None] = []
        for shape in results:
            if shape is None:
                checked.append(None)
                continue
            dims = tuple(dim if dim is None or isinstance(dim, str) else int(dim) for dim in shape)
            if any(isinstance(dim, int) and dim < 0 for dim in dims):
                raise self.error("what infer_shape returns", "a shape", format_shape(dims))
            checked.append(dims)
        return checked

    def _attributes_of(self, infer_shape: Callable[..., Any] | None) -> list[str]:
        """Return the attributes that a shape function takes: those it has parameters for."""
        if infer_shape is None or infer_shape is like_first:
            return []
        parameters = inspect.signature(infer_shape).parameters
        names = [a.name for a in self.operator.attributes]
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return names
        return [name for name in names if name in parameters]


class Slot:
    """The current kernel of an operator. Sessions hold the slot, never the kernel."""

    __slots__ = ("domain", "kernel", "name", "since_version")

    def __init__(self, kernel: PythonKernel[..., Any]) -> None:
        self.domain, self.name, self.since_version = kernel.domain, kernel.name, kernel.since_version
        self.kernel: PythonKernel[..., Any] | None = kernel


slots: dict[tuple[str, str, int], Slot] = {}


@guarded(lambda: _lock)
def _set_kernel(kernel: PythonKernel[..., Any]) -> None:
    slots.setdefault(kernel.key, Slot(kernel)).kernel = kernel


@guarded(lambda: _lock)
def _take_kernel(key: tuple[str, str, int]) -> PythonKernel[..., Any] | None:
    slot = slots.get(key)
    if slot is None:
        return None
    kernel, slot.kernel = slot.kernel, None
    return kernel


def like_first(*shapes: Shape | None) -> Shape | None:
    """Return the shape of the first input: the shape rule where none is given."""
    return shapes[0] if shapes else None


def python_kernel(
    op_type: str,
    *,
    since_version: int = 1,
    infer_shape: Callable[..., Any] | None = like_first,
    copy_inputs: bool = False,
) -> Callable[[Callable[P, R]], PythonKernel[P, R]]:
    """Make a function the kernel of an operator, for every session made after it is registered.

    >>> import numpy as np
    >>> from ort_ops import Float
    >>> @python_kernel("doc.example::ScaledTanh")
    ... def scaled_tanh(x: Float, *, alpha: float = 1.0) -> Float:
    ...     return np.tanh(x) * x.dtype.type(alpha)
    >>> scaled_tanh(np.zeros(2)), scaled_tanh.signature.num_overloads
    (array([0., 0.]), 4)
    >>> scaled_tanh.remove()

    Defining the same operator again replaces its kernel at once, in sessions that are alive too, as long as inputs,
    outputs and attributes stay the same; otherwise the next run of those sessions is an error.

    Args:
        op_type: domain and name, ``my.domain::ScaledTanh``. Domains of ONNX, onnxruntime, onnxruntime-extensions
            and of registered operators are refused.
        since_version: the version of the domain in which the operator got this signature. Older ones stay: a model
            gets the newest that is not newer than the version of the domain that it imports.
        infer_shape: (shape of each input, None for an absent or unknown one; attributes that it has parameters
            for) -> shape of the output, or of each output; a dimension is a number, a name, or None. It is called
            when a model is loaded, and when a kernel runs, to check what it returns. The default: like the
            first input. None: nothing is known beforehand, and nothing is checked.
        copy_inputs: give the kernel copies that it may keep; for debugging, and for kernels that must keep them.

    Raises: DefinitionError if the name or the annotations cannot be an operator's.
    """
    domain, name = split_op_type(op_type, since_version)
    if domain in registry.domains():
        raise DefinitionError(f"the domain must be one of your own, such as 'my.domain', got {domain!r}")

    def define(function: Callable[P, R]) -> PythonKernel[P, R]:
        try:
            operator = read_operator(function, domain, name, since_version)
            kernel = PythonKernel(operator, function, infer_shape, copy_inputs)
        except DefinitionError as error:
            raise DefinitionError(f"{name}: {error}") from None
        # The schema asks the kernel, so that both agree.
        kernel.operator = replace(operator, infer_shape=kernel.infer_shapes)
        schemas.register(onnx_objects.make_schema(kernel.operator))
        _set_kernel(kernel)
        return kernel

    return define


def split_op_type(op_type: str, since_version: int = 1) -> tuple[str, str]:
    """Return domain and name of ``my.domain::Name``. Raises: DefinitionError for what no operator can be called."""
    domain, separator, name = op_type.rpartition("::")
    if not (separator and domain and name.isidentifier()):
        raise DefinitionError(f"the operator must be named 'domain::Name', got {op_type!r}")
    if domain in ("onnx", "ai.onnx") or domain.startswith(_RESERVED):
        raise DefinitionError(f"the domain must be one of your own, such as 'my.domain', got {domain!r}")
    if not domain.isprintable():  # a NUL would end it, and a model cannot hold half a surrogate pair
        raise DefinitionError(f"the domain must be of printable characters, got {domain!r}")
    if isinstance(since_version, bool) or not isinstance(since_version, int) or not 1 <= since_version < 2**31:
        raise DefinitionError(f"since_version must be an integer from 1 on, got {since_version!r}")
    return domain, name


def implements(operator: Operator, *, copy_inputs: bool = False) -> Callable[[Callable[P, R]], PythonKernel[P, R]]:
    """Make a function the Python kernel of a described operator, for its `OperatorKit`.

    The function's annotations must be the operator's inputs, outputs and attributes; names of parameters are free,
    names of attributes are not. Nothing is registered.

    Raises: DefinitionError where the annotations differ from the operator.
    """

    def define(function: Callable[P, R]) -> PythonKernel[P, R]:
        try:
            described = read_operator(function, *operator.key)
        except DefinitionError as error:
            raise DefinitionError(f"{operator.name}: {error}") from None
        for what, got, wanted in (
            ("inputs", _essence(described.inputs), _essence(operator.inputs)),
            ("outputs", _essence(described.outputs), _essence(operator.outputs)),
            (
                "attributes",
                sorted((a.name, a.python_type) for a in described.attributes),
                sorted((a.name, a.python_type) for a in operator.attributes),
            ),
        ):
            if got != wanted:
                raise DefinitionError(f"{operator.name}: the kernel's {what} must be {wanted}, got {got}")

        def infer_shape(*shapes: Shape | None, **attributes: Any) -> Any:
            results = list(operator.infer_shape(shapes, attributes))
            return results[0] if len(results) == 1 else results

        return PythonKernel(operator, function, infer_shape, copy_inputs)

    return define


def _essence(parameters: Sequence[Parameter]) -> list[tuple[str, bool]]:
    return [(parameter.type.rule, parameter.is_optional) for parameter in parameters]


@guarded(lambda: _lock)
def defined_kernels() -> list[PythonKernel[..., Any]]:
    """Return the kernels that are defined now."""
    return [slot.kernel for slot in slots.values() if slot.kernel is not None]
