"""Connect Python kernels with the C++ library (``cpp_ops/python``): register them, and pass on exceptions.

The library calls a node's ``prepare`` with the memory and shapes of its inputs, allocates the outputs that it asks for,
and calls the ``finish`` that it returned with their memory. Everything else is decided in `decorator`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime

from ort_ops.exclusive import guarded, new_lock
from ort_ops.native import library as native
from ort_ops.python_kernels.failures import of_kernels_made_now
from ort_ops.python_kernels.kept_views import Loans

_FUNCTIONS = (
    "PyGILState_Ensure",
    "PyGILState_Release",
    "Py_IncRef",
    "Py_DecRef",
    "PyTuple_New",
    "PyTuple_SetItem",
    "PyTuple_GetItem",
    "PyTuple_Size",
    "PyLong_FromLongLong",
    "PyLong_AsLongLong",
    "PyBytes_FromStringAndSize",
    "PyBytes_AsStringAndSize",
    "PyMemoryView_FromMemory",
    "PyObject_CallObject",
    "PyErr_Occurred",
    "PyErr_Clear",
    "PyErr_Fetch",
    "PyErr_NormalizeException",
    "PyException_SetTraceback",
    "PyWeakref_NewRef",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
)
"""Functions of Python's stable C API, in the order of ``PythonApi`` in ``cpp_ops/python/api.h``."""

_OBJECTS = ("none", "describe_failure", "refuse_kept", "end_child")
_FAIL, _INVALID_ARGUMENT = 1, 2  # OrtErrorCode
_MAX_MESSAGE_NBYTES = 2000  # onnxruntime cuts at 4095 (1.32) or 2047 (1.17)
_SHUTDOWN_MS = 2000

_lock = new_lock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_kept: list[Any] = []  # objects that the library has pointers to, for the life of the process
_attached: list[ctypes.CDLL] = []
_domains: dict[tuple[Any, ...], _Domain] = {}


class _PythonApi(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in _FUNCTIONS + _OBJECTS)


class _Overload(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("since_version", ctypes.c_int32),
        ("num_inputs", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
        ("num_attributes", ctypes.c_int32),
        ("input_types", ctypes.POINTER(ctypes.c_int32)),
        ("output_types", ctypes.POINTER(ctypes.c_int32)),
        ("input_is_optional", ctypes.POINTER(ctypes.c_int32)),
        ("output_is_optional", ctypes.POINTER(ctypes.c_int32)),
        ("attributes", ctypes.POINTER(ctypes.c_char_p)),
        ("make_node", ctypes.py_object),
        ("infer", ctypes.py_object),
    )


class _Domain(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_int64),
        ("name", ctypes.c_char_p),
        ("num_overloads", ctypes.c_int32),
        ("overloads", ctypes.POINTER(_Overload)),
    )


@dataclass(frozen=True)
class Overload:
    """One combination of element types of one version of an operator, as onnxruntime sees it.

    Attributes:
        input_is_optional: for each input, whether a node may leave it out; it then has None for shape and memory.
        output_is_optional: the same for each output, which then has None for memory.
        make_node: (an attribute's kind and bytes, or None, for each attribute) -> prepare, a method of a node that
            has ``failures``, ``settle`` and ``refuse_kept``.
        infer: (attributes, type, shape, type, shape, ...) -> (type, shape, ...).
    """

    name: str
    since_version: int
    input_types: tuple[int, ...]
    output_types: tuple[int, ...]
    input_is_optional: tuple[bool, ...]
    output_is_optional: tuple[bool, ...]
    attributes: tuple[str, ...]
    make_node: Callable[..., Any]
    infer: Callable[..., tuple[Any, ...]]


Domain = tuple[str, tuple[Any, ...], Callable[[], list[Overload]]]
"""(name, identity, make_overloads); with the same identity, the overloads are the same and not made again."""


def register(
    options: onnxruntime.SessionOptions,
    path: str,
    domains: Sequence[Domain],
    *,
    with_cpp_kernels: bool,
) -> None:
    """Register the library with session options: its C++ kernels or not, and domains of Python kernels.

    Args:
        options: changed in place.
        path: of the library, from `ort_ops.native.library.library_path`.
        domains: kept for the life of the process, because onnxruntime has pointers to them.
        with_cpp_kernels: whether to add the operators that have C++ kernels in the library.

    Raises: NativeLibraryError for a library of another version; what onnxruntime raises.
    """
    if not domains:  # without Python: as any host registers it
        options.register_custom_ops_library(path)
        return
    _select(_attach(path), options, path, domains, with_cpp_kernels)


@guarded(lambda: _lock)  # the library's own lock too, which a fork must not find taken
def _select(
    library: ctypes.CDLL,
    options: onnxruntime.SessionOptions,
    path: str,
    domains: Sequence[Domain],
    with_cpp_kernels: bool,
) -> None:
    made = (_Domain * len(domains))(*[_domain(*domain) for domain in domains])
    try:
        library.mylinear_python_select(int(with_cpp_kernels), made, len(domains))
        options.register_custom_ops_library(path)
    finally:
        library.mylinear_python_select(1, None, 0)


