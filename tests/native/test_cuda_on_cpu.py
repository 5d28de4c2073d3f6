"""The CUDA backend's own code on the CPU, as the contract has it: every activation, element type and edge.

``MYLINEAR_CUDA_ON_CPU`` names the library that ``cpp_ops/cuda/check.sh`` builds from the backend's sources, with an
emulation of CUDA's device side, a runtime and a cuBLASLt that are fakes. It needs CUDA's headers, so without that
everything is skipped. It cannot show what a GPU's own functions return; so CUDA's functions are also taken to be as
wrong as their documentation lets them be.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16
import numpy as np
import pytest

from ort_ops.numerics.bound import ROUNDED
from ort_ops.numerics.compare import compare
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.mylinear.version_2.activations import ACTIVATIONS, TANH_CUBE, TANH_SCALE
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS as NAMES
from ort_ops.operators.mylinear.version_2.contract import ALLOWED, MYLINEAR_2
from ort_ops.operators.mylinear.version_2.kit import KIT

VARIABLE = "MYLINEAR_CUDA_ON_CPU"
if VARIABLE not in os.environ:
    pytest.skip(f"{VARIABLE} names no library; cpp_ops/cuda/check.sh builds it and runs this", allow_module_level=True)

Array = np.ndarray[Any, np.dtype[Any]]
TYPES = ("float64", "float32", "float16", "bfloat16")
EXACT, DOWN, UP = 0, -1, 1
"""What ``activations_on_cpu`` may do: the C library's functions, or each as far off as CUDA's guide says."""


def _benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "cuda.py"
    spec = importlib.util.spec_from_file_location("benchmark_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ[VARIABLE])


class Backend:
    """The backend by its table of functions; ``has_memory`` as with onnxruntime 1.18 and newer."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.structs = _benchmark()
        entry = library.mylinear_cuda_backend
        entry.restype = ctypes.POINTER(self.structs.Table)
        self.table = entry(ctypes.c_uint32(3)).contents
        self.memory = np.empty(1 << 20, np.uint8)
        address = (self.memory.ctypes.data + 255) // 256 * 256
        kind = dict(self.structs.Call._fields_)["allocate"]
        self.allocate, self.allocate_nothing = kind(lambda owner, nbytes: address), kind()

    def run(self, call: Call, has_memory: bool) -> Array:
        x, w, bias = (None if a is None else np.ascontiguousarray(a) for a in call.arrays)
        assert x is not None
        assert w is not None
        y = np.full((*x.shape[:-1], w.shape[0]), np.nan, x.dtype)
        if y.size == 0:
            return y  # the node calls nothing then
        prepared = self.structs.Call(
            element_type=TYPES.index(x.dtype.name),
            weight_type=TYPES.index(w.dtype.name),
            activation=NAMES.index(call.attributes["activation"]),
            M=y.size // w.shape[0],
            N=w.shape[0],
            K=x.shape[-1],
            x=x.ctypes.data,
            w=w.ctypes.data,
            bias=None if bias is None else bias.ctypes.data,
            y=y.ctypes.data,
            allocate=self.allocate if has_memory else self.allocate_nothing,
        )
        text = ctypes.create_string_buffer(1024)
        assert self.table.compute(ctypes.byref(prepared), text) == 0, text.value.decode()
        return y


@pytest.fixture(scope="module")
def backend(library: ctypes.CDLL) -> Backend:
    return Backend(library)


def calls(types: tuple[str, str]) -> Iterator[Call]:
    """Yield the contract's samples, and each once more with so many outputs that it is no product of few rows."""
    bound = {name: ELEMENT_TYPES[dtype] for name, dtype in zip(("T", "TW"), types, strict=True)}
    for call in KIT.samples(np.random.default_rng(3), bound):
        yield call
        x, w, bias = call.arrays
        assert x is not None
        assert w is not None
        if 0 < w.shape[0] < 7 and x.ndim == 2 and x.shape[0] <= 3:
            x = np.concatenate([x] * 6)
        if 0 < w.shape[0] < 7:
            w, bias = np.concatenate([w] * 7), None if bias is None else np.concatenate([bias] * 7)
            yield make_call(MYLINEAR_2, [x, w, bias], dict(call.attributes), f"{call.label}, repeated")


def complaint(call: Call, y: Array) -> str | None:
    (exact,), (bound,) = KIT.reference(call), KIT.bound(call, ROUNDED)
    return compare(y, exact, bound, call.element_type).complaint


