"""The CUDA kernels on a GPU: parity, TF32, torch on the same device, streams, memory, copies, CUDA graphs.

Runs where onnxruntime has its CUDA provider, the backend was built, and there is a device; else everything is skipped,
with the reason. ``benchmarks/cuda.py`` builds what is needed and runs this first.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from ort_ops.inspection.model import inspect_model
from ort_ops.native import cuda
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES, TF32, Arithmetic
from ort_ops.numerics.compare import compare
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64
from tests import native_support as native
from tests.cases import CASES, Case, numpy_dtype
from tests.linear_model import make_linear_model

_STATUS = cuda.status()
if _STATUS.reason is not None:
    pytest.skip(_STATUS.reason, allow_module_level=True)

pytestmark = [pytest.mark.cuda, pytest.mark.native]
Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = ("float64", "float32", "float16", "bfloat16")
# (M, N, K): around the limits of the GEMV kernel, odd sizes that cuBLASLt takes badly, and whole tiles.
SIZES = (
    *((m, n, 256) for m in (1, 2, 3, 4, 5) for n in (1, 4, 5, 129)),
    (300, 3, 64),
    (300, 1, 8192),
    (1, 3, 16384),
    (33, 129, 257),
    (64, 64, 1),
    (31, 8, 4096),
    (128, 256, 512),
    (4, 4096, 4096),
    (257, 1024, 1024),
)


def providers(**options: str) -> list[Any]:
    """CUDA's provider, in float32 without TF32 unless that is asked for."""
    return [(cuda.PROVIDER, {"use_tf32": "0"} | options), "CPUExecutionProvider"]


def open_session(model: onnx.ModelProto | bytes, **options: str) -> ort_ops.InferenceSession:
    """A session in which CUDA's provider is for certain, and all MYLINEAR nodes are with it."""
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = ort_ops.InferenceSession(data, settings, providers(**options), kernels="cuda")
    assert session.get_providers()[0] == cuda.PROVIDER, "onnxruntime fell back to the CPU; its log says why"
    return session


def arithmetic_of(dtype: str) -> Arithmetic:
    return TENSOR_CORES if dtype in ("float16", "bfloat16") else ROUNDED


def check(y: Array, x: Array, weight: Array, bias: Array | None, arithmetic: Arithmetic | None = None) -> None:
    assert y.dtype == x.dtype
    element_type = MYLINEAR.element_type(x.dtype.name)
    arithmetic = arithmetic or arithmetic_of(x.dtype.name)
    bound = linear_bound(x, weight, bias, element_type, arithmetic=arithmetic)
    found = compare(y, linear_float64(x, weight, bias), bound, element_type)
    assert found.is_within_bound, found.complaint


