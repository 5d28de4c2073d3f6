"""Operators with Python kernels in onnxruntime: types, attributes, checks, exceptions, threads, redefinition."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops import native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

import ort_ops
from ort_ops import Bool, Element, Float, Float16, Float32, Float64, Int64, Integer, Number, Out, TensorType
from ort_ops.model import make_linear_model
from ort_ops.python_op import defined_kernels
from ort_ops.signature import ONNX_TYPES
from tests.native_support import RUNTIME, Array

pytestmark = pytest.mark.native

DOMAIN = "test.python"
SHAPES = [(), (0,), (3,), (2, 0, 4), (2, 3), (1, 2, 3, 4, 5)]


@pytest.fixture(autouse=True)
def nothing_is_left_defined() -> Iterator[None]:
    yield
    for kernel in defined_kernels():
        kernel.remove()


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def declare(name: str, dtype: str, shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)


def make_model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[str, Any]],
    outputs: dict[str, tuple[str, Any]],
    *,
    version: int = 1,
    constants: dict[str, Array] | None = None,
) -> bytes:
    """A model of these nodes; its own domain at ``version``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [declare(name, *what) for name, what in inputs.items()],
        [declare(name, *what) for name, what in outputs.items()],
        initializer=[numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, version), helper.make_opsetid("mylinear", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def one_node(kernel: Any, dtype: str = "float32", shape: Any = ("b", 3), **attributes: Any) -> bytes:
    """x -> y, both of one element type."""
    rank = [f"d{i}" for i in range(len(shape))]
    return make_model([kernel.make_node(["x"], ["y"], **attributes)], {"x": (dtype, shape)}, {"y": (dtype, rank)})


def quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def session(model: bytes, **options: Any) -> ort_ops.InferenceSession:
    return ort_ops.InferenceSession(model, quiet(), **options)


X = np.array([[1, -2, 3], [0, 5, -6]], np.float32)


# ---- types and shapes


@pytest.mark.parametrize("dtype", sorted(ONNX_TYPES))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_type_and_shape_goes_through(dtype: str, shape: tuple[int, ...]) -> None:
    if dtype == "bfloat16" and RUNTIME < (1, 20):
        pytest.skip("this onnxruntime takes no bfloat16 arrays from Python")
    seen: list[Any] = []

    @ort_ops.python_kernel(f"{DOMAIN}::Same")
    def same(x: Element) -> Element:
        seen.append((x.dtype, x.shape, x.flags.writeable, x.flags.c_contiguous))
        return x

    x = np.random.default_rng(0).integers(0, 2, shape).astype(numpy_dtype(dtype))
    y = session(one_node(same, dtype, shape)).run(None, {"x": x})[0]
    assert seen == [(x.dtype, shape, False, True)]
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_kernel_may_write_into_its_output(dtype: str, shape: tuple[int, ...]) -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Write")
    def write(x: Element, *, out: Out) -> Element:
        assert out.flags.writeable
        out[...] = x
        return out

    x = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    y = session(one_node(write, dtype, shape)).run(None, {"x": x})[0]
    assert y.tobytes() == x.tobytes()
    assert y.shape == shape


@pytest.mark.parametrize("writes", [False, True])
def test_bfloat16_reaches_python_between_casts(writes: bool) -> None:
    """As every supported onnxruntime can feed it."""

    def double(x: Float) -> Float:
        assert x.dtype == ml_dtypes.bfloat16
        return x + x

    def double_into(x: Float, *, out: Out) -> Float:
        np.add(x, x, out=out)
        return out

    kernel = ort_ops.python_kernel(f"{DOMAIN}::Double")(double_into if writes else double)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
        kernel.make_node(["h"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    model = make_model(nodes, {"x": ("float32", ["b", 3])}, {"y": ("float32", ["b", 3])})
    np.testing.assert_array_equal(session(model).run(None, {"x": X})[0], X + X)


def test_optional_inputs_and_several_outputs_and_mixed_types() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Clip")
    def clip(x: Number, low: Number | None = None, count: Int64 | None = None) -> tuple[Number, Bool, Int64]:
        assert low is None or low.dtype == x.dtype
        y = x if low is None else np.maximum(x, low)
        n = 0 if count is None else int(count[0])
        return y, y != x, np.full(x.shape, n, np.int64)

    outputs = {"y": ("float32", ["b", 3]), "m": ("bool", ["b", 3]), "n": ("int64", ["b", 3])}
    low, count = np.zeros(1, np.float32), np.array([7])
    for given in (["x"], ["x", "low"], ["x", "low", "count"], ["x", "", "count"]):
        if "" in given and RUNTIME < (1, 18):
            continue  # "type inference failed": onnxruntime 1.17 takes no empty name before a name
        inputs: dict[str, tuple[str, Any]] = {"x": ("float32", ["b", 3])}
        inputs |= {"low": ("float32", [1])} if "low" in given else {}
        inputs |= {"count": ("int64", [1])} if "count" in given else {}
        model = make_model([clip.make_node(given, ["y", "m", "n"])], inputs, outputs)
        feed = {name: value for name, value in {"x": X, "low": low, "count": count}.items() if name in given}
        y, m, n = session(model).run(None, feed)
        expected = np.maximum(X, 0) if "low" in given else X
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(m, expected != X)
        assert (n == (7 if "count" in given else 0)).all()


def test_several_outputs_may_be_written() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Both")
    def both(x: Float, *, out: Out) -> tuple[Float, Bool]:
        values, signs = out
        np.abs(x, out=values)
        np.signbit(x, out=signs)
        return out

    model = make_model(
        [both.make_node(["x"], ["y", "s"])],
        {"x": ("float32", [2, 3])},
        {"y": ("float32", [2, 3]), "s": ("bool", [2, 3])},
    )
    y, s = session(model).run(None, {"x": X})
    np.testing.assert_array_equal(y, np.abs(X))
    np.testing.assert_array_equal(s, np.signbit(X))


def test_a_result_that_is_not_contiguous_is_copied() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Flip")
    def flip(x: Float) -> Float:
        return np.asfortranarray(x)[::-1]

    np.testing.assert_array_equal(session(one_node(flip)).run(None, {"x": X})[0], X[::-1])


def test_a_kernel_without_inputs() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Ones", infer_shape=lambda n: [n])
    def ones(*, n: int) -> Float32:
        return np.ones(n, np.float32)

    model = make_model([ones.make_node([], ["y"], n=4)], {}, {"y": ("float32", [4])})
    np.testing.assert_array_equal(session(model).run(None, {})[0], np.ones(4))


def test_inputs_are_not_copied_and_not_writeable() -> None:
    addresses = []

    @ort_ops.python_kernel(f"{DOMAIN}::Look")
    def look(x: Float) -> Float:
        addresses.append(x.ctypes.data)
        with pytest.raises(ValueError, match="read-only"):
            x[...] = 0
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            x.flags.writeable = True
        return x

    value = onnxruntime.OrtValue.ortvalue_from_numpy(X)
    session(one_node(look)).run_with_ort_values(["y"], {"x": value})
    assert addresses == [value.data_ptr()]


# ---- attributes


def test_attributes_are_exact_and_have_defaults() -> None:
    seen: list[dict[str, Any]] = []

    @ort_ops.python_kernel(f"{DOMAIN}::Attributes")
    def attributes(
        x: Float,
        *,
        alpha: float = 0.1,
        count: int = -1,
        flag: bool = False,
        mode: str = "linear",
        scales: list[float] = [0.1, 2],  # noqa: B006
        axes: tuple[int, ...] = (),  # type: ignore[assignment]
        table: np.ndarray[Any, Any] | None = None,
    ) -> Float:
        seen.append({k: v for k, v in locals().items() if k not in ("x", "seen")})
        return x

    float32 = [float(np.float32(v)) for v in (0.1, 0.123456789, 1e-40)]
    session(one_node(attributes)).run(None, {"x": X})
    assert seen.pop() == {
        "alpha": float32[0],  # as if the node had it: attributes of ONNX have 32 bits
        "count": -1,
        "flag": False,
        "mode": "linear",
        "scales": [float32[0], 2.0],
        "axes": [],
        "table": None,
    }
    table = np.array([[1, 2], [3, 4]], np.float16)
    given = {
        "alpha": 0.123456789,
        "count": 2**53 + 1,
        "flag": True,
        "mode": "gerät",
        "scales": [1e-40],
        "axes": [3, -(2**62)],
        "table": table,
    }
    session(one_node(attributes, **given)).run(None, {"x": X})
    found = seen.pop()
    np.testing.assert_array_equal(found.pop("table"), table)
    assert found == {
        "alpha": float32[1],
        "count": 2**53 + 1,
        "flag": True,
        "mode": "gerät",
        "scales": [float32[2]],
        "axes": [3, -(2**62)],
    }


@pytest.mark.parametrize("values", [["a", "", "ü"], []], ids=str)
def test_lists_of_strings_need_onnxruntime_1_25(values: list[str]) -> None:
    seen = []

    @ort_ops.python_kernel(f"{DOMAIN}::Names")
    def names(x: Float, *, names: list[str] = ["default"]) -> Float:  # noqa: B006
        seen.append(names)
        return x

    session(one_node(names)).run(None, {"x": X})
    assert seen == [["default"]]
    if RUNTIME < (1, 25):
        with pytest.raises(ort_ops.PythonKernelError, match=r"which onnxruntime before 1\.25 cannot tell apart"):
            session(one_node(names, names=values))
    else:
        session(one_node(names, names=values)).run(None, {"x": X})
        assert seen[1:] == [values]


ATTRIBUTES: dict[str, tuple[Any, Any]] = {
    "float": (float, 0.5),
    "int": (int, 3),
    "str": (str, "text"),
    "tensor": (np.ndarray, helper.make_tensor("t", 1, [1], [2.0])),
    "list of float": (list[float], [0.5, 1.5]),
    "list of int": (list[int], [1, 2]),
}


@pytest.mark.parametrize(("wanted", "given"), list(itertools.permutations(ATTRIBUTES, 2)))
def test_an_attribute_of_another_type_is_an_error(wanted: str, given: str) -> None:
    def kernel(x: Float, *, a: Any) -> Float:
        return x

    kernel.__annotations__ |= {"x": Float, "return": Float, "a": ATTRIBUTES[wanted][0]}
    defined = ort_ops.python_kernel(f"{DOMAIN}::Typed")(kernel)
    node = helper.make_node("Typed", ["x"], ["y"], domain=DOMAIN, a=ATTRIBUTES[given][1])
    model = make_model([node], {"x": ("float32", ["b", 3])}, {"y": ("float32", ["b", 3])})
    with pytest.raises(ort_ops.PythonKernelError, match=f"Typed: attribute a must be .*, got (a )?{given}$"):
        session(model)
    assert defined is not None


def test_a_missing_or_unknown_attribute_is_an_error() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Scale")
    def scale(x: Float, *, alpha: float) -> Float:
        return x * x.dtype.type(alpha)

    def model(**attributes: Any) -> bytes:
        node = helper.make_node("Scale", ["x"], ["y"], domain=DOMAIN, **attributes)
        return make_model([node], {"x": ("float32", ["b", 3])}, {"y": ("float32", ["b", 3])})

    with pytest.raises(ort_ops.PythonKernelError, match="Scale: attribute alpha must be given, got nothing"):
        session(model())
    with pytest.raises(ort_ops.PythonKernelError, match="Scale: the attributes must be among alpha, got beta"):
        session(model(alpha=1.0, beta=2.0))
    with pytest.raises(onnx.checker.ValidationError, match="beta"):
        onnx.checker.check_model(model(alpha=1.0, beta=2.0), check_custom_domain=True)
    options = quiet()
    ort_ops.register(options, "body")
    with pytest.raises(Exception, match="attribute alpha must be given"):  # onnxruntime's own session says so too
        onnxruntime.InferenceSession(model(), options)


# ---- what is returned is checked

WRONG: dict[str, tuple[Callable[[Array], Any], str]] = {
    "a wider dtype": (
        lambda x: x.astype(np.float64),
        r"y must be of dtype float32, got float64; return y.astype\(float32\)",
    ),
    "an integer": (lambda x: x.astype(np.int64), "y must be of dtype float32, got int64"),
    "the same size": (lambda x: x.astype(np.int32), "y must be of dtype float32, got int32"),
    "another byte order": (lambda x: x.astype(">f4"), "y must be of dtype float32, got >f4"),
    "another shape": (lambda x: x[:1], r"y must be of shape \[2, 3\], got \[1, 3\]; the shape of the first input"),
    "another rank": (lambda x: x.ravel(), r"y must be of shape \[2, 3\], got \[6\]"),
    "a list": (lambda x: x.tolist(), "y must be a NumPy array of float32, got list"),
    "None": (lambda x: None, "y must be a NumPy array of float32, got NoneType"),
    "a float": (lambda x: 1.0, "y must be a NumPy array of float32, got float"),
    "complex": (lambda x: x.astype(complex), "y must be of dtype float32, got complex128"),
    "a tuple": (lambda x: (x, x), "y must be a NumPy array of float32, got tuple"),
    "a masked array": (lambda x: np.ma.masked_array(x), "y must be a NumPy array of float32, got MaskedArray"),
    "objects": (lambda x: x.astype(object), "y must be of dtype float32, got object"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_kernel_returns_is_checked(what: str) -> None:
    body, message = WRONG[what]

    @ort_ops.python_kernel(f"{DOMAIN}::Wrong")
    def wrong(x: Float) -> Float:
        result: Array = body(x)
        return result

    opened = session(one_node(wrong))
    with pytest.raises(ort_ops.PythonKernelError, match=f"Wrong: {message}"):
        opened.run(None, {"x": X})

    @ort_ops.python_kernel(f"{DOMAIN}::Wrong")
    def right(x: Float) -> Float:
        return x

    np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X)  # the session lives on


@pytest.mark.parametrize("result", [None, np.zeros(2), (np.zeros(2),), [np.zeros((2, 3))] * 3], ids=repr)
def test_the_number_of_outputs_is_checked(result: Any) -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Two")
    def two(x: Float64) -> tuple[Float64, Float64]:
        return result  # type: ignore[no-any-return]

    model = make_model(
        [two.make_node(["x"], ["y", "z"])],
        {"x": ("float64", [2, 3])},
        {"y": ("float64", [2, 3]), "z": ("float64", [2, 3])},
    )
    with pytest.raises(ort_ops.PythonKernelError, match="the result must be a tuple of 2 arrays, got"):
        session(model).run(None, {"x": X.astype(np.float64)})


def test_a_kernel_with_out_returns_out_or_nothing() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Forgot")
    def forgot(x: Float, *, out: Out) -> Float:
        return x + 1

    with pytest.raises(ort_ops.PythonKernelError, match="the result must be out, or None"):
        session(one_node(forgot)).run(None, {"x": X})


def test_a_scalar_of_numpy_is_an_array_of_rank_0() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Sum", infer_shape=lambda x: [])
    def total(x: Float) -> Float:
        result: Array = x.sum()
        return result

    model = make_model([total.make_node(["x"], ["y"])], {"x": ("float32", ["b", 3])}, {"y": ("float32", [])})
    assert session(model).run(None, {"x": X})[0] == X.sum()


# ---- shapes


def test_shapes_are_inferred_for_onnx_and_for_onnxruntime() -> None:
    def outer_shape(x: Any, w: Any, *, repeat: int) -> Any:
        return None if x is None or w is None else [*x, *w, repeat]

    @ort_ops.python_kernel(f"{DOMAIN}::Outer", infer_shape=outer_shape)
    def outer(x: Float, w: Float, *, repeat: int = 2) -> Float:
        return np.repeat(np.multiply.outer(x, w)[..., None], repeat, -1)

    inputs = {"x": ("float32", ["b", 3]), "w": ("float32", ["k"])}
    nodes = [outer.make_node(["x", "w"], ["h"], repeat=5), helper.make_node("Neg", ["h"], ["y"])]
    model = make_model(nodes, inputs, {"y": ("float32", None)})
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model), strict_mode=True)
    assert [d.dim_param or d.dim_value for d in inferred.graph.value_info[0].type.tensor_type.shape.dim] == [
        "b",
        3,
        "k",
        5,
    ]
    opened = session(model)
    if RUNTIME >= (1, 24):
        assert opened.get_outputs()[0].shape == ["b", 3, "k", 5]
    assert opened.run(None, {"x": X, "w": np.ones(4, np.float32)})[0].shape == (2, 3, 4, 5)


def test_inferred_types_are_those_of_the_overload() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::IsPositive")
    def is_positive(x: Float) -> Bool:
        return x > 0

    for dtype in ("float64", "float16"):
        nodes = [is_positive.make_node(["x"], ["m"]), helper.make_node("Not", ["m"], ["y"])]
        model = make_model(nodes, {"x": (dtype, ["b", 3])}, {"y": ("bool", ["b", 3])})
        onnx.checker.check_model(model, full_check=True, check_custom_domain=True)
        opened = session(model)
        np.testing.assert_array_equal(opened.run(None, {"x": X.astype(dtype)})[0], X <= 0)


def test_dimensions_that_depend_on_the_data_are_left_open() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Positive", infer_shape=lambda x: ["num_positive"])
    def positive(x: Float) -> Float:
        return x[x > 0]

    model = make_model([positive.make_node(["x"], ["y"])], {"x": ("float32", ["b", 3])}, {"y": ("float32", ["n"])})
    np.testing.assert_array_equal(session(model).run(None, {"x": X})[0], X[X > 0])

    @ort_ops.python_kernel(f"{DOMAIN}::Anything", infer_shape=None)
    def anything(x: Float) -> Float:
        return x.reshape(-1, 1, 1)

    model = make_model([anything.make_node(["x"], ["y"])], {"x": ("float32", ["b", 3])}, {"y": ("float32", [6, 1, 1])})
    assert session(model).run(None, {"x": X})[0].shape == (6, 1, 1)


def test_a_shape_function_that_raises_or_lies_is_an_error_of_the_run() -> None:
    def kernel(x: Float) -> Float:
        return x

    def broken(x: Any) -> Any:
        if all(isinstance(dim, int) for dim in x):
            raise ZeroDivisionError("no shape")
        return x

    for infer_shape, error in ((broken, ZeroDivisionError), (lambda x: [-1, 3], ort_ops.PythonKernelError)):
        defined = ort_ops.python_kernel(f"{DOMAIN}::Shape", infer_shape=infer_shape)(kernel)
        with pytest.raises(error):
            session(one_node(defined)).run(None, {"x": X})


# ---- exceptions


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


# ---- memory that is onnxruntime's


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
        session(one_node(keeper)).run(None, {"x": X})

    @ort_ops.python_kernel(f"{DOMAIN}::Keep", copy_inputs=True)
    def copier(x: Float) -> Float:
        kept[:] = [x]
        return x

    opened = session(one_node(copier))
    opened.run(None, {"x": X})
    np.testing.assert_array_equal(kept[0], X)


def test_an_output_that_is_kept_is_an_error() -> None:
    kept = []

    @ort_ops.python_kernel(f"{DOMAIN}::Keep", copy_inputs=True)
    def keeper(x: Float, *, out: Out) -> Float:
        kept.append(out[:1])
        out[...] = x
        return out

    with pytest.raises(ort_ops.PythonKernelError, match="Keep: y must be let go of"):
        session(one_node(keeper)).run(None, {"x": X})


def test_a_reference_cycle_is_not_a_kept_view() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Cycle")
    def cycle(x: Float) -> Float:
        me: list[Any] = [x]
        me.append(me)
        return x

    np.testing.assert_array_equal(session(one_node(cycle)).run(None, {"x": X})[0], X)


def test_an_exception_shows_no_memory_of_onnxruntime() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Fail")
    def fail(x: Float) -> Float:
        part = x[1:]
        raise ValueError("with the array", x, part)

    with pytest.raises(ValueError, match="with the array") as caught:
        session(one_node(fail)).run(None, {"x": X})
    arrays = [
        value
        for entry in caught.traceback
        if entry.name in ("fail", "prepare", "_returning", "finish")
        for value in entry.frame.f_locals.values()
    ]
    assert arrays == []
    np.testing.assert_array_equal(caught.value.args[1], X)
    assert caught.value.args[1].flags.owndata


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
    if dtype == "bfloat16" and RUNTIME < (1, 20):
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
