"""Activations and 16-bit weights under float32 on a GPU: the contract's samples, sizes, TF32, copies, CUDA graphs.

Runs where ``test_cuda.py`` does; else everything is skipped, with the reason. ``test_cuda_on_cpu.py`` tests the same
code without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest

import ort_ops
from ort_ops.inspection.model import inspect_model
from ort_ops.models.make import make_model
from ort_ops.native import cuda
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES
from ort_ops.numerics.compare import compare
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, ALLOWED, MYLINEAR_2
from ort_ops.operators.mylinear.version_2.kit import KIT
from tests.cases import numpy_dtype

_STATUS = cuda.status()
if _STATUS.reason is not None:
    pytest.skip(_STATUS.reason, allow_module_level=True)

pytestmark = [pytest.mark.cuda, pytest.mark.native]
Array = np.ndarray[Any, np.dtype[Any]]
TYPES = pytest.mark.parametrize("types", ALLOWED, ids="-".join)
# (M, N, K): around the limits of the GEMV kernel, odd sizes, whole tiles, and more than one part of 64 MiB.
SIZES = (
    *((m, 129, 256) for m in (1, 4, 5, 16, 17)),
    (300, 3, 64),
    (33, 129, 257),
    (257, 1024, 1024),
    (33, 5000, 4096),
    (5000, 8192, 64),
)


def model_of(call: Call, has_constant_weight: bool) -> bytes:
    """Make a model of one node, without the function body, so that nothing but the kernel serves it."""
    x, weight, bias = (None if array is None else array.shape for array in call.arrays)
    inputs = [x, call.arrays[1] if has_constant_weight else weight, bias]
    types = {name: element_type.name for name, element_type in call.types.items()}
    model = make_model(MYLINEAR_2, inputs, call.attributes, types=types, with_function=False)
    return bytes(model.SerializeToString())


def open_session(model: bytes, **options: str) -> ort_ops.InferenceSession:
    """Open a session in which CUDA's provider is for certain, without TF32 unless that is asked for."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    providers = [(cuda.PROVIDER, {"use_tf32": "0"} | options), "CPUExecutionProvider"]
    session = ort_ops.InferenceSession(model, settings, providers, kernels="cuda")
    assert session.get_providers()[0] == cuda.PROVIDER, "onnxruntime fell back to the CPU; its log says why"
    return session


def complaint(call: Call, y: Array) -> str | None:
    (exact,) = KIT.reference(call)
    (bound,) = KIT.bound(call, ROUNDED if call.element_type.name in ("float64", "float32") else TENSOR_CORES)
    return compare(y, exact, bound, call.element_type).complaint


def run(call: Call, has_constant_weight: bool = False, **options: str) -> Array:
    arrays = dict(zip(("x", "weight", "bias"), call.arrays, strict=True))
    feed = {name: a for name, a in arrays.items() if a is not None and not (has_constant_weight and name == "weight")}
    y: Array = open_session(model_of(call, has_constant_weight), **options).run(None, feed)[0]
    return y


def sample(m: int, n: int, k: int, types: tuple[str, str], activation: str) -> Call:
    rng = np.random.default_rng(m * 1000003 + n * 1009 + k)
    shapes = ((m, k), types[0], 1.0), ((n, k), types[1], k**-0.5), ((n,), types[0], 1.0)
    arrays = [(rng.standard_normal(shape) * scale).astype(numpy_dtype(dtype)) for shape, dtype, scale in shapes]
    return make_call(MYLINEAR_2, arrays, {"activation": activation})


@TYPES
def test_every_sample_is_within_the_bound(types: tuple[str, str]) -> None:
    bound: Mapping[str, Any] = {name: ELEMENT_TYPES[t] for name, t in zip(("T", "TW"), types, strict=True)}
    for number, call in enumerate(KIT.samples(np.random.default_rng(3), bound)):
        said = complaint(call, run(call, number % 2 == 0))
        assert said is None, f"{call.label}: {said}"


@TYPES
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_larger_sizes(size: tuple[int, int, int], types: tuple[str, str]) -> None:
    names = ("gelu",) if size[0] * size[1] > 10**7 or size[1] * size[2] > 10**7 else ACTIVATIONS
    for activation in names:
        call = sample(*size, types, activation)
        said = complaint(call, run(call, True))
        assert said is None, f"{activation}: {said}"


def test_small_weights_never_use_tf32() -> None:
    call = sample(64, 512, 2048, ("float32", "bfloat16"), "none")
    assert complaint(call, run(call, True, use_tf32="1")) is None


def test_one_node_and_no_copies(tmp_path: Any) -> None:
    call = sample(64, 96, 128, ("float32", "float16"), "gelu")
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of(call, True))
    running = inspect_model(path, providers=[(cuda.PROVIDER, {}), "CPUExecutionProvider"]).running
    assert not running.error
    assert running.kernel == "cuda"
    if not running.assignment:
        pytest.skip("this onnxruntime cannot tell where its nodes are")
    assert running.assignment[cuda.PROVIDER]["mylinear::MYLINEAR"] == 1
    assert running.copies == 0


GRAPHS = pytest.mark.parametrize(
    "types", [("float32", "bfloat16"), ("float16", "float16"), ("float32", "float32")], ids="-".join
)


@GRAPHS
@pytest.mark.parametrize("m", [1, 64])
def test_cuda_graphs_capture_what_a_node_queues(types: tuple[str, str], m: int) -> None:
    whole = sample(m, 96, 128, types, "gelu")
    x, weight, _ = whole.arrays
    assert x is not None

    def call_of(array: Array) -> Call:
        return make_call(MYLINEAR_2, [array, weight, None], dict(whole.attributes))

    session = open_session(model_of(call_of(x), True), enable_cuda_graph="1")
    on_device = onnxruntime.OrtValue.ortvalue_from_numpy(x, "cuda", 0)
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type([m, 96], x.dtype.type, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", on_device)
    binding.bind_ortvalue_output("y", result)
    for factor in (1, 1, 1, 2, 3):  # runs, capture, and replays with other numbers in the same memory
        scaled = (x * x.dtype.type(factor)).astype(x.dtype)
        on_device.update_inplace(scaled)
        session.run_with_iobinding(binding)
        assert complaint(call_of(scaled), result.numpy()) is None
