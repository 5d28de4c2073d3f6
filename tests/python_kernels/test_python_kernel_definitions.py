"""Definitions of operators with Python kernels: what can be one, again, beside others, and on many threads.

Long because it is one table of definitions that are refused, and what becomes of those that are not.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import onnx
import pytest
from onnx import helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

import ort_ops
from ort_ops import Element, Float, Float16, Float32, Integer, Number, Out, TensorType
from tests.linear_model import make_linear_model
from tests.python_kernel_support import DOMAIN, X, make_model, numpy_dtype, one_node, quiet, remove_all_kernels, session
from tests.runtime import is_older_than

pytestmark = pytest.mark.native


@pytest.fixture(autouse=True)
def nothing_is_left_defined() -> Iterator[None]:
    yield
    remove_all_kernels()


# ---- definitions

Pair = Annotated[np.ndarray[Any, Any], TensorType("Pair", ("float32", "int64"))]


def test_a_tensor_type_of_one_s_own() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Pair")
    def pair(x: Pair) -> Pair:
        return x

    assert pair.signature.num_overloads == 2
    np.testing.assert_array_equal(session(one_node(pair, "int64")).run(None, {"x": X.astype(int)})[0], X.astype(int))
    with pytest.raises(Exception, match=r"float64|double"):
        session(one_node(pair, "float64"))


def no_annotation(x):  # type: ignore[no-untyped-def]
    return x


def plain_annotation(x: float) -> Float:
    return np.zeros(1)


def no_result(x: Float):  # type: ignore[no-untyped-def]
    return x


def default_of_an_input(x: Float = np.zeros(1)) -> Float:  # noqa: B008
    return x


def optional_without_default(x: Float, y: Float | None) -> Float:
    return x


def optional_first(x: Float | None = None, *, a: int = 0) -> Float:
    return np.zeros(1)


def wrong_attribute(x: Float, *, a: dict[str, int]) -> Float:
    return x


def wrong_default(x: Float, *, a: int = 1.5) -> Float:  # type: ignore[assignment]
    return x


def many(*xs: Float) -> Float:
    return xs[0]


def unrelated_result(x: Float) -> Integer:
    return x


def output_called_otherwise(x: Float, *, into: Out) -> Float:
    return x


def too_many(a: Element, b: Number, c: Integer) -> Float16:
    return a


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_annotation, "input x must be annotated with a tensor type such as ort_ops.Float, got None"),
        (plain_annotation, "input x must be annotated with a tensor type"),
        (no_result, "the result must be annotated with a tensor type"),
        (default_of_an_input, "the default of input x must be None"),
        (optional_without_default, "an optional input must be annotated | None and default to None: y"),
        (optional_first, "the result's type must be that of a required input"),
        (wrong_attribute, "attribute a must be annotated float, int, bool"),
        (wrong_default, "the default of attribute a must be int, got 1.5"),
        (many, r"parameter xs must be one input or one attribute, got \* or \*\*"),
        (unrelated_result, "the result's type must be that of a required input, or one element type, got Integer"),
        (output_called_otherwise, "the parameter annotated with Out must be called out, got into"),
        (too_many, "the element types must combine in at most 512 ways, got 1248"),
    ],
)
def test_functions_that_cannot_be_operators(function: Any, message: str) -> None:
    with pytest.raises(ort_ops.DefinitionError, match=f"Bad: {message}".replace("| None", r"\| None")):
        ort_ops.python_kernel(f"{DOMAIN}::Bad")(function)


@pytest.mark.parametrize(
    "name",
    [
        "NoDomain",
        "::Name",
        "a::",
        "a::b c",
        "mylinear::MYLINEAR",
        "ai.onnx.contrib::X",
        "com.microsoft.extensions::X",
        "ai.onnx.ml::X",
        "com.microsoft::Gelu",
        "ai.onnx::Add",
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ort_ops.DefinitionError):
        ort_ops.python_kernel(name)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="domain"):
        ort_ops.python_kernel("Name", domain="my.domain")  # type: ignore[call-arg]


# ---- redefinition


def test_a_kernel_is_redefined_and_removed_while_a_session_lives() -> None:
    def define(factor: int) -> Any:
        @ort_ops.python_kernel(f"{DOMAIN}::Times")
        def times(x: Float, *, alpha: float = float(factor)) -> Float:
            return x * x.dtype.type(factor * alpha)

        return times

    opened = session(one_node(define(2)))
    for factor in (2, 3):
        define(factor)
        np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X * factor * factor)
    define(5).remove()
    for _ in range(2):
        with pytest.raises(ort_ops.PythonKernelError, match=f"the kernel of {DOMAIN}::Times was removed; define it"):
            opened.run(None, {"x": X})
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(one_node(define(2)).replace(b"Times", b"Tames"), check_custom_domain=True)
    np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X * 4)


def test_another_signature_needs_a_new_session() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Grow")
    def old(x: Float) -> Float:
        return x

    opened = session(one_node(old))

    @ort_ops.python_kernel(f"{DOMAIN}::Grow")
    def new(x: Float, *, alpha: float = 2.0) -> Float:
        return x * x.dtype.type(alpha)

    with pytest.raises(ort_ops.PythonKernelError, match=r"was defined again with other inputs, .*; make a new"):
        opened.run(None, {"x": X})
    np.testing.assert_array_equal(session(one_node(new)).run(None, {"x": X})[0], 2 * X)


def test_hundreds_of_operators_defined_while_a_session_lives() -> None:
    """onnxruntime-extensions crashes at the first session's next run."""

    @ort_ops.python_kernel(f"{DOMAIN}::First")
    def first(x: Float32) -> Float32:
        return x

    opened = session(one_node(first))
    for i in range(300):
        ort_ops.python_kernel(f"{DOMAIN}::Op{i}")(first.__wrapped__)
        if i % 100 == 0:
            session(one_node(first))
    np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X)


