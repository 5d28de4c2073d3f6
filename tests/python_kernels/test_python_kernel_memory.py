"""Python kernels that keep views of onnxruntime's memory, in an exception above all: an own copy, or an error.

Long because every test is one way to keep a view, and all share the model whose memory is written over.

Every kernel here gets an intermediate result, whose memory the next run of the session writes over.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import gc
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

import ort_ops
from ort_ops import Float, Out
from tests.native_support import Array
from tests.python_kernel_support import DOMAIN, make_model, one_node, remove_all_kernels, session

pytestmark = pytest.mark.native

X = np.arange(1, 4097, dtype=np.float32)
ROWS = np.array([[1, -2, 3], [0, 5, -6]], np.float32)
KEPT = r"Leak: x must be let go of when the kernel returns, .*, got a view that was kept; keep a copy"


@pytest.fixture(autouse=True)
def nothing_is_left_defined() -> Iterator[None]:
    yield
    remove_all_kernels()


def open_session(body: Callable[[Array], Any], **options: Any) -> ort_ops.InferenceSession:
    def leak(x: Float) -> Float:
        result: Array = body(x)
        return result

    kernel = ort_ops.python_kernel(f"{DOMAIN}::Leak", **options)(leak)
    nodes = [helper.make_node("Neg", ["x"], ["h"]), kernel.make_node(["h"], ["y"])]
    return session(make_model(nodes, {"x": ("float32", ["n"])}, {"y": ("float32", ["n"])}))


def failure_of(body: Callable[[Array], Any]) -> BaseException:
    """What comes out of the run, after other runs have used the memory that the kernel got."""
    opened = open_session(body)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        opened.run(None, {"x": X})
    error = caught.value
    del caught
    open_session(lambda x: x)  # the same operator again: the session's kernel, too
    for _ in range(3):
        opened.run(None, {"x": np.full_like(X, np.nan)})
    return error


class OwnError(Exception):
    pass


class SlottedError(Exception):
    __slots__ = ("payload",)


class Pair(NamedTuple):
    name: str
    values: Any


@dataclasses.dataclass
class Record:
    values: Any


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenRecord:
    values: Any


def with_attribute(value: Any, kind: type[Any] = OwnError) -> Any:
    error = kind("it failed")
    error.payload = value
    return error


def raised(error: BaseException, cause: BaseException | None = None) -> None:
    raise error from cause


def typo(x: Array) -> None:
    x.summ()  # type: ignore[attr-defined]


def typo_on_a_slice(x: Array) -> None:
    x[::2].summ()  # type: ignore[attr-defined]


def in_context(x: Array) -> None:
    try:
        raised(OwnError(x))
    except OwnError:
        raise KeyError("another") from None


def in_group(x: Array) -> None:
    raise ExceptionGroup("two", [OwnError(1), ExceptionGroup("inner", [with_attribute({"x": [x]})])])


def in_a_cycle(x: Array) -> None:
    values: list[Any] = [x]
    values.append(values)
    raise OwnError(values)


def in_a_nested_function(x: Array) -> None:
    def inner() -> Any:
        return x.summ()  # type: ignore[attr-defined]

    inner()


def in_a_generator_that_raises(x: Array) -> None:
    def rows() -> Iterator[Any]:
        yield x[:1]
        raise OwnError("in the generator", x)

    list(rows())


def in_locals(x: Array) -> None:
    locals()["extra"] = x
    raise OwnError("locals() was called")


def in_a_caught_exception(x: Array) -> None:
    try:
        typo(x)
    except AttributeError as error:
        raise with_attribute(error) from None


def in_a_traceback(x: Array) -> None:
    try:
        typo(x)
    except AttributeError:
        raise with_attribute(sys.exc_info()) from None


def in_notes(x: Array) -> None:
    error = OwnError("with notes")
    error.__notes__ = ["text", x]
    raise error


def in_stop_iteration(x: Array) -> None:
    raise StopIteration(x)


def in_system_exit(x: Array) -> None:
    raise SystemExit(x)


def in_its_own_group_class(x: Array) -> None:
    error = OwnError("no group", x)
    error.exceptions = None  # type: ignore[attr-defined]
    raise error


def in_an_object_array(x: Array) -> Array:
    values = np.empty(2, object)
    values[:] = [x, [x]]
    return values


OWNED: dict[str, tuple[Callable[[Array], Any], Callable[[Any], Any]]] = {
    "a typo": (typo, lambda e: e.obj),
    "a typo on a slice": (typo_on_a_slice, lambda e: np.repeat(e.obj, 2) - np.tile([0, 1], 2048)),
    "in a nested function": (in_a_nested_function, lambda e: e.obj),
    "argument": (lambda x: raised(OwnError("a", x)), lambda e: e.args[1]),
    "argument, nested": (lambda x: raised(OwnError([{"a": (x, 1)}])), lambda e: e.args[0][0]["a"][0]),
    "argument, a cycle": (in_a_cycle, lambda e: e.args[0][1][1][0]),
    "argument, named tuple": (lambda x: raised(OwnError(Pair("x", x))), lambda e: e.args[0].values),
    "attribute": (lambda x: raised(with_attribute(x)), lambda e: e.payload),
    "attribute, in a slot": (lambda x: raised(with_attribute(x, SlottedError)), lambda e: e.payload),
    "attribute, object": (lambda x: raised(with_attribute(Record([x]))), lambda e: e.payload.values[0]),
    "attribute, deque": (lambda x: raised(with_attribute(deque([x]))), lambda e: e.payload[0]),
    "attribute, ordered": (lambda x: raised(with_attribute(OrderedDict(a=x))), lambda e: e.payload["a"]),
    "attribute, memoryview": (lambda x: raised(with_attribute(memoryview(x))), lambda e: e.payload),
    "attribute, array of a memoryview": (
        lambda x: raised(with_attribute(np.asarray(memoryview(x)))),
        lambda e: e.payload,
    ),
    "attribute, masked array": (lambda x: raised(with_attribute(np.ma.masked_array(x))), lambda e: e.payload.data),
    "attribute, object array": (lambda x: raised(with_attribute(in_an_object_array(x))), lambda e: e.payload[1][0]),
    "attribute, method": (lambda x: raised(with_attribute(x.copy)), lambda e: e.payload()),
    "attribute, partial": (lambda x: raised(with_attribute(functools.partial(list, x))), lambda e: e.payload()),
    "attribute, closure": (lambda x: raised(with_attribute(lambda: x)), lambda e: e.payload()),
    "attribute, default": (lambda x: raised(with_attribute(lambda y=x: y)), lambda e: e.payload()),
    "cause": (lambda x: raised(OwnError("a"), OwnError(x)), lambda e: e.__cause__.args[0]),
    "context": (in_context, lambda e: e.__context__.args[0]),
    "group": (in_group, lambda e: e.exceptions[1].exceptions[0].payload["x"][0]),
    "generator": (in_a_generator_that_raises, lambda e: e.args[1]),
    "caught": (in_a_caught_exception, lambda e: e.payload.obj),
    "traceback": (in_a_traceback, lambda e: e.payload[1].obj),
    "notes": (in_notes, lambda e: e.__notes__[1]),
    "not a group": (in_its_own_group_class, lambda e: e.args[1]),
    "StopIteration": (in_stop_iteration, lambda e: e.value),
    "SystemExit": (in_system_exit, lambda e: e.code),
}


@pytest.mark.parametrize("where", OWNED)
def test_what_an_exception_shows_is_its_own(where: str) -> None:
    body, found = OWNED[where]
    error = failure_of(body)
    assert not isinstance(error, ort_ops.PythonKernelError)
    np.testing.assert_array_equal(found(error), -X)


def test_frames_of_the_traceback_show_no_memory_of_onnxruntime() -> None:
    for body in (typo, in_locals, in_a_nested_function, in_a_generator_that_raises):
        entry = failure_of(body).__traceback__
        names = set()
        while entry is not None:
            names.add(entry.tb_frame.f_code.co_name)
            for value in entry.tb_frame.f_locals.values():
                if isinstance(value, np.ndarray) and value is not X:
                    np.testing.assert_array_equal(value, -X)
            entry = entry.tb_next
        assert body.__name__ in names


def generator(x: Array) -> Iterator[Any]:
    yield x
    yield x


def started(x: Array) -> Iterator[Any]:
    running = generator(x)
    next(running)
    return running


HIDDEN: dict[str, Callable[[Array], Any]] = {
    "a generator": started,
    "an iterator": lambda x: iter([x]),
    "a flat iterator": lambda x: x.flat,
    "a frozen object": FrozenRecord,
    "a capsule": lambda x: x.__array_struct__,
    "a set": lambda x: {functools.partial(list, x)},
    "a mapping proxy": lambda x: type("Holder", (), {"x": x}).__dict__,
    "a class": lambda x: type("Holder", (), {"x": x}),
    "a tuple in tuples": lambda x: functools.reduce(lambda inner, _: (inner,), range(500), x),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_an_exception_that_hides_a_view_is_not_let_out(what: str) -> None:
    error = failure_of(lambda x: raised(with_attribute(HIDDEN[what](x))))
    assert isinstance(error, ort_ops.PythonKernelError)
    assert str(error).startswith("Leak: x must be let go of")
    assert error.__cause__ is error.__context__ is None


kept_here: list[Any] = []


@pytest.mark.parametrize("kind", [OwnError, KeyboardInterrupt, SystemExit, GeneratorExit, RecursionError])
def test_a_kernel_that_keeps_a_view_and_raises_is_an_error_about_the_view(kind: type[BaseException]) -> None:
    def body(x: Array) -> None:
        kept_here.append(x)
        raise kind(3)

    try:
        error = failure_of(body)
    finally:
        kept_here.clear()
    if issubclass(kind, Exception):
        assert isinstance(error, ort_ops.PythonKernelError)
        refusal: BaseException | None = error
    else:  # what is to end a program, or a wait, does
        assert type(error) is kind
        assert not isinstance(error, SystemExit) or error.code == 3
        refusal = error.__cause__
    assert str(refusal).startswith("Leak: x must be let go of")
    assert "kept_here" not in repr(vars(error))


def keep_base(x: Array) -> None:
    kept_here.append(x.base)


def keep_in_a_default(x: Array) -> None:
    kept_here.append(lambda y=x: y)


def keep_with_a_finalizer(x: Array) -> None:
    """In a cycle, and resurrected by its own end."""

    class Phoenix:
        def __del__(self) -> None:
            kept_here.append(self)

    phoenix = Phoenix()
    phoenix.me, phoenix.x = phoenix, x  # type: ignore[attr-defined]


def keep_in_an_exception(x: Array) -> None:
    try:
        typo(x)
    except AttributeError as error:
        kept_here.append(error)


def keep_in_a_frame(x: Array) -> None:
    kept_here.append(sys._getframe())


def keep_in_a_thread(x: Array) -> None:
    """Which goes on after the kernel, and lets go when it is told to."""
    told = threading.Event()
    kept_here.append(Telling(told))
    threading.Thread(target=lambda y: told.wait(60), args=(x,)).start()


def keep_in_a_generator(x: Array) -> None:
    kept_here.append(started(x))


def keep_in_a_context_variable(x: Array) -> None:
    kept_here.append(contextvars.copy_context())
    kept_here[-1].run(VARIABLE.set, x)


def keep_on_a_thread_s_own(x: Array) -> None:
    LOCAL.x = [x]
    kept_here.append(Telling(LOCAL))


class Telling:
    """Ends what keeps a view, when it goes itself."""

    def __init__(self, keeper: Any) -> None:
        self.keeper = keeper

    def __del__(self) -> None:
        self.keeper.set() if isinstance(self.keeper, threading.Event) else vars(self.keeper).clear()


VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("x")
LOCAL = threading.local()


@pytest.mark.parametrize(
    "keep",
    [
        keep_base,
        keep_in_a_default,
        keep_with_a_finalizer,
        keep_in_an_exception,
        keep_in_a_frame,
        keep_in_a_thread,
        keep_in_a_generator,
        keep_in_a_context_variable,
        keep_on_a_thread_s_own,
    ],
)
def test_a_view_that_is_kept_in_any_way_is_an_error(keep: Callable[[Array], None]) -> None:
    def body(x: Array) -> Array:
        keep(x)
        return x.copy()

    try:
        with pytest.raises(ort_ops.PythonKernelError, match=KEPT):
            open_session(body).run(None, {"x": X})
    finally:
        kept_here.clear()
        gc.collect()


def test_an_exception_shows_no_output_either() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Leak")
    def leak(x: Float, *, out: Out) -> Float:
        out[...] = 2
        raise OwnError(out, x)

    nodes = [helper.make_node("Neg", ["x"], ["h"]), leak.make_node(["h"], ["y"])]
    opened = session(make_model(nodes, {"x": ("float32", ["n"])}, {"y": ("float32", ["n"])}))
    with pytest.raises(OwnError) as caught:
        opened.run(None, {"x": X})
    out, x = caught.value.args
    assert out.base is None
    assert (out == 2).all()
    np.testing.assert_array_equal(x, -X)


def test_what_a_kernel_drops_before_it_returns_is_no_matter() -> None:
    """Views of every kind, weak references, and threads that are done."""

    def body(x: Array) -> Array:
        me: list[Any] = [x, memoryview(x), x.flat, weakref.ref(x)]
        me.append(me)
        return np.frombuffer(memoryview(x), np.float32)[::-1]

    opened = open_session(body)
    np.testing.assert_array_equal(opened.run(None, {"x": X})[0], -X[::-1])


def test_weak_references_and_finalizers_see_no_memory_of_onnxruntime() -> None:
    """They are called while the call ends, with arrays that are gone."""
    seen: list[Any] = []

    def body(x: Array) -> Array:
        kept_here.append(weakref.ref(x, lambda reference: seen.append(reference())))
        weakref.finalize(x, seen.append, "finalized")
        return x

    try:
        np.testing.assert_array_equal(open_session(body).run(None, {"x": X})[0], -X)
        assert [item for item in seen if not isinstance(item, str)] == [None]
        assert kept_here[0]() is None
    finally:
        kept_here.clear()


@pytest.mark.parametrize("takes_out", [False, True])
def test_no_garbage_is_collected_where_nothing_is_kept(takes_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On any Python: nothing depends on how an interpreter counts references."""

    def returns(x: Float) -> Float:
        return x + x

    def writes(x: Float, *, out: Out) -> Float:
        np.add(x, x, out=out)
        return out

    kernel = ort_ops.python_kernel(f"{DOMAIN}::Leak")(writes if takes_out else returns)
    opened = session(make_model([kernel.make_node(["x"], ["y"])], {"x": ("float32", ["n"])}, {"y": ("float32", ["n"])}))
    collected: list[Any] = []
    monkeypatch.setattr(gc, "collect", lambda *_: collected.append(1))
    for _ in range(100):
        np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X + X)
    assert not collected


