"""Which exception comes out of a run: the one that was raised in it, whatever the texts say.

Long because every way out of a run is tried with every way in which a kernel can fail.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

import ort_ops
from ort_ops import Float, Out
from ort_ops.python_kernels.failures import Failures
from tests.native_support import Array
from tests.python_kernel_support import DOMAIN, X, make_model, one_node, quiet, remove_all_kernels, session

pytestmark = pytest.mark.native


@pytest.fixture(autouse=True)
def nothing_is_left_defined() -> Iterator[None]:
    yield
    remove_all_kernels()


class OwnError(Exception):
    pass


def define(body: Callable[[Array], Any], name: str = "Fail") -> Any:
    def kernel(x: Float) -> Float:
        result: Array = body(x)
        return result

    return ort_ops.python_kernel(f"{DOMAIN}::{name}")(kernel)


def raising(error: BaseException) -> Callable[[Array], Any]:
    def body(x: Array) -> Any:
        raise error

    return body


def plain_session(model: bytes) -> onnxruntime.InferenceSession:
    options = quiet()
    ort_ops.register(options, "body")
    return onnxruntime.InferenceSession(model, options)


def text_of_run(opened: onnxruntime.InferenceSession) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        opened.run(None, {"x": X})
    return str(caught.value)


def raised_by(opened: ort_ops.InferenceSession, x: Array = X) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        opened.run(None, {"x": x})
    assert opened._failures._failures == {}  # nothing is left for another run
    return caught.value


@pytest.mark.parametrize("text", ["é", "aé", "€", "a€", "aa€", "😀", "a😀", "aa😀", "aaa😀"])
def test_a_long_text_is_never_cut_within_a_character(text: str) -> None:
    error = OwnError(text + text[-1] * 5000)
    model = one_node(define(raising(error)))
    assert raised_by(session(model)) is error
    assert text in text_of_run(plain_session(model))


@pytest.mark.parametrize("length", [0, 4000, 4096, 5000, 200_000])
def test_a_message_of_any_length(length: int) -> None:
    error = OwnError("x" * length)
    assert raised_by(session(one_node(define(raising(error))))) is error


def test_messages_that_quote_other_errors() -> None:
    other = define(raising(KeyError("of another session")), "Other")
    quotes = [
        "[failure 1]",
        f"[failure {'0' * 32}]",
        text_of_run(plain_session(one_node(other))),
        text_of_run(session(one_node(other))),
        "Non-zero status code returned while running Fail node. Name:'' Status Message: ",
    ]
    opened = session(one_node(define(lambda x: X)))
    for text in [*quotes, "".join(quotes)]:
        error = OwnError(text)
        define(raising(error))
        assert raised_by(opened) is error


def test_what_onnxruntime_says_of_a_failure_cannot_be_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the very text of an earlier error of the same session means anything."""
    texts: list[str] = []
    take = Failures.take

    def taken(self: Failures, message: str) -> BaseException | None:
        texts.append(message)
        return take(self, message)

    monkeypatch.setattr(Failures, "take", taken)
    opened = session(one_node(define(raising(OwnError("first")))))
    raised_by(opened)
    (text,) = texts
    assert re.search(r"\[failure [0-9a-f]{32}\] .*first", text)
    error = OwnError(f"{text} and more")
    define(raising(error))
    assert raised_by(opened) is error


def test_a_node_s_name_and_an_operator_s_are_no_failures() -> None:
    error = OwnError("in the node")
    kernel = define(raising(error))
    node = kernel.make_node(["x"], ["y"], name=f"[failure {'a' * 32}] " + "n" * 5000)
    model = make_model([node], {"x": ("float32", ["b", 3])}, {"y": ("float32", ["b", 3])})
    assert raised_by(session(model)) is error


def test_attributes_that_look_like_a_group_s() -> None:
    class PosingError(Exception):
        exceptions = None

    class RaisingError(Exception):
        @property
        def exceptions(self) -> Any:
            raise KeyError("no")

    class Group(ExceptionGroup[Exception]):
        def __getattribute__(self, name: str) -> Any:
            return None if name == "exceptions" else super().__getattribute__(name)

    opened = session(one_node(define(lambda x: X)))
    for error in (
        PosingError(),
        RaisingError(),
        Group("a group", [ValueError("a member")]),
        ExceptionGroup("g", [OwnError()]),
    ):
        define(raising(error))
        assert raised_by(opened) is error