def test_versions_of_an_operator_live_side_by_side() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Versioned", since_version=1)
    def one(x: Float32) -> Float32:
        return x + 1

    @ort_ops.python_kernel(f"{DOMAIN}::Versioned", since_version=3)
    def three(x: Float32, *, alpha: float = 3.0) -> Float32:
        return x + np.float32(alpha)

    for version, expected in ((1, 1), (2, 1), (3, 3), (4, 3)):
        node = helper.make_node("Versioned", ["x"], ["y"], domain=DOMAIN)
        model = make_model([node], {"x": ("float32", [2, 3])}, {"y": ("float32", [2, 3])}, version=version)
        np.testing.assert_array_equal(session(model).run(None, {"x": X})[0], X + expected)


# ---- beside others


@pytest.mark.parametrize("kernels", ["cpp", "python"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_mylinear_and_an_operator_of_the_user_s_in_one_model(kernels: str, dtype: str) -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Shift")
    def shift(x: Float, *, by: float = 1.0) -> Float:
        return x + x.dtype.type(by)

    weight = np.eye(3, dtype=dtype) * 2
    nodes = [
        helper.make_node("MYLINEAR", ["x", "w"], ["h"], domain="mylinear"),
        shift.make_node(["h"], ["s"], by=0.5),
        helper.make_node("Neg", ["s"], ["n"]),
        helper.make_node("MYLINEAR", ["n", "w", "c"], ["y"], domain="mylinear"),
    ]
    constants = {"w": weight, "c": np.ones(3, dtype)}
    model = make_model(nodes, {"x": (dtype, ["b", 3])}, {"y": (dtype, ["b", 3])}, constants=constants)
    opened = session(model, kernels=kernels)
    assert opened.kernel == kernels
    x = X.astype(dtype)
    np.testing.assert_array_equal(opened.run(None, {"x": x})[0], -(x * 2 + x.dtype.type(0.5)) * 2 + 1)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_mylinear_in_python_serves_every_dtype(dtype: str, bias: bool) -> None:
    weight = np.arange(6).reshape(2, 3).astype(numpy_dtype(dtype))
    x = X.astype(numpy_dtype(dtype))
    if dtype == "bfloat16" and is_older_than("1.20"):
        pytest.skip("this onnxruntime takes no bfloat16 arrays from Python")
    model = make_linear_model(["batch", 3], weight, weight[:, 0] if bias else None, with_function=False)
    model.ir_version = 9
    opened = session(model.SerializeToString(), kernels="python")
    y = opened.run(None, {"x": x})[0]
    assert y.dtype == x.dtype
    expected = X @ np.arange(6).reshape(2, 3).T + (np.array([0, 3]) if bias else 0)
    np.testing.assert_array_equal(y.astype(np.float64), expected)


def test_python_domains_can_be_chosen() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Mine")
    def mine(x: Float32) -> Float32:
        return x

    @ort_ops.python_kernel("test.other::Theirs")
    def theirs(x: Float32) -> Float32:
        return x

    options = quiet()
    ort_ops.register(options, python_domains=["test.other"])
    with pytest.raises(ort_ops.KernelError, match=f"kernel of {DOMAIN}::Mine was defined after these options"):
        ort_ops.InferenceSession(one_node(mine), options)
    with pytest.raises(ort_ops.KernelError, match=r"must be among those of python_kernel \(.*\), got nowhere"):
        ort_ops.register(quiet(), python_domains=["nowhere"])


def test_a_missing_library_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Mine")
    def mine(x: Float32) -> Float32:
        return x

    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/lib.so")
    with pytest.raises(ort_ops.KernelError, match=f"the Python kernel of {DOMAIN}::Mine needs the C\\+\\+ library: "):
        session(one_node(mine), kernels="body")
    with pytest.raises(ort_ops.KernelError, match=r"Python kernels of your own need the C\+\+ library"):
        ort_ops.register(quiet(), "body", python_domains=[DOMAIN])


# ---- threads and references


def test_eight_threads_on_two_sessions_with_kernels_replaced_meanwhile() -> None:
    def define(sign: int) -> Any:
        @ort_ops.python_kernel(f"{DOMAIN}::Sign")
        def signed(x: Float, *, out: Out) -> Float:
            np.multiply(x, x.dtype.type(sign), out=out)
            return out

        return signed

    model = one_node(define(1))
    sessions = [session(model), session(model)]
    wrong: list[Any] = []

    def work(index: int) -> None:
        x = X + index
        for _ in range(300):
            y = sessions[index % 2].run(None, {"x": x})[0]
            if not ((y == x).all() or (y == -x).all()):
                wrong.append(y)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        define(-1)
        define(1)
    assert not wrong


@pytest.mark.parametrize("mode", ["returns", "writes", "raises"])
def test_no_reference_is_left_behind(mode: str) -> None:
    attribute = object()

    def returns(x: Float, w: Float | None = None) -> Float:
        return x

    def writes(x: Float, w: Float | None = None, *, out: Out) -> Float:
        out[...] = x
        return out

    def raises(x: Float, w: Float | None = None) -> Float:
        raise ValueError(attribute)

    function: Any = {"returns": returns, "writes": writes, "raises": raises}[mode]
    kernel = ort_ops.python_kernel(f"{DOMAIN}::Count")(function)
    opened = session(one_node(kernel))
    binding = opened.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")

    def run(count: int) -> None:
        for _ in range(count):
            try:
                opened.run_with_iobinding(binding)
            except ValueError:
                assert mode == "raises"

    def count() -> list[int]:
        gc.collect()
        blocks = sys.getallocatedblocks()
        shared = [None, np.dtype(np.float32), attribute, function, ()]
        return [*(sys.getrefcount(item) for item in shared), blocks]

    run(300)
    before = count()
    run(100_000 if mode == "writes" else 20_000 if mode == "returns" else 1000)
    growth = [after - first for after, first in zip(count(), before, strict=True)]
    assert max(map(abs, growth[:-1])) <= 70, growth  # the exceptions that are kept for their runs are at most 64
    assert growth[-1] < 1000, growth