def sample(m: int, n: int, k: int, dtype: str) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(m * 1000003 + n * 1009 + k)
    x, weight, bias = (rng.standard_normal(shape).astype(numpy_dtype(dtype)) for shape in ((m, k), (n, k), (n,)))
    return x, weight, bias


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity_table(case: Case) -> None:
    arrays = case.sample()
    x, weight, bias = arrays["x"], arrays["weight"], arrays["bias"]
    assert x is not None
    assert weight is not None
    model = make_linear_model([*x.shape], weight, bias, with_function=False)
    check(open_session(model).run(None, {"x": x})[0], x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_parity_of_larger_sizes_with_constant_and_computed_weights(size: tuple[int, int, int], dtype: str) -> None:
    x, weight, bias = sample(*size, dtype)
    for of in (bias, None):
        model = make_linear_model([*x.shape], weight, of, with_function=False)
        check(open_session(model).run(None, {"x": x})[0], x, weight, of)
    computed = native.one_node_model(dtype, 2, {})
    check(native.call(open_session(computed), {"X": x, "W": weight, "B": bias}), x, weight, bias)


def test_tf32_only_where_the_session_allows_it() -> None:
    x, weight, bias = sample(512, 512, 2048, "float32")
    model = make_linear_model([*x.shape], weight, bias, with_function=False)
    strict = open_session(model).run(None, {"x": x})[0]
    check(strict, x, weight, bias, ROUNDED)
    allowed = open_session(model, use_tf32="1").run(None, {"x": x})[0]
    check(allowed, x, weight, bias, TF32)
    exact = linear_float64(x, weight, bias)
    # Else the option does not reach the kernel, one way or the other.
    assert np.abs(allowed - exact).mean() > 10 * np.abs(strict - exact).mean()


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_on_the_same_device_agrees(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    torch.backends.cuda.matmul.allow_tf32 = False
    for m in (1, 4, 300):
        x, weight, bias = sample(m, 500, 700, dtype)
        tensors = [torch.from_numpy(a.astype(np.float64)).to(getattr(torch, dtype)).cuda() for a in (x, weight, bias)]
        theirs = torch.nn.functional.linear(*tensors).double().cpu().numpy()
        ours = open_session(make_linear_model([*x.shape], weight, bias)).run(None, {"x": x})[0]
        bound = linear_bound(x, weight, bias, MYLINEAR.element_type(dtype), arithmetic=TENSOR_CORES)
        assert (np.abs(ours.astype(np.float64) - theirs) <= 2 * bound.error).all()


@pytest.mark.parametrize("inputs", [["X", "W"], ["X", "W", ""]], ids=["two", "empty"])
def test_bias_is_optional(inputs: list[str]) -> None:
    x, weight, _ = sample(7, 9, 11, "float32")
    declared = [native.value("X", "float32", [7, 11]), native.value("W", "float32", [9, 11])]
    model = native.make_model([native.node(*inputs)], declared, [native.value("Y", "float32", [7, 9])])
    check(open_session(model).run(None, {"X": x, "W": weight})[0], x, weight, None)


def test_errors_are_ours_and_leave_the_session_usable() -> None:
    x, weight, bias = sample(3, 4, 5, "float32")
    session = open_session(native.one_node_model("float32", 2, {}))
    with pytest.raises(Exception, match=r"MYLINEAR: weight must be \[out_features, 5\]"):
        session.run(None, {"X": x, "W": weight[:, :4].copy(), "B": bias})
    check(session.run(None, {"X": x, "W": weight, "B": bias})[0], x, weight, bias)


def test_no_copies_around_the_node(tmp_path: Path) -> None:
    """Two layers with an activation between: everything stays on the device, as onnxruntime's own graph says."""
    x, first, bias = sample(6, 8, 10, "float32")
    second = np.ones((3, 8), np.float32)
    nodes = [
        native.node("X", "W0", "B0", output="h"),
        onnx.helper.make_node("Relu", ["h"], ["r"]),
        native.node("r", "W1", output="Y"),
    ]
    declared = [native.value("X", "float32", ["n", 10])], [native.value("Y", "float32", ["n", 3])]
    model = native.make_model(nodes, *declared, {"W0": first, "B0": bias, "W1": second})
    path = tmp_path / "two.onnx"
    onnx.save(model, path)
    running = inspect_model(path, providers=providers()).running
    assert not running.error
    assert running.kernel == "cuda"
    if not running.assignment:
        pytest.skip("this onnxruntime cannot tell where its nodes are")
    assert running.assignment[cuda.PROVIDER]["mylinear::MYLINEAR"] == 2
    assert running.copies == 0
    hidden = np.maximum(linear_float64(x, first, bias), 0)
    np.testing.assert_allclose(
        open_session(model).run(None, {"X": x})[0], hidden.sum(1, keepdims=True) * np.ones(3), 1e-4
    )


@pytest.mark.parametrize("is_shared", [True, False], ids=["one session", "a session each"])
def test_many_streams_at_once(is_shared: bool) -> None:
    """Every run of a session has a stream of its own; results must be those of one thread, to the bit."""
    sizes = [(1, 300, 500), (4, 1000, 64), (70, 300, 500), (130, 1000, 64), (33, 129, 257)]
    model = native.one_node_model("float16", 2, {})
    shared = open_session(model)
    samples = [sample(*size, "float16") for size in sizes]
    expected = [shared.run(None, dict(zip("XWB", arrays, strict=True)))[0] for arrays in samples]
    for y, arrays in zip(expected, samples, strict=True):
        check(y, *arrays)
    wrong: list[str] = []

    def work(seed: int) -> None:
        session = shared if is_shared else open_session(model)
        order = np.random.default_rng(seed).integers(len(samples), size=300)
        for index in order:
            y = session.run(None, dict(zip("XWB", samples[index], strict=True)))[0]
            if y.tobytes() != expected[index].tobytes():
                wrong.append(f"thread {seed}: {sizes[index]}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _used_nbytes() -> int:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA, and what tells device memory is its")
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def test_ten_thousand_runs_take_no_more_memory() -> None:
    session = open_session(native.one_node_model("float16", 2, {}))
    samples = [sample(m, 512, 512, "float16") for m in (1, 3, 16, 64, 129)]

    def run(count: int) -> None:
        for i in range(count):
            session.run(None, dict(zip("XWB", samples[i % len(samples)], strict=True)))

    run(100)
    before = _used_nbytes()
    run(10_000)
    assert _used_nbytes() <= before


@pytest.mark.parametrize("m", [1, 64])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cuda_graphs_capture_the_node(dtype: str, m: int) -> None:
    x, weight, bias = sample(m, 96, 128, dtype)
    model = make_linear_model([m, 128], weight, bias, with_function=False)
    session = open_session(model, enable_cuda_graph="1")
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    on_device = onnxruntime.OrtValue.ortvalue_from_numpy(x, "cuda", 0)
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type([m, 96], x.dtype.type, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(name, on_device)
    binding.bind_ortvalue_output(output, result)
    for factor in (1, 1, 1, 2, 3):  # runs, capture, and replays with other numbers in the same memory
        scaled = (x * x.dtype.type(factor)).astype(x.dtype)
        on_device.update_inplace(scaled)
        session.run_with_iobinding(binding)
        check(result.numpy(), scaled, weight, bias)


def test_every_device() -> None:
    if len(_STATUS.devices) < 2:
        pytest.skip("there is one device")
    x, weight, bias = sample(9, 10, 11, "float32")
    model = make_linear_model([9, 11], weight, bias, with_function=False)
    for device in range(len(_STATUS.devices)):
        check(open_session(model, device_id=str(device)).run(None, {"x": x})[0], x, weight, bias)


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    m, n, k = 70_000, 32_768, 8
    x, weight, bias = sample(m, n, k, "float16")
    session = open_session(native.one_node_model("float16", 2, {}))
    y = session.run(None, {"X": x, "W": weight, "B": bias})[0]
    assert y.size > 2**31
    for rows in (slice(0, 3), slice(m // 2, m // 2 + 3), slice(m - 3, m)):
        check(y[rows], x[rows], weight, bias)