def test_exceptions_that_cannot_be_written() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    class WildError(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise RecursionError(name)

    class StaleError(Exception):
        __notes__ = 3  # type: ignore[assignment]

    opened = session(one_node(define(lambda x: X)))
    for error in (
        MuteError(),
        WildError(),
        StaleError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        OwnError("\udc80\0"),
    ):
        define(raising(error))
        caught = raised_by(opened)
        is_the_one = caught is error  # pytest cannot write them either
        assert is_the_one


@pytest.mark.parametrize("same", [False, True], ids=["another session", "the same session"])
def test_a_kernel_that_runs_a_session_whose_kernel_fails(same: bool) -> None:
    error = OwnError("innermost")
    inner = session(one_node(define(raising(error), "Inner")))
    opened: list[Any] = []
    seen: list[bool] = []

    def outer(x: Array) -> Any:
        if x[0, 0] == 0:
            raise error
        runs = opened[0] if same else inner
        try:
            runs.run(None, {"x": x * 0})
        except OwnError as caught:
            seen.append(caught is error)
            if x[0, 0] > 1:
                raise KeyError("from the outer") from caught
            raise

    opened.append(session(one_node(define(outer, "Outer"))))
    assert raised_by(opened[0]) is error
    second = raised_by(opened[0], X + 1)
    assert isinstance(second, KeyError)
    assert second.__cause__ is error
    assert seen == [True, True]


def parallel() -> onnxruntime.SessionOptions:
    options = quiet()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.inter_op_num_threads = 4
    return options


def test_onnxruntime_s_own_error_beside_a_kernel_s() -> None:
    """Two branches, one of which fails in onnxruntime itself, run in parallel: either is right, a mixture is not."""
    error = OwnError("of the kernel")
    kernel = define(raising(error))
    nodes = [
        kernel.make_node(["x"], ["h"]),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Neg", ["r"], ["z"]),
        helper.make_node("Neg", ["h"], ["y"]),
    ]
    outputs = {"y": ("float32", ["b", 3]), "z": ("float32", None)}
    inputs = {"x": ("float32", ["b", 3]), "shape": ("int64", [1])}
    opened = ort_ops.InferenceSession(make_model(nodes, inputs, outputs), parallel())
    for shape, expected in ((5, None), (6, error)):
        for _ in range(8):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                opened.run(None, {"x": X, "shape": np.array([shape])})
            if caught.value is not error:
                assert expected is None
                assert "Reshape" in str(caught.value)
                assert not isinstance(caught.value, OwnError)
    assert opened._failures._failures == {}


@pytest.mark.parametrize("options", [quiet, parallel])
def test_each_of_many_runs_at_once_gets_its_own(options: Callable[[], onnxruntime.SessionOptions]) -> None:
    def fail(x: Array) -> Any:
        raise OwnError(int(x[0, 0]))

    kernel = define(fail)
    nodes = [kernel.make_node(["x"], [name]) for name in ("h", "i", "j")]
    nodes.append(helper.make_node("Sum", ["h", "i", "j"], ["y"]))
    model = make_model(nodes, {"x": ("float32", ["b", 3])}, {"y": ("float32", ["b", 3])})
    opened = ort_ops.InferenceSession(model, options())
    wrong: list[Any] = []

    def work(index: int) -> None:
        for i in range(20):
            number = index * 1000 + i
            try:
                opened.run(None, {"x": np.full((2, 3), number, np.float32)})
                wrong.append("no error")
            except BaseException as error:
                if type(error) is not OwnError or error.args != (number,):
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert opened._failures._failures == {}
    assert opened._failures.runs == {}


def test_errors_in_a_subgraph() -> None:
    error = OwnError("in a branch")
    kernel = define(raising(error))
    shape = ["b", 3]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    branches = {}
    for name, node in (("then", kernel.make_node(["x"], ["t"])), ("else", helper.make_node("Neg", ["x"], ["t"]))):
        output = helper.make_tensor_value_info("t", TensorProto.FLOAT, shape)
        branches[f"{name}_branch"] = helper.make_graph([node], name, [], [output])
    node = helper.make_node("If", ["c"], ["y"], **branches)
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph([node], "test", inputs, [y])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    opened = session(model.SerializeToString())
    np.testing.assert_array_equal(opened.run(None, {"x": X, "c": np.array(False)})[0], -X)
    with pytest.raises(OwnError) as caught:
        opened.run(None, {"x": X, "c": np.array(True)})
    assert caught.value is error


def test_kernels_that_onnxruntime_makes_again_are_the_session_s_own() -> None:
    error = OwnError("after new providers")
    opened = session(one_node(define(raising(error))))
    opened.set_providers(["CPUExecutionProvider"])
    assert raised_by(opened) is error


def test_every_way_to_run() -> None:
    error = OwnError("each way")
    opened = session(one_node(define(raising(error))))
    value = onnxruntime.OrtValue.ortvalue_from_numpy(X)
    binding = opened.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")
    for run in (
        lambda: opened.run(["y"], {"x": X}),
        lambda: opened.run_with_ort_values(["y"], {"x": value}),
        lambda: opened.run_with_iobinding(binding),
    ):
        with pytest.raises(OwnError) as caught:
            run()
        assert caught.value is error


def test_a_run_that_nobody_waits_for_leaves_no_failure() -> None:
    options = quiet()
    options.intra_op_num_threads = 2  # which run_async wants
    opened = ort_ops.InferenceSession(one_node(define(raising(OwnError("meanwhile")))), options)
    told = threading.Event()
    texts: list[str] = []

    def done(results: Any, user_data: Any, error: str) -> None:
        texts.append(error)
        told.set()

    opened.run_async(["y"], {"x": X}, done, None)
    assert told.wait(60)
    assert "OwnError: meanwhile" in texts[0]
    assert opened._failures._failures == {}


def test_failures_that_nobody_takes_are_forgotten_with_their_runs() -> None:
    failures = Failures()

    def begin() -> int:
        number = failures.next_number()
        failures.runs[number] = None
        return number

    def end(number: int) -> None:
        del failures.runs[number]
        failures.forget()

    first, second = begin(), begin()
    begun = [failures.record(OwnError(i)) for i in range(3)]
    end(second)
    late = begin()
    assert isinstance(failures.take(f"text {begun[1]} text"), OwnError)
    assert failures.take(f"text {begun[1]} text") is None
    end(first)
    assert failures.take(begun[0]) is None  # the run that is left began later
    end(late)
    assert failures._failures == {}


def warned(x: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("of the kernel", UserWarning, stacklevel=1)
    return x


def overflowed(x: Array) -> Array:
    with np.errstate(all="raise"):
        return x / np.float32(0)


def recursive(x: Array) -> Array:
    return recursive(x[:])


def out_of_memory(x: Array) -> Array:
    return np.empty((2**62,), np.int8)


def in_c(x: Array) -> Array:
    return np.linalg.inv(np.zeros((3, 3)))


def in_a_callback_of_c(x: Array) -> Array:
    return np.array(sorted([1, 2], key=lambda _: x.summ()))  # type: ignore[attr-defined]


def in_an_import(x: Array) -> Array:
    import a_module_that_is_not_there

    result: Array = a_module_that_is_not_there.function(x)
    return result


ORDINARY: dict[str, tuple[Callable[[Array], Any], type[BaseException]]] = {
    "a warning that is an error": (warned, UserWarning),
    "a floating-point error": (overflowed, FloatingPointError),
    "a recursion without end": (recursive, RecursionError),
    "no memory": (out_of_memory, MemoryError),
    "an extension in C": (in_c, np.linalg.LinAlgError),
    "a callback of C": (in_a_callback_of_c, AttributeError),
    "a module that is missing": (in_an_import, ModuleNotFoundError),
    "the end of a generator": (lambda x: next(iter(())), StopIteration),
    "an assertion": (lambda x: raising(AssertionError())(x), AssertionError),
    "a read-only input": (lambda x: np.add(x, x, out=x), ValueError),
    "a type of its own": (lambda x: raising(type("Own", (BaseException,), {})())(x), BaseException),
}


@pytest.mark.parametrize("what", ORDINARY)
def test_whatever_python_raises_comes_out(what: str) -> None:
    body, kind = ORDINARY[what]
    error = raised_by(session(one_node(define(body))))
    assert isinstance(error, kind)
    assert not isinstance(error, ort_ops.PythonKernelError)


def test_an_exception_that_another_thread_sends() -> None:
    """As debuggers and time limits do, by ``PyThreadState_SetAsyncExc``."""
    started = threading.Event()

    def wait(x: Array) -> Array:
        started.set()
        for _ in range(1000):
            time.sleep(0.01)
        return x

    opened = session(one_node(define(wait)))
    main = threading.get_ident()

    def send() -> None:
        started.wait()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(OwnError))

    sender = threading.Thread(target=send)
    sender.start()
    assert isinstance(raised_by(opened), OwnError)
    sender.join()


def test_an_exception_in_a_finalizer_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: ignored.append(report.exc_type))

    class Ending:
        def __del__(self) -> None:
            raise OwnError("in the finalizer")

    def body(x: Array) -> Array:
        Ending()
        return x

    np.testing.assert_array_equal(session(one_node(define(body))).run(None, {"x": X})[0], X)
    assert ignored == [OwnError]