@pytest.mark.parametrize("types", ALLOWED, ids="-".join)
@pytest.mark.parametrize("has_memory", [True, False], ids=["memory", "no memory"])
def test_every_sample_is_within_the_bound(types: tuple[str, str], has_memory: bool, backend: Backend) -> None:
    found = list(calls(types))
    assert {call.attributes["activation"] for call in found} == set(NAMES)
    for call in found:
        said = complaint(call, backend.run(call, has_memory))
        assert said is None, f"{call.label}: {said}"


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_rounding_before_the_activation_is_found(narrow: str, backend: Backend) -> None:
    """The bound lets a 16-bit type be rounded once: a kernel that rounds the sum too is wrong."""
    x = np.random.default_rng(5).standard_normal((8, 64)).astype(narrow)
    w = np.random.default_rng(6).standard_normal((33, 64)).astype(narrow)
    for name in NAMES[2:]:
        call = make_call(MYLINEAR_2, [x, w, None], {"activation": name})
        assert complaint(call, backend.run(call, True)) is None
        sums = backend.run(replace(call, attributes={"activation": "none"}), True).astype(np.float64)
        assert complaint(call, ACTIVATIONS[name].exact(sums).astype(narrow)) is not None


def numbers(dtype: str) -> Array:
    """Where activations bend, and numbers of every size: NaN, infinities and denormal ones too."""
    generator = np.random.default_rng(1)
    word = np.uint32 if dtype == "float32" else np.uint64
    sizes = generator.integers(0, np.iinfo(word).max, 50_000, dtype=word, endpoint=True).view(dtype)
    ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30], dtype)
    tiny = np.arange(-40, 41).astype(dtype) * np.finfo(dtype).smallest_subnormal
    return np.concatenate([generator.uniform(-20, 20, 50_000).astype(dtype), sizes, ends, tiny])


def excess(name: str, x: Array, y: Array) -> float:
    """Return the largest error in units of what the bound allows an evaluation; infinite for a wrong NaN."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        exact = ACTIVATIONS[name].exact(wide)
        allowed = ACTIVATIONS[name].evaluation_error(wide, exact, ELEMENT_TYPES[x.dtype.name])
        error = np.abs(y.astype(np.float64) - exact) / np.maximum(allowed, 5e-324)
    is_same = (y == exact) | (np.isnan(y) & np.isnan(exact))
    return float(np.where(is_same, 0.0, np.where(np.isnan(error), np.inf, error)).max())


@pytest.mark.parametrize("off", [EXACT, DOWN, UP], ids=["libm", "down", "up"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_activations_are_within_the_bound_as_far_off_as_cuda_may_be(
    name: str, dtype: str, off: int, library: ctypes.CDLL
) -> None:
    x = numbers(dtype)
    y = np.full_like(x, 7)
    count = ctypes.c_uint64(x.size)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, y))
    library.activations_on_cpu(NAMES.index(name), dtype == "float64", off, count, *pointers)
    worst = excess(name, x, y)
    print(f"{name} {dtype} {off}: {worst:.3f} of what is allowed")
    assert worst <= 1


def _tanh_of_hardware(x: Array) -> Any:
    return np.tanh(x) * np.float32(1 + 2.0**-11)  # tanh.approx.f32


WRONG: dict[str, tuple[str, Callable[[Array], Any]]] = {
    "relu that loses NaN": ("relu", lambda x: np.fmax(x, 0)),
    "gelu by tanh": ("gelu", lambda x: x / 2 * (1 + np.tanh(TANH_SCALE * (x + TANH_CUBE * x * x * x)))),
    "gelu_tanh by erf": ("gelu_tanh", ACTIVATIONS["gelu"].exact),
    "gelu_tanh by the hardware's tanh": (
        "gelu_tanh",
        lambda x: x / 2 * (1 + _tanh_of_hardware(TANH_SCALE * (x + TANH_CUBE * x * x * x))),
    ),
    "gelu that is 0 at -infinity": ("gelu", lambda x: np.where(x < -20, 0, ACTIVATIONS["gelu"].exact(x))),
    "silu by a fast exp": ("silu", lambda x: x / (1 + np.exp(-x) * np.float32(1 + 2.0**-19))),
    "sigmoid by a fast division": ("sigmoid", lambda x: 1 / (1 + np.exp(-x)) * np.float32(1 + 2.0**-20)),
    "tanh by the hardware": ("tanh", _tanh_of_hardware),
    "tanh by exp": ("tanh", lambda x: 1 - 2 / (np.exp(2 * x) + 1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_activations_are_found(what: str) -> None:
    name, wrong = WRONG[what]
    x = numbers("float32")
    with np.errstate(all="ignore"):
        assert excess(name, x, wrong(x.astype(np.float64)).astype(np.float32)) > 1


def test_the_constants_are_those_of_the_contract() -> None:
    """What the formulas of ``activation.cuh`` have in place of the contract's own numbers."""
    text = (Path(__file__).parents[2] / "cpp_ops/cuda/device/activation.cuh").read_text()
    found = [float(number) for number in re.findall(r"static_cast<T>\((-?[\d.]{5,})\)", text)]
    expected = [math.sqrt(0.5), -2 * TANH_SCALE, -2 * TANH_SCALE * TANH_CUBE]
    np.testing.assert_allclose(found, expected, rtol=1e-15)