@pytest.mark.parametrize(
    "keep",
    [lambda x: x, lambda x: x[1:], lambda x: x.T, memoryview, lambda x: [x]],
    ids=["itself", "slice", "transpose", "memoryview", "in a list"],
)
def test_a_view_that_is_kept_is_an_error(keep: Callable[[Array], Any]) -> None:
    kept = []

    @ort_ops.python_kernel(f"{DOMAIN}::Keep")
    def keeper(x: Float) -> Float:
        kept.append(keep(x))
        return np.array(x)

    with pytest.raises(ort_ops.PythonKernelError, match=r"Keep: x must be let go of .*; keep a copy"):
        session(one_node(keeper)).run(None, {"x": ROWS})

    @ort_ops.python_kernel(f"{DOMAIN}::Keep", copy_inputs=True)
    def copier(x: Float) -> Float:
        kept[:] = [x]
        return x

    opened = session(one_node(copier))
    opened.run(None, {"x": ROWS})
    np.testing.assert_array_equal(kept[0], ROWS)


def test_an_output_that_is_kept_is_an_error() -> None:
    kept = []

    @ort_ops.python_kernel(f"{DOMAIN}::Keep", copy_inputs=True)
    def keeper(x: Float, *, out: Out) -> Float:
        kept.append(out[:1])
        out[...] = x
        return out

    with pytest.raises(ort_ops.PythonKernelError, match="Keep: y must be let go of"):
        session(one_node(keeper)).run(None, {"x": ROWS})


def test_a_reference_cycle_is_not_a_kept_view() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Cycle")
    def cycle(x: Float) -> Float:
        me: list[Any] = [x]
        me.append(me)
        return x

    np.testing.assert_array_equal(session(one_node(cycle)).run(None, {"x": ROWS})[0], ROWS)


def test_an_exception_shows_no_memory_of_onnxruntime() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Fail")
    def fail(x: Float) -> Float:
        part = x[1:]
        raise ValueError("with the array", x, part)

    with pytest.raises(ValueError, match="with the array") as caught:
        session(one_node(fail)).run(None, {"x": ROWS})
    arrays = [
        value
        for entry in caught.traceback
        if entry.name in ("fail", "prepare", "_returning", "finish")
        for value in entry.frame.f_locals.values()
    ]
    assert arrays == []
    np.testing.assert_array_equal(caught.value.args[1], ROWS)
    assert caught.value.args[1].flags.owndata