@functools.cache
def _attach(path: str) -> ctypes.CDLL:
    """Hand Python's functions to the library, once."""
    library = ctypes.CDLL(path)
    library.mylinear_python_attach.argtypes = [ctypes.POINTER(_PythonApi), ctypes.c_size_t]
    library.mylinear_python_select.argtypes = [ctypes.c_int, ctypes.POINTER(_Domain), ctypes.c_size_t]
    library.mylinear_python_select.restype = None
    library.mylinear_python_detach.argtypes = [ctypes.c_int]
    api = _PythonApi()
    for name in _FUNCTIONS:
        setattr(api, name, ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value)
    for name, item in zip(_OBJECTS, (None, _describe_failure, _refuse_kept, _end_child), strict=True):
        _kept.append(item)
        setattr(api, name, id(item))
    nbytes = sum(ctypes.sizeof(struct) for struct in (_PythonApi, _Overload, _Domain))
    if not library.mylinear_python_attach(ctypes.byref(api), nbytes):
        raise native.NativeLibraryError(
            f"{path} was built for another Python package than this; build it from cpp_ops again, as README.md says"
        )
    _attached.append(library)
    return library


def detach() -> None:
    """Let no further call in: a thread that waits for the GIL of an ending interpreter never returns, or worse."""
    for library in _attached:
        library.mylinear_python_detach(_SHUTDOWN_MS)


def _domain(name: str, identity: tuple[Any, ...], make: Callable[[], list[Overload]]) -> _Domain:
    key = (name, identity)
    if key not in _domains:
        overloads = make()
        structs = (_Overload * len(overloads))(*[_struct(overload) for overload in overloads])
        _kept.extend([overloads, structs])
        _domains[key] = _Domain(len(_domains), name.encode(), len(overloads), structs)
    return _domains[key]


def _struct(overload: Overload) -> _Overload:
    inputs, outputs, attributes = overload.input_types, overload.output_types, overload.attributes
    return _Overload(
        overload.name.encode(),
        overload.since_version,
        len(inputs),
        len(outputs),
        len(attributes),
        (ctypes.c_int32 * len(inputs))(*inputs),
        (ctypes.c_int32 * len(outputs))(*outputs),
        (ctypes.c_int32 * len(inputs))(*overload.input_is_optional),
        (ctypes.c_int32 * len(outputs))(*overload.output_is_optional),
        (ctypes.c_char_p * len(attributes))(*[name.encode() for name in attributes]),
        overload.make_node,
        overload.infer,
    )


def _describe_failure(error: BaseException, prepare: Any, loans: Loans) -> tuple[int, bytes]:
    """Write an exception as onnxruntime's error, and keep it for the run that fails by it, in a session of ours.

    Args:
        error: the exception.
        prepare: of the node whose kernel raised it, or None.
        loans: memory that the kernel may have kept in it.
    """
    text = _text_of(error)
    code = _INVALID_ARGUMENT if issubclass(type(error), ValueError | TypeError) else _FAIL
    failures = of_kernels_made_now()
    if prepare is not None:
        node = prepare.__self__
        failures = node.failures
        settled = node.settle(error, loans)
        if settled is not error:
            text = f"{_text_of(settled)}{text}"
            error = settled
    if failures is not None:
        text = f"{failures.record(error)} {text}"  # first, because onnxruntime cuts long messages
    return code, _as_message(text)


def _as_message(text: str) -> bytes:
    """Encode a text for onnxruntime, and cut it between two characters where onnxruntime might cut within one."""
    data = text.replace("\0", "?").encode("utf-8", "backslashreplace")
    if data.isascii():
        return data
    return data[:_MAX_MESSAGE_NBYTES].decode("utf-8", "ignore").encode("utf-8")


def _text_of(error: BaseException) -> str:
    """Return the message, and below it the traceback."""
    try:
        summary = "".join(traceback.format_exception_only(error)).strip()
        return "\n".join([summary, *traceback.format_exception(error)])
    except Exception as failure:
        return f"{type(error).__name__}, which cannot be written as text ({type(failure).__name__})\n"


def _refuse_kept(prepare: Any, loans: Loans) -> None:
    prepare.__self__.refuse_kept(loans)


def _end_child(error: BaseException | None) -> None:
    """End a process that was forked inside a kernel and has come out of it.

    The child has none of onnxruntime's threads, nor of the threads that these wait for.
    """
    status = 1
    try:
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            status = error.code or 0
        else:
            if error is not None:
                traceback.print_exception(error)
            print(
                "ort_ops: a process that is forked inside a kernel must end inside it, by os._exit() or sys.exit(), "
                "because onnxruntime cannot go on in it; it was ended here",
                file=sys.stderr,
            )
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
