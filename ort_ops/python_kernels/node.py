"""Run a Python kernel when onnxruntime calls it: convert its arguments, check its results.

A kernel sees the inputs as read-only NumPy arrays over onnxruntime's own memory. What it returns is checked (type,
dtype, shape) and copied once into the output, or it writes into the output itself. The memory is onnxruntime's again
as soon as the kernel returns, so a kernel that keeps a view of it is an error, at that call (`kept_views`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ort_ops.opdef.element_types import ONNX_TYPES
from ort_ops.opdef.operator import KIND_NAMES, Attribute, Operator
from ort_ops.opdef.shapes import Shape, format_shape
from ort_ops.python_kernels import kept_views
from ort_ops.python_kernels.decorator import PythonKernel, PythonKernelError, Slot, like_first
from ort_ops.python_kernels.failures import of_kernels_made_now
from ort_ops.python_kernels.kept_views import Loans

_NO_ELEMENTS = (0,)  # the shape of an output that a node should lack; it has no memory
_MAX_SHAPES = 64  # input shapes for which a node remembers the output shapes
_EMPTY_LIST, _EMPTY_LIST_OR_STRINGS = -1, -2  # kinds that ONNX does not have, as in cpp_ops/ort/operator.h
_NO_STRINGS = "an empty list or one of strings, which onnxruntime before 1.25 cannot tell apart"
_ndarray: Any = np.ndarray  # (shape, dtype, buffer)
_DTYPES = {number: name for name, number in ONNX_TYPES.items()}


def current(slot: Slot, operator: Operator) -> PythonKernel[..., Any]:
    """Return the kernel that an operator has now. Raises: PythonKernelError if it is gone, or of another signature."""
    kernel = slot.kernel
    if kernel is None:
        raise PythonKernelError(f"{slot.name}: the kernel of {slot.domain}::{slot.name} was removed; define it again")
    if kernel.operator is not operator and kernel.operator != operator:
        raise PythonKernelError(
            f"{slot.name}: {slot.domain}::{slot.name} was defined again with other inputs, outputs or attributes; "
            "make a new session"
        )
    return kernel


def present(kernel: PythonKernel[..., Any], attributes: Sequence[Attribute], read: Sequence[Any]) -> dict[str, Any]:
    """Return the attributes that a node has, decoded; see ``attribute_object`` in ``cpp_ops/python/attributes.h``.

    Raises: PythonKernelError for one of another type.
    """
    values = {}
    for attribute, found in zip(attributes, read, strict=True):
        if found is None:
            continue
        kind, data = found
        if kind == _EMPTY_LIST_OR_STRINGS:
            raise kernel.error(f"attribute {attribute.name}", "a list of numbers with elements", _NO_STRINGS)
        if kind == _EMPTY_LIST and attribute.kind in (6, 7, 8):
            kind, data = attribute.kind, b""
        if kind != attribute.kind:
            raise kernel.error(f"attribute {attribute.name}", attribute.python_type, KIND_NAMES[kind])
        values[attribute.name] = _decode(kind, data)
        if attribute.python_type == "bool":
            values[attribute.name] = bool(values[attribute.name])
    return values


def _decode(kind: int, data: Any) -> Any:
    if kind == 1:
        return struct.unpack("=f", data)[0]
    if kind == 2:
        return struct.unpack("=q", data)[0]
    if kind == 3:
        return data.decode()
    if kind == 4:
        onnx_type, shape, content = data
        array = np.ndarray(shape, _dtype(_DTYPES[onnx_type]), content)
        return array
    if kind == 8:
        return [bytes(item).decode() for item in data]
    return np.frombuffer(data, np.float32 if kind == 6 else np.int64).tolist()


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


class Node:
    """One node of one session: its attributes and element types, and the slot of its operator's kernel.

    Attributes:
        failures: where an exception of its kernel is kept for the run; None in a session of onnxruntime's own.
    """

    def __init__(
        self,
        slot: Slot,
        operator: Operator,
        input_dtypes: Sequence[str],
        output_dtypes: Sequence[str],
        attributes: Sequence[Any],
    ) -> None:
        self.failures = of_kernels_made_now()
        self._slot = slot
        self._operator = operator
        self._input_dtypes = [_dtype(name) for name in input_dtypes]
        self._output_dtypes = [_dtype(name) for name in output_dtypes]
        kernel = current(slot, operator)
        self._present = present(kernel, operator.attributes, attributes)
        kernel.check_attributes(self._present)
        self._bound = self._bind(kernel)

    def _bind(self, kernel: PythonKernel[..., Any]) -> tuple[Any, ...]:
        """The parts of a kernel that a call needs; replaced as a whole, so that threads see the old or the new."""
        return kernel, kernel._function, kernel.defaults | self._present, {}

    def prepare(self, shapes: tuple[Any, ...], *memory: Any) -> tuple[Any, ...]:
        """Take shapes and memoryviews of the inputs; return how to finish, and the shapes of the outputs.

        This and what it returns run at every call; they are written for speed.
        """
        bound = self._bound
        if self._slot.kernel is not bound[0]:
            bound = self._bound = self._bind(current(self._slot, self._operator))
        kernel, function, attributes, known_shapes = bound
        expected = known_shapes.get(shapes)
        if expected is None:
            expected = self._expect(kernel, shapes, attributes)
            if len(known_shapes) >= _MAX_SHAPES:
                known_shapes.clear()
            known_shapes[shapes] = expected
        if None in shapes:
            views = [
                None if shape is None else np.ndarray(shape, dtype, data)
                for shape, dtype, data in zip(shapes, self._input_dtypes, memory, strict=True)
            ]
        else:
            views = [*map(_ndarray, shapes, self._input_dtypes, memory)]
        if kernel.copy_inputs:
            views = [None if view is None else view.copy() for view in views]
        if kernel.writes_output:
            writing = self._writing(kernel, function, attributes, views, expected)
            return (writing, *[_NO_ELEMENTS if shape is None else shape for shape in expected])
        return self._returning(kernel, function, attributes, views, expected)

    def _expect(
        self, kernel: PythonKernel[..., Any], shapes: Sequence[Shape | None], attributes: Mapping[str, Any]
    ) -> Sequence[Shape | None]:
        """Return the known shapes of the outputs; all must be known for a kernel that takes ``out``.

        The shape of an optional output may be None even then, where the node lacks it.
        """
        expected = kernel.infer_shapes(shapes, attributes)
        for output, shape in zip(self._operator.outputs, expected, strict=True):
            is_known = shape is not None and all(isinstance(dim, int) for dim in shape)
            if kernel.writes_output and not is_known and not (output.is_optional and shape is None):
                got = "unknown" if shape is None else format_shape(shape)
                raise self._unknown_shape(kernel, output.argument, got)
        return expected

    def _unknown_shape(self, kernel: PythonKernel[..., Any], name: str, got: str) -> PythonKernelError:
        return kernel.error(f"the shape of {name}", "known before the call (the kernel takes out)", got)

    def _writing(
        self,
        kernel: PythonKernel[..., Any],
        function: Callable[..., Any],
        attributes: Mapping[str, Any],
        arrays: list[Any],
        shapes: Sequence[Any],
    ) -> Callable[..., None]:
        """Return a function that runs a kernel that writes into the outputs; ``arrays`` are its inputs."""

        def finish(*memory: Any) -> None:
            if None in memory or None in shapes:
                outputs = self._present_outputs(kernel, shapes, memory)
            else:
                outputs = [*map(_ndarray, shapes, self._output_dtypes, memory)]
            out: Any = outputs[0] if len(outputs) == 1 else tuple(outputs)
            result = function(*arrays, out=out, **attributes)
            if result is not None and result is not out:
                raise kernel.error("the result", "out, or None, of a kernel that takes out", type(result).__name__)

        return finish

    def _present_outputs(
        self, kernel: PythonKernel[..., Any], shapes: Sequence[Any], memory: Sequence[Any]
    ) -> list[Any]:
        """Return the outputs to write into, None for one that the node lacks."""
        outputs: list[Any] = []
        for output, shape, dtype, data in zip(self._operator.outputs, shapes, self._output_dtypes, memory, strict=True):
            if data is not None and shape is None:
                raise self._unknown_shape(kernel, output.argument, "unknown")
            outputs.append(None if data is None else np.ndarray(shape, dtype, data))
        return outputs

    def _returning(
        self,
        kernel: PythonKernel[..., Any],
        function: Callable[..., Any],
        attributes: Mapping[str, Any],
        views: list[Any],
        expected: Sequence[Shape | None],
    ) -> tuple[Any, ...]:
        """Run a kernel that returns arrays; return a function that copies them, and their shapes."""
        dtypes = self._output_dtypes
        results: Any = [function(*views, **attributes)]
        if len(dtypes) > 1:
            results = self._several(kernel, results[0])
        outputs = self._operator.outputs
        for i, (result, shape) in enumerate(zip(results, expected, strict=True)):
            if result is None and outputs[i].is_optional:
                continue
            if type(result) is not np.ndarray or result.dtype != dtypes[i] or result.shape != shape:
                results[i] = self._checked(kernel, i, result, shape)

        def finish(*memory: Any) -> None:
            for i, (result, dtype, data) in enumerate(zip(results, dtypes, memory, strict=True)):
                if data is None:  # an optional output that the node lacks
                    continue
                if result is None:
                    raise kernel.error(outputs[i].argument, f"an array of {dtype} (the node has this output)", "None")
                np.ndarray(result.shape, dtype, data)[...] = result

        return (finish, *[_NO_ELEMENTS if result is None else result.shape for result in results])

    def settle(self, error: BaseException, loans: Loans) -> BaseException:
        """Return the exception for a call that raised: its own, which then refers to no loan.

        If it, or anything else, still refers to one, that is another error, which comes in its place.
        """
        kept = kept_views.take_back(error, loans)
        if not kept:
            return error
        refusal = self._refusal(kept)
        if type(error) not in (KeyboardInterrupt, SystemExit, GeneratorExit):
            return refusal
        fresh = type(error)()
        if isinstance(error, SystemExit) and isinstance(fresh, SystemExit) and isinstance(error.code, int | str):
            fresh.code = error.code
        fresh.__cause__ = refusal
        return fresh

    def refuse_kept(self, loans: Loans) -> None:
        """Raise PythonKernelError if anything but garbage refers to the memory that a call lent."""
        if kept := kept_views.kept_for_good(loans):
            raise self._refusal(kept)

    def _refusal(self, kept: Sequence[int]) -> PythonKernelError:
        names = [parameter.argument for parameter in (*self._operator.inputs, *self._operator.outputs)]
        return self._bound[0].error(  # type: ignore[no-any-return]
            " and ".join(names[index] for index in kept),
            "let go of when the kernel returns, because the memory is onnxruntime's",
            "a view that was kept",
            "keep a copy, or define the kernel with copy_inputs=True",
        )

    def _several(self, kernel: PythonKernel[..., Any], result: Any) -> list[Any]:
        count = len(self._output_dtypes)
        if not isinstance(result, tuple | list) or len(result) != count:
            got = f"{len(result)}" if isinstance(result, tuple | list) else type(result).__name__
            raise kernel.error("the result", f"a tuple of {count} arrays", got)
        return list(result)

    def _checked(self, kernel: PythonKernel[..., Any], index: int, result: Any, shape: Shape | None) -> Any:
        """Check a result that the quick check did not pass: it is wrong, or not every dimension was known."""
        name, dtype = self._operator.outputs[index].argument, self._output_dtypes[index]
        if isinstance(result, np.generic):  # NumPy turns arrays of rank 0 into these
            result = np.asarray(result)
        if not isinstance(result, np.ndarray) or isinstance(result, np.ma.MaskedArray):
            raise kernel.error(name, f"a NumPy array of {dtype}", type(result).__name__)
        if result.dtype != dtype:
            raise kernel.error(name, f"of dtype {dtype}", str(result.dtype), f"return {name}.astype({dtype})")
        if shape is not None:
            is_same = len(result.shape) == len(shape) and all(
                not isinstance(known, int) or known == dim for known, dim in zip(shape, result.shape, strict=True)
            )
            if not is_same:
                like = kernel._infer_shape is like_first
                hint = "the shape of the first input; say otherwise by infer_shape=" if like else ""
                raise kernel.error(name, f"of shape {format_shape(shape)}", format_shape(result.shape), hint)
        return result