class CustomError(Exception):
    def __init__(self, code: int, payload: Any) -> None:
        super().__init__(code, payload)
        self.code = code


@pytest.mark.parametrize("writes", [False, True])
def test_the_kernel_s_own_exception_comes_out_of_run(writes: bool) -> None:
    error = CustomError(42, None)

    def fail(x: Float) -> Float:
        if x[0, 0] < 0:
            raise error from ValueError("the cause")
        return x

    def fail_into(x: Float, *, out: Out) -> Float:
        out[...] = fail(x)
        return out

    kernel = ort_ops.python_kernel(f"{DOMAIN}::Fail")(fail_into if writes else fail)
    opened = session(one_node(kernel))
    for _ in range(3):
        with pytest.raises(CustomError) as caught:
            opened.run(None, {"x": -X})
        assert caught.value is error
        assert isinstance(error.__cause__, ValueError)
        assert error.__context__ is None
        assert "fail" in {entry.name for entry in caught.traceback}
        np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, MemoryError, RecursionError, GeneratorExit])
def test_every_kind_of_exception_is_passed_on(raised: type[BaseException]) -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Stop")
    def stop(x: Float) -> Float:
        raise raised

    with pytest.raises(raised):
        session(one_node(stop)).run(None, {"x": X})


def test_an_exception_that_cannot_be_described_is_still_an_exception() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    @ort_ops.python_kernel(f"{DOMAIN}::Odd")
    def odd(x: Float) -> Float:
        raise UnspeakableError

    with pytest.raises(UnspeakableError):
        session(one_node(odd)).run(None, {"x": X})


def test_a_plain_session_gives_message_and_traceback() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Fail")
    def fail(x: Float) -> Float:
        raise ZeroDivisionError("grün: the original message")

    options = quiet()
    ort_ops.register(options, "body")
    opened = onnxruntime.InferenceSession(one_node(fail), options)
    with pytest.raises(Exception, match="ZeroDivisionError: grün: the original message") as caught:
        opened.run(None, {"x": X})
    assert not isinstance(caught.value, ZeroDivisionError)
    assert "in fail" in str(caught.value)
    assert 'raise ZeroDivisionError("grün' in str(caught.value)


def test_an_error_in_a_parallel_session_finds_its_run() -> None:
    """There, nodes run on other threads than the one that called run."""

    @ort_ops.python_kernel(f"{DOMAIN}::Fail")
    def fail(x: Float) -> Float:
        raise CustomError(int(x[0, 0]), None)

    options = quiet()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.inter_op_num_threads = 2
    opened = ort_ops.InferenceSession(one_node(fail), options)
    for i in range(20):
        with pytest.raises(CustomError) as caught:
            opened.run(None, {"x": X + i})
        assert caught.value.code == 1 + i
