"""The Python end of the trampoline in ``cpp_ops/python_op.cc``: what crosses, and what happens to exceptions.

The library calls a node's ``prepare`` with the memory and shapes of its inputs, allocates the outputs that it asks for,
and calls the ``finish`` that it returned with their memory. Everything else is decided in `ort_ops.python_op`.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import itertools
import re
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime

from ort_ops import native

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
)
"""Of Python's stable C API, in the order of ``PythonApi`` in ``cpp_ops/python_op.h``."""

_OBJECTS = ("none", "describe_failure")
_FAIL, _INVALID_ARGUMENT = 1, 2  # OrtErrorCode
_SHUTDOWN_MS = 2000
_MAX_FAILURES = 64

_lock = threading.Lock()
_kept: list[Any] = []  # what the library has pointers to, for the life of the process
_attached: list[ctypes.CDLL] = []
_domains: dict[tuple[Any, ...], _Domain] = {}
_failures: OrderedDict[int, BaseException] = OrderedDict()
_failure_numbers = itertools.count(1)


class _PythonApi(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in _FUNCTIONS + _OBJECTS)


class _Overload(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("since_version", ctypes.c_int32),
        ("num_inputs", ctypes.c_int32),
        ("num_required", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
        ("num_attributes", ctypes.c_int32),
        ("input_types", ctypes.POINTER(ctypes.c_int32)),
        ("output_types", ctypes.POINTER(ctypes.c_int32)),
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
    """One combination of element types of one version of an operator, as onnxruntime is to see it.

    Attributes:
        make_node: (an attribute's kind and bytes, or None, for each attribute) -> prepare.
        infer: (attributes, type, shape, type, shape, ...) -> (type, shape, ...).
    """

    name: str
    since_version: int
    num_required: int
    input_types: tuple[int, ...]
    output_types: tuple[int, ...]
    attributes: tuple[str, ...]
    make_node: Callable[..., Any]
    infer: Callable[..., tuple[Any, ...]]


Domain = tuple[str, tuple[Any, ...], Callable[[], list[Overload]]]
"""(name, identity, make_overloads): the same identity means the same overloads, which are then not made again."""


def register(
    options: onnxruntime.SessionOptions,
    domains: Sequence[Domain],
    *,
    with_mylinear: bool,
) -> None:
    """Register the library with session options: MYLINEAR's C++ kernels or not, and domains of Python kernels.

    Args:
        options: changed in place.
        domains: what is registered is kept for the life of the process, because onnxruntime has pointers to it.
        with_mylinear: whether to add MYLINEAR's C++ kernels.

    Raises: NativeLibraryError without a library; what onnxruntime raises.
    """
    path = native.library_path()
    if not domains:  # nothing Python in the way: as any host registers it
        options.register_custom_ops_library(path)
        return
    library = _attach(path)
    with _lock:
        made = (_Domain * len(domains))(*[_domain(*domain) for domain in domains])
    library.mylinear_python_select(int(with_mylinear), made, len(domains))
    try:
        options.register_custom_ops_library(path)
    finally:
        library.mylinear_python_select(1, None, 0)


def take_failure(message: str) -> BaseException | None:
    """Return the exception that a Python kernel raised, given onnxruntime's message about it; once."""
    found = re.search(r"\[failure (\d+)\]", message)
    return _failures.pop(int(found[1]), None) if found else None


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
    _kept.append(_describe_failure)
    api.none = id(None)
    api.describe_failure = id(_describe_failure)
    if not library.mylinear_python_attach(ctypes.byref(api), ctypes.sizeof(api)):
        raise native.NativeLibraryError(f"{path} is of another version than this Python package")
    _attached.append(library)
    return library


@atexit.register  # at import, so that hooks registered later, which run earlier, can still use sessions
def _detach() -> None:
    """Let no further call in: a thread that waits for the GIL of an interpreter that goes never returns, or worse."""
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
        overload.num_required,
        len(outputs),
        len(attributes),
        (ctypes.c_int32 * len(inputs))(*inputs),
        (ctypes.c_int32 * len(outputs))(*outputs),
        (ctypes.c_char_p * len(attributes))(*[name.encode() for name in attributes]),
        overload.make_node,
        overload.infer,
    )


def _describe_failure(error: BaseException) -> tuple[int, bytes]:
    """Write what a kernel raised as onnxruntime's error, and keep it for `take_failure`."""
    lines = traceback.format_exception(error)
    summary = "".join(traceback.format_exception_only(error)).strip()
    number = next(_failure_numbers)
    # The kernel's frames hold views of memory that onnxruntime is about to take back; a debugger must not find them.
    clear_frames(error)
    _failures[number] = error
    while len(_failures) > _MAX_FAILURES:
        _failures.popitem(last=False)
    text = f"{summary} [failure {number}]\n{''.join(lines)}"
    code = _INVALID_ARGUMENT if isinstance(error, ValueError | TypeError) else _FAIL
    return code, text.replace("\0", "?").encode("utf-8", "backslashreplace")


def clear_frames(error: BaseException) -> None:
    """Drop the local variables of every finished frame that an exception, and those it came from, can show."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        pending += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
