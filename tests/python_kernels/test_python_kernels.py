"""Operators with Python kernels in onnxruntime: types, shapes, attributes, and checks of what is returned.

Long because types, shapes and attributes are tried on the same few operators.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

import ort_ops
from ort_ops import Bool, Element, Float, Float32, Float64, Int64, Number, Out
from ort_ops.opdef.element_types import ONNX_TYPES
from tests.native_support import Array
from tests.python_kernel_support import DOMAIN, X, make_model, numpy_dtype, one_node, quiet, remove_all_kernels, session
from tests.runtime import is_older_than

pytestmark = pytest.mark.native

SHAPES = [(), (0,), (3,), (2, 0, 4), (2, 3), (1, 2, 3, 4, 5)]


@pytest.fixture(autouse=True)
def nothing_is_left_defined() -> Iterator[None]:
    yield
    remove_all_kernels()


# ---- types and shapes


@pytest.mark.parametrize("dtype", sorted(ONNX_TYPES))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_type_and_shape_goes_through(dtype: str, shape: tuple[int, ...]) -> None:
    if dtype == "bfloat16" and is_older_than("1.20"):
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
        if "" in given and is_older_than("1.18"):
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
    if is_older_than("1.25"):
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
    if not is_older_than("1.24"):
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
