"""Operators with kernels in Python: the decorator, and which kernel an operator has now."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from ort_ops.errors import MylinearError
from ort_ops.opdef import schemas
from ort_ops.opdef.operator import Shape
from ort_ops.opdef.signature import ONNX_TYPES, DefinitionError, Signature
from ort_ops.operators.mylinear.contract import DOMAIN, format_shape

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class PythonKernelError(MylinearError, ValueError):
    """What a Python kernel returned, kept or was given breaks its operator's signature."""


class PythonKernel(Generic[P, R]):
    """A function that is the kernel of an operator; made by `python_kernel`, and called like the function itself.

    Attributes:
        domain, name, since_version: of the operator.
        signature: inputs, outputs and attributes.
    """

    def __init__(
        self,
        domain: str,
        name: str,
        since_version: int,
        function: Callable[P, R],
        infer_shape: Callable[..., Any] | None,
        copy_inputs: bool,
    ) -> None:
        self.domain = domain
        self.name = name
        self.since_version = since_version
        self.signature = Signature.of(function)
        self.copy_inputs = copy_inputs
        self.defaults = {a.name: a.default for a in self.signature.attributes if not a.is_required}
        self._function = function
        self._infer_shape = infer_shape
        self._shape_attributes = self._attributes_of(infer_shape)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, on arrays of your own."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Python kernel of {self.op_type}, version {self.since_version}>"

    @property
    def op_type(self) -> str:
        """Domain and name: ``my.domain::ScaledTanh``."""
        return f"{self.domain}::{self.name}"

    @property
    def key(self) -> tuple[str, str, int]:
        """Domain, name and version."""
        return self.domain, self.name, self.since_version

    def remove(self) -> None:
        """Remove the operator's kernel and schema; sessions that have the operator fail at their next run."""
        with _lock:
            slot = slots.get(self.key)
            if slot is None or slot.kernel is None:
                return
            slot.kernel = None
        schemas.deregister(self.name, self.since_version, self.domain)

    def make_node(self, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> Any:
        """Make an ONNX node of the operator. Raises: PythonKernelError for an unknown or missing attribute."""
        from onnx import helper

        self.check_attributes(attributes)
        node = helper.make_node(self.name, list(inputs), list(outputs), name=name or None, domain=self.domain)
        kinds = {a.name: a.kind for a in self.signature.attributes}
        for key, value in attributes.items():
            if kinds[key] == 4:
                import numpy as np
                from onnx import numpy_helper

                value = numpy_helper.from_array(np.asarray(value))
            node.attribute.append(helper.make_attribute(key, value, attr_type=kinds[key]))
        return node

    def check_attributes(self, names: Mapping[str, Any] | Sequence[str]) -> None:
        """Check that a node's attributes are the operator's. Raises: PythonKernelError."""
        known = [a.name for a in self.signature.attributes]
        if unknown := sorted(set(names) - set(known)):
            raise self.error("the attributes", f"among {', '.join(known) or '(none)'}", ", ".join(unknown))
        for attribute in self.signature.attributes:
            if attribute.is_required and attribute.name not in names:
                raise self.error(f"attribute {attribute.name}", "given", "nothing")

    def error(self, argument: str, rule: str, got: str, hint: str = "") -> PythonKernelError:
        """The one form of every error: ``NAME: <argument> must be <rule>, got <value>[; hint]``."""
        return PythonKernelError(f"{self.name}: {argument} must be {rule}, got {got}" + (f"; {hint}" if hint else ""))

    def infer_shapes(self, shapes: Sequence[Shape | None], attributes: Mapping[str, Any]) -> list[Shape | None]:
        """Return the shape of each output, None for one that is not known; dimensions may be names, or None.

        Raises: what the shape function raises; PythonKernelError if it returns something else than shapes.
        """
        count = len(self.signature.outputs)
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

    def infer_schema(self, context: Any) -> None:
        """Infer types and shapes of the outputs for onnx; ``context`` is onnx's InferenceContext."""
        import onnx

        from ort_ops.opdef.operator import _shape_of

        formal = self.signature.inputs
        num_inputs = min(context.get_num_inputs(), len(formal))
        types = [context.get_input_type(i) if context.has_input(i) else None for i in range(num_inputs)]
        bound = self.signature.bind([t.tensor_type.elem_type if t is not None else 0 for t in types])
        if bound is None:
            return
        shapes = [_shape_of(t) for t in types] + [None] * (len(formal) - num_inputs)
        attributes = dict(self.defaults)
        for attribute in self.signature.attributes:
            found = context.get_attribute(attribute.name)
            if found is not None and found.type == attribute.kind and attribute.kind != 4:
                value = onnx.helper.get_attribute_value(found)
                attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
        for i, (output, shape) in enumerate(
            zip(self.signature.outputs, self.infer_shapes(shapes, attributes), strict=True)
        ):
            result = onnx.TypeProto()
            result.tensor_type.elem_type = ONNX_TYPES[bound[output]]
            if shape is not None:
                for dim in shape:
                    proto = result.tensor_type.shape.dim.add()
                    if isinstance(dim, str):
                        proto.dim_param = dim
                    elif dim is not None:
                        proto.dim_value = dim
                result.tensor_type.shape.SetInParent()
            context.set_output_type(i, result)

    def _attributes_of(self, infer_shape: Callable[..., Any] | None) -> list[str]:
        """Which attributes a shape function wants: those it has parameters for."""
        if infer_shape is None or infer_shape is like_first:
            return []
        parameters = inspect.signature(infer_shape).parameters
        names = [a.name for a in self.signature.attributes]
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return names
        return [name for name in names if name in parameters]


class Slot:
    """The indirection: which kernel an operator has now. Sessions hold the slot, never the kernel."""

    __slots__ = ("domain", "kernel", "name", "since_version")

    def __init__(self, kernel: PythonKernel[..., Any]) -> None:
        self.domain, self.name, self.since_version = kernel.domain, kernel.name, kernel.since_version
        self.kernel: PythonKernel[..., Any] | None = kernel


slots: dict[tuple[str, str, int], Slot] = {}


def like_first(*shapes: Shape | None) -> Shape | None:
    """The shape rule where none is given: like the first input."""
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
    outputs and attributes stay the same; else the next run of those sessions is an error.

    Args:
        op_type: domain and name, ``my.domain::ScaledTanh``. Domains of ONNX, onnxruntime, onnxruntime-extensions
            and MYLINEAR are refused.
        since_version: the version of the domain in which the operator got this signature. Older ones stay: a model
            gets the newest that is not newer than the version of the domain that it imports.
        infer_shape: (shape of each input, None for an absent or unknown one; attributes that it has parameters
            for) -> shape of the output, or of each output; a dimension is a number, a name, or None. It is called
            when a model is loaded, and when a kernel runs, to check what it returns. The default: like the
            first input. None: nothing is known beforehand, and nothing is checked.
        copy_inputs: give the kernel copies that it may keep; for debugging, and for kernels that must keep them.

    Raises: DefinitionError if the name or the annotations cannot be an operator's.
    """
    domain, separator, name = op_type.rpartition("::")
    if not (separator and domain and name.isidentifier()):
        raise DefinitionError(f"the operator must be named 'domain::Name', got {op_type!r}")
    if domain == DOMAIN or domain in ("onnx", "ai.onnx") or domain.startswith(("ai.onnx.", "com.microsoft", "org.pyt")):
        raise DefinitionError(f"the domain must be one of your own, such as 'my.domain', got {domain!r}")
    if not domain.isprintable():  # a NUL would end it, and half a surrogate pair cannot be in a model
        raise DefinitionError(f"the domain must be of printable characters, got {domain!r}")
    if isinstance(since_version, bool) or not isinstance(since_version, int) or not 1 <= since_version < 2**31:
        raise DefinitionError(f"since_version must be an integer from 1 on, got {since_version!r}")

    def define(function: Callable[P, R]) -> PythonKernel[P, R]:
        try:
            kernel = PythonKernel(domain, name, since_version, function, infer_shape, copy_inputs)
        except DefinitionError as error:
            raise DefinitionError(f"{name}: {error}") from None
        _register_schema(kernel)
        with _lock:
            slot = slots.get(kernel.key)
            if slot is None:
                slots[kernel.key] = Slot(kernel)
            else:
                slot.kernel = kernel
        return kernel

    return define


def _register_schema(kernel: PythonKernel[..., Any]) -> None:
    """Tell onnx's checker and shape inference of the operator, in place of an earlier definition."""
    doc = inspect.cleandoc(kernel.__doc__ or "")
    signature = kernel.signature
    schemas.register(signature.schema(kernel.domain, kernel.name, kernel.since_version, doc, kernel.infer_schema))


def defined_kernels() -> list[PythonKernel[..., Any]]:
    """The kernels that are defined now."""
    with _lock:
        return [slot.kernel for slot in slots.values() if slot.kernel is not None]
