"""Python kernels with optional outputs: a node that has one, one that has none, and kernels that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import ort_ops
from ort_ops import Bool, Float, Int64, Integer, Out
from ort_ops.native import library as native
from ort_ops.opdef.signature import read_operator
from ort_ops.python_kernels.decorator import implements
from tests.python_kernel_support import DOMAIN, make_model, remove_all_kernels

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

pytestmark = pytest.mark.native
X = np.array([[1, -2, 3]], np.float32)


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    remove_all_kernels()


def clip(x: Float, count: Integer | None = None, *, alpha: float = 1.0) -> tuple[Float, Bool | None, Integer | None]:
    y = x * x.dtype.type(alpha)
    return y, y > 0, None if count is None else np.where(y > 0, count, 0).astype(count.dtype)


def clip_into(
    x: Float, count: Integer | None = None, *, alpha: float = 1.0, out: Out
) -> tuple[Float, Bool | None, Integer | None]:
    y, is_positive, counts = out
    y[...] = x * x.dtype.type(alpha)
    if is_positive is not None:
        is_positive[...] = y > 0
    if counts is not None:
        counts[...] = 0 if count is None else np.where(y > 0, count, 0)
    return out  # type: ignore[no-any-return]


def session(kernel: Any, inputs: list[str], outputs: list[str]) -> ort_ops.InferenceSession:
    declared = {"y": ("float32", ["b", 3]), "p": ("bool", ["b", 3]), "n": ("int32", ["b", 3])}
    taken = {"x": ("float32", ["b", 3]), "count": ("int32", [])}
    model = make_model(
        [kernel.make_node(inputs, outputs, alpha=2.0)],
        {name: taken[name] for name in inputs},
        {name: declared[name] for name in outputs if name},
    )
    return ort_ops.InferenceSession(model)


FEED = {"x": X, "count": np.array(7, np.int32)}
EXPECTED = {"y": 2 * X, "p": X > 0, "n": np.array([[7, 0, 7]], np.int32)}


@pytest.mark.parametrize("function", [clip, clip_into])
@pytest.mark.parametrize(
    "outputs", [["y"], ["y", "p"], ["y", "p", "n"], ["y", "", "n"], ["y", ""]], ids=lambda names: "-".join(names)
)
def test_a_node_may_leave_out_outputs(function: Callable[..., Any], outputs: list[str]) -> None:
    kernel = ort_ops.python_kernel(f"{DOMAIN}::Clip")(function)
    assert [parameter.is_optional for parameter in kernel.operator.outputs] == [False, True, True]
    opened = session(kernel, ["x", "count"], outputs)
    for _ in range(2):
        results = opened.run(None, FEED)
        for name, result in zip(filter(None, outputs), results, strict=True):
            np.testing.assert_array_equal(result, EXPECTED[name])
            assert result.dtype == EXPECTED[name].dtype


@pytest.mark.parametrize("function", [clip, clip_into])
def test_an_output_whose_type_comes_from_an_absent_input_is_left_out(function: Callable[..., Any]) -> None:
    kernel = ort_ops.python_kernel(f"{DOMAIN}::Clip")(function)
    y, p = session(kernel, ["x"], ["y", "p"]).run(None, {"x": X})
    np.testing.assert_array_equal(y, EXPECTED["y"])
    np.testing.assert_array_equal(p, EXPECTED["p"])


def test_none_for_an_output_that_the_node_has_is_an_error() -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Lazy")
    def lazy(x: Float) -> tuple[Float, Bool | None]:
        return x * 2, None

    opened = session_of(lazy, ["y", "p"])
    with pytest.raises(ort_ops.PythonKernelError, match=r"y1 must be an array of bool \(the node has this output\)"):
        opened.run(None, {"x": X})
    np.testing.assert_array_equal(session_of(lazy, ["y"]).run(None, {"x": X})[0], 2 * X)


def session_of(kernel: Any, outputs: list[str]) -> ort_ops.InferenceSession:
    declared = {"y": ("float32", ["b", 3]), "p": ("bool", ["b", 3])}
    node = kernel.make_node(["x"], outputs)
    return ort_ops.InferenceSession(
        make_model([node], {"x": ("float32", ["b", 3])}, {name: declared[name] for name in outputs})
    )


@pytest.mark.parametrize("outputs", [["y"], ["y", "p"]], ids=str)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: (x, x), "y1 must be of dtype bool, got float32"),
        (lambda x: (x, np.zeros(5, bool)), r"y1 must be of shape \[1, 3\], got \[5\]"),
        (lambda x: (x, "text"), "y1 must be a NumPy array of bool, got str"),
        (lambda x: (None, x > 0), "y0 must be a NumPy array of float32, got NoneType"),
        (lambda x: (x,), "the result must be a tuple of 2 arrays, got 1"),
    ],
    ids=["dtype", "shape", "text", "none for a required one", "too few"],
)
def test_a_wrong_result_is_an_error_whether_or_not_the_node_has_it(
    wrong: Callable[..., Any], message: str, outputs: list[str]
) -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Wrong")
    def kernel(x: Float) -> tuple[Float, Bool | None]:
        return wrong(x)  # type: ignore[no-any-return]

    with pytest.raises(ort_ops.PythonKernelError, match=message):
        session_of(kernel, outputs).run(None, {"x": X})


def test_a_kernel_that_takes_out_may_leave_the_shape_of_an_absent_output_open() -> None:
    def infer_shape(x: Any) -> Any:
        return x, None

    @ort_ops.python_kernel(f"{DOMAIN}::Open", infer_shape=infer_shape)
    def kernel(x: Float, *, out: Out) -> tuple[Float, Bool | None]:
        assert out[1] is None
        out[0][...] = x
        return out  # type: ignore[no-any-return]

    np.testing.assert_array_equal(session_of(kernel, ["y"]).run(None, {"x": X})[0], X)
    with pytest.raises(ort_ops.PythonKernelError, match="the shape of y1 must be known before the call"):
        session_of(kernel, ["y", "p"]).run(None, {"x": X})


@pytest.mark.parametrize("outputs", [["y"], ["", "p"], ["y", "p"], ["y", ""], ["", "", "n"]], ids="-".join)
def test_all_outputs_may_be_optional(outputs: list[str]) -> None:
    @ort_ops.python_kernel(f"{DOMAIN}::Any", infer_shape=lambda x, count: (x, x, x))
    def any_of(x: Float, count: Integer | None = None, *, out: Out) -> tuple[Float | None, Bool | None, Integer | None]:
        assert [output is not None for output in out] == [bool(name) for name in [*outputs, "", ""][:3]]
        for output, values in zip(out, (2 * x, x > 0, np.where(x > 0, 7, 0)), strict=True):
            if output is not None:
                output[...] = values
        return out  # type: ignore[no-any-return]

    declared = {"y": ("float32", ["b", 3]), "p": ("bool", ["b", 3]), "n": ("int32", ["b", 3])}
    model = make_model(
        [any_of.make_node(["x", "count"], outputs)],
        {"x": ("float32", ["b", 3]), "count": ("int32", [])},
        {name: declared[name] for name in outputs if name},
    )
    results = ort_ops.InferenceSession(model).run(None, FEED)
    for name, result in zip(filter(None, outputs), results, strict=True):
        np.testing.assert_array_equal(result, EXPECTED[name])


def test_an_only_output_cannot_be_optional_and_optional_ones_come_last() -> None:
    def only(x: Float) -> Float | None: ...
    def first(x: Float) -> tuple[Float | None, Bool]: ...
    def middle(x: Float) -> tuple[Float, Bool | None, Int64]: ...

    with pytest.raises(ort_ops.DefinitionError, match="the result must be annotated"):
        ort_ops.python_kernel(f"{DOMAIN}::Only")(only)
    for function in (first, middle):
        with pytest.raises(ort_ops.DefinitionError, match="optional outputs must come last"):
            ort_ops.python_kernel(f"{DOMAIN}::Middle")(function)


def test_a_kernel_of_a_described_operator_must_have_the_same_optional_outputs() -> None:
    operator = read_operator(clip, DOMAIN, "Clip")
    assert implements(operator)(clip).operator is operator

    def required(
        x: Float, count: Integer | None = None, *, alpha: float = 1.0
    ) -> tuple[Float, Bool | None, Integer]: ...

    with pytest.raises(ort_ops.DefinitionError, match=r"optional outputs|the result's type"):
        implements(operator)(required)  # type: ignore[arg-type]

    def without(x: Float, count: Integer | None = None, *, alpha: float = 1.0) -> tuple[Float, Bool | None]: ...

    with pytest.raises(ort_ops.DefinitionError, match="the kernel's outputs must be"):
        implements(operator)(without)
