"""Build, check, sanitize and time MYLINEAR on a GPU, in one command for a new machine.

Long because it is one script for a new machine, where this package itself need not be installed.

    python benchmarks/cuda.py --output cuda.json

Needs a GPU, nvcc and cuBLAS, cmake, torch with CUDA, onnx, and onnxruntime-gpu 1.27 or newer; this package itself need
not be installed. Each part reports its failures, and the others go on; the exit status is 1 if any part failed.

- ``build``: both libraries, into the working tree.
- ``tests``: ``tests/native/test_cuda.py``, ``test_cuda_gradient.py`` and ``test_cuda_version_2.py``.
- ``sanitizer``: compute-sanitizer's memcheck and racecheck over the backend alone.
- ``kernel``: the backend against torch's ``F.linear``, both replayed from a CUDA graph, which leaves the
  host's time out; the same with cuBLASLt in place of the GEMV kernel; the rate at 8192 x 8192 x 8192, against cuBLAS';
  the bandwidth at M = 1, against a copy's.
- ``fused``: the backend with an activation, and with float16 and bfloat16 weights under float32, against torch's
  ``F.linear`` and the activation after it, in float32 for the latter; and nodes with an activation in onnxruntime.
- ``node``: a model of MYLINEAR nodes against models of Gemm and of MatMul and Add on onnxruntime's CUDA provider, and
  torch's ``F.linear`` called from Python; times by CUDA events on one stream.

Inputs are rotated, so that no call finds its inputs in the cache; each result is checked before it is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WEIGHTS = ((768, 3072), (4096, 4096), (4096, 16384))  # in_features, out_features
ROWS = (1, 2, 3, 4, 5, 8, 16, 32, 64, 128, 512, 2048, 8192)
DTYPES = ("float32", "float32 without TF32", "float64", "float16", "bfloat16")
# Largest ||y - exact|| / ||exact|| of a right result.
TOLERANCE = {
    "float32": 2e-3,
    "float32 without TF32": 1e-5,
    "float64": 1e-13,
    "float16": 2e-3,
    "bfloat16": 1.6e-2,
}
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")  # in the order of the kernels
FUSED = ("relu", "gelu", "silu")
FUSED_ROWS, MIXED_ROWS = (1, 8, 128, 2048), (1, 2, 4, 8, 16, 17, 64, 512, 2048)
ONNX_TYPES = {"float32": 1, "float64": 11, "float16": 10, "bfloat16": 16}
PARTS = ("build", "tests", "sanitizer", "kernel", "fused", "node")
ROTATED_NBYTES = 160 << 20  # three times the cache of an H100
MAX_ROTATION = 16
ROUNDS = 7
ROUND_SECONDS = 0.004
WORKSPACE_NBYTES = 32 << 20


class Report:
    """The results, written after every part, and the failures."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.found: dict[str, Any] = {"parts": {}, "failures": []}

    def part(self, name: str, run: Callable[[], Any]) -> None:
        """Run one part; keep what it raises, and let the next part run."""
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        try:
            self.found["parts"][name] = run()
        except (Exception, SystemExit) as error:
            self.fail(f"{name}: {type(error).__name__}: {error}")
            traceback.print_exc()
        print(f"=== {name}: {time.monotonic() - start:.0f} s", flush=True)
        self.write()

    def fail(self, text: str) -> None:
        """Keep and print one failure."""
        print(f"FAILURE {text}", flush=True)
        self.found["failures"].append(text)

    def write(self) -> None:
        """Write the results so far as JSON."""
        self.output.write_text(json.dumps(self.found, indent=1, default=str))


def command(*words: str, timeout: float, **environment: str) -> str:
    """Run a command and return its output. Raises: RuntimeError with the end of the output."""
    print("$", " ".join(words), flush=True)
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=timeout, check=False
    )
    text = done.stdout + done.stderr
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {text[-3000:]}")
    return text


# ---- the parts that run other commands


def describe_machine() -> dict[str, Any]:
    """Record versions and devices, as far as they are known."""
    found: dict[str, Any] = {"python": sys.version.split()[0]}
    for module in ("torch", "onnxruntime", "onnx", "numpy"):
        try:
            found[module] = __import__(module).__version__
        except Exception as error:
            found[module] = f"{type(error).__name__}: {error}"
    for name, words in {
        "gpu": ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        "nvcc": ["nvcc", "--version"],
        "commit": ["git", "rev-parse", "HEAD"],
    }.items():
        try:
            found[name] = command(*words, timeout=60).strip().splitlines()[-1]
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found, indent=1))
    return found


def build() -> str:
    """Configure, build and install into the working tree, where `ort_ops` looks first."""
    folder = str(ROOT / "build" / "cuda")
    options = ["-DMYLINEAR_CUDA=ON", "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
    text = command("cmake", "-S", "cpp_ops", "-B", folder, *options, timeout=120)
    text += command("cmake", "--build", folder, "--parallel", timeout=400)
    text += command("cmake", "--install", folder, "--prefix", str(ROOT), timeout=60)
    return text[-2000:]


def tests() -> str:
    """Run the tests on this device; a run that skips everything is a failure."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    files = [f"tests/native/{name}.py" for name in ("test_cuda", "test_cuda_gradient", "test_cuda_version_2")]
    text = command(*words, "-m", "cuda", *files, timeout=550, PYTHONPATH=str(ROOT))
    print(text[-1500:])
    if " passed" not in text:
        raise RuntimeError(f"no test ran: {text[-1000:]}")
    return text[-1500:]


def sanitizer(report: Report) -> dict[str, str]:
    """Run memcheck and racecheck over `check_backend`, in a process of its own."""
    found = {}
    for tool in ("memcheck", "racecheck"):
        try:
            found[tool] = command(
                *("compute-sanitizer", "--tool", tool, "--error-exitcode", "9"),
                *(sys.executable, str(Path(__file__).resolve()), "--only", "check-backend"),
                timeout=300,
                # So that each tensor has an allocation of its own, of just its size.
                PYTORCH_NO_CUDA_MEMORY_CACHING="1",
            )[-600:]
            print(found[tool])
        except Exception as error:
            report.fail(f"sanitizer, {tool}: {error}")
    return found


# ---- the backend alone, by ctypes


class Call(ctypes.Structure):
    """``Call`` of ``cpp_ops/cuda/backend.h``."""

    _fields_ = (
        ("element_type", ctypes.c_int32),
        ("weight_type", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("work", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("allows_tf32", ctypes.c_int32),
        ("M", ctypes.c_uint64),
        ("N", ctypes.c_uint64),
        ("K", ctypes.c_uint64),
        ("x", ctypes.c_void_p),
        ("w", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("allocate", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)),
        ("owner", ctypes.c_void_p),
    )


class Table(ctypes.Structure):
    """``Backend`` of ``cpp_ops/cuda/backend.h``."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("nbytes", ctypes.c_uint32),
        ("package_version", ctypes.c_char_p),
        ("probe", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p)),
        ("describe", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)),
        ("compute", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(Call), ctypes.c_char_p)),
    )


class Backend:
    """The library with the kernels, without onnxruntime."""

    TYPES = ("float64", "float32", "float16", "bfloat16")

    def __init__(self, path: Path = ROOT / "ort_ops" / "libmylinear_cuda.so", device: str = "cuda") -> None:
        import torch

        library = ctypes.CDLL(str(path))
        library.mylinear_cuda_backend.restype = ctypes.POINTER(Table)
        self.table = library.mylinear_cuda_backend(ctypes.c_uint32(3)).contents
        if self.table.nbytes != ctypes.sizeof(Table):
            raise RuntimeError("the structs here are not those of backend.h")
        self.workspace = torch.empty(WORKSPACE_NBYTES, dtype=torch.uint8, device=device)
        address = self.workspace.data_ptr()
        self.allocate = dict(Call._fields_)["allocate"](
            lambda owner, nbytes: address if nbytes <= WORKSPACE_NBYTES else None
        )
        text = ctypes.create_string_buffer(4096)
        self.table.describe(text, len(text))
        self.description = text.value.decode()

    def call(self, x: Any, w: Any, bias: Any, y: Any, allows_tf32: bool, activation: str = "none") -> Call:
        """Prepare a call on the current stream."""
        import torch

        return Call(
            element_type=self.TYPES.index(str(x.dtype).removeprefix("torch.")),
            weight_type=self.TYPES.index(str(w.dtype).removeprefix("torch.")),
            activation=ACTIVATIONS.index(activation),
            device=x.device.index or 0,
            allows_tf32=allows_tf32,
            M=x.shape[0],
            N=w.shape[0],
            K=x.shape[1],
            x=x.data_ptr(),
            w=w.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            y=y.data_ptr(),
            stream=torch.cuda.current_stream().cuda_stream if x.is_cuda else None,
            allocate=self.allocate,
        )

    def compute(self, call: Call) -> None:
        """Queue the call. Raises: RuntimeError with the backend's message."""
        text = ctypes.create_string_buffer(1024)
        if self.table.compute(ctypes.byref(call), text):
            raise RuntimeError(text.value.decode())

    def linear(self, x: Any, w: Any, bias: Any, y: Any, allows_tf32: bool, activation: str = "none") -> None:
        """Queue y = activation(x w^T + bias)."""
        self.compute(self.call(x, w, bias, y, allows_tf32, activation))


def torch_dtype(dtype: str) -> Any:
    """The dtype of a row of the table."""
    import torch

    return getattr(torch, dtype.split()[0])


def allows_tf32(dtype: str) -> bool:
    """Whether a row of the table uses TF32."""
    return dtype == "float32"


def activated(activation: str, x: Any) -> Any:
    """Apply an activation by torch."""
    import torch
    from torch.nn import functional

    if activation == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    functions = {"gelu": functional.gelu, "silu": functional.silu}
    return x if activation == "none" else functions.get(activation, getattr(torch, activation, None))(x)


def relative_error(y: Any, x: Any, w: Any, bias: Any, activation: str = "none") -> float:
    """Return ||y - exact|| / ||exact|| over some of the rows; infinity for a NaN."""
    import torch

    rows = torch.unique(torch.linspace(0, x.shape[0] - 1, min(x.shape[0], 16)).long()).to(x.device)
    exact = torch.nn.functional.linear(x[rows].double(), w.double(), None if bias is None else bias.double())
    exact = activated(activation, exact)
    error = float((y[rows].double() - exact).norm() / exact.norm().clamp_min(1e-300))
    return math.inf if math.isnan(error) else error


def check_result(what: str, dtype: str, y: Any, x: Any, w: Any, bias: Any, activation: str = "none") -> None:
    """Check a result's relative error. Raises: RuntimeError."""
    error = relative_error(y, x, w, bias, activation)
    if not error <= TOLERANCE[dtype]:
        raise RuntimeError(f"{what} is wrong: relative error {error:.3g}, allowed {TOLERANCE[dtype]:.3g}")


def check_backend() -> None:
    """Check small and awkward products, for the sanitizer."""
    import torch

    backend = Backend()
    print(backend.description)
    for dtype in DTYPES:
        for m, n, k in [(1, 7, 64), (1, 300, 4096), (2, 33, 129), (3, 5, 8), (4, 64, 1000), (40, 3, 96)]:
            check_one(backend, dtype, m, n, k)
        for m, n, k in [(5, 7, 9), (33, 129, 257), (64, 64, 64), (17, 256, 1024), (9, 9, 0)]:
            check_one(backend, dtype, m, n, k)
        for activation in ACTIVATIONS[1:]:
            for m, n, k in [(2, 33, 129), (33, 129, 257), (3, 5, 0)]:
                check_one(backend, dtype, m, n, k, activation)
    for weight_dtype in ("float16", "bfloat16"):
        for m, n, k in [(1, 7, 64), (3, 33, 129), (16, 300, 1000), (17, 33, 129), (64, 256, 1024), (40, 3, 96)]:
            for activation in ("none", "gelu"):
                check_one(backend, "float32 without TF32", m, n, k, activation, weight_dtype)
    torch.cuda.synchronize()
    print("every product is right")


def check_one(
    backend: Backend, dtype: str, m: int, n: int, k: int, activation: str = "none", weight_dtype: str | None = None
) -> None:
    """Check one product, with and without a bias."""
    import torch

    for has_bias in (True, False):
        x, w, b = (torch.randn(*shape, dtype=torch_dtype(dtype), device="cuda") for shape in ((m, k), (n, k), (n,)))
        w = w.to(torch_dtype(weight_dtype or dtype))
        y = torch.full((m, n), math.nan, dtype=x.dtype, device="cuda")
        bias = b if has_bias else None
        backend.linear(x, w, bias, y, allows_tf32(dtype), activation)
        torch.cuda.synchronize()
        check_result(f"{dtype} {activation} {m} x {n} x {k}", dtype, y, x, w, bias, activation)


# ---- timing


class Inputs:
    """Inputs and outputs of one product, so many of them that each has left the cache when its turn comes again."""

    def __init__(self, dtype: str, m: int, n: int, k: int, weight_dtype: str | None = None) -> None:
        import torch

        size = torch.empty(0, dtype=torch_dtype(dtype)).element_size()
        self.count = max(2, min(MAX_ROTATION, math.ceil(ROTATED_NBYTES / (size * (m * k + n * k + m * n)))))
        make = {"dtype": torch_dtype(dtype), "device": "cuda"}
        self.x = [torch.randn(m, k, **make) for _ in range(self.count)]
        self.w = [torch.randn(n, k, **make) / math.sqrt(k) for _ in range(self.count)]
        if weight_dtype is not None:
            self.w = [w.to(torch_dtype(weight_dtype)) for w in self.w]
        self.b = [torch.randn(n, **make) for _ in range(self.count)]
        self.y = [torch.full((m, n), math.nan, **make) for _ in range(self.count)]

    def check(self, what: str, dtype: str, activation: str = "none") -> None:
        """Check one result of the rotation, and that every result was written."""
        import torch

        torch.cuda.synchronize()
        if any(bool(torch.isnan(y).any()) for y in self.y):
            raise RuntimeError(f"{what} left elements unwritten, or made NaN")
        check_result(what, dtype, self.y[-1], self.x[-1], self.w[-1], self.b[-1], activation)

    def poison(self) -> None:
        for y in self.y:
            y.fill_(math.nan)


def captured(body: Callable[[], None]) -> Callable[[], None]:
    """Return the replay of a CUDA graph of the body."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            body()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def microseconds(runs: dict[str, Callable[[], Any]], per_run: int, stream: Any = None) -> dict[str, float]:
    """Return the median time of one product of each contender, in interleaved rounds, by events."""
    import torch

    stream = stream or torch.cuda.current_stream()

    def once(run: Callable[[], Any], repeats: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record(stream)
        for _ in range(repeats):
            run()
        end.record(stream)
        end.synchronize()
        return start.elapsed_time(end) * 1000 / repeats / per_run

    repeats = {}
    for name, run in runs.items():
        once(run, 2)
        repeats[name] = max(1, min(1000, int(ROUND_SECONDS * 1e6 / max(0.1, once(run, 2) * per_run))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(once(run, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def kernel_cell(
    backend: Backend, dtype: str, m: int, n: int, k: int, activation: str = "none", weight_dtype: str | None = None
) -> dict[str, float]:
    """Time the backend and torch, without a host; torch's weights have the dtype of x."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allows_tf32(dtype)
    inputs = Inputs(dtype, m, n, k, weight_dtype)
    rotation = range(inputs.count)
    weights = [w.to(torch_dtype(dtype)) for w in inputs.w]

    def ours() -> None:
        for i in rotation:
            backend.linear(inputs.x[i], inputs.w[i], inputs.b[i], inputs.y[i], allows_tf32(dtype), activation)

    def theirs() -> None:
        for i in rotation:
            activated(activation, torch.nn.functional.linear(inputs.x[i], weights[i], inputs.b[i]))

    replay = captured(ours)
    inputs.poison()
    replay()
    inputs.check(f"kernel {dtype} {activation} {weight_dtype or ''} {m} x {n} x {k}", dtype, activation)
    return microseconds({"mylinear": replay, "torch": captured(theirs)}, inputs.count)


def measured(report: Report, what: str, cell: dict[str, Any], make: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Measure one case and print it; empty where it failed, which does not end the others."""
    import torch

    label = " ".join(str(value) for value in cell.values())
    try:
        times = make()
    except Exception as error:
        report.fail(f"{what} {label}: {type(error).__name__}: {str(error)[:300]}")
        return {}
    finally:
        torch.cuda.empty_cache()
    ratio = min(v for name, v in times.items() if name != "mylinear") / times["mylinear"]
    columns = "  ".join(f"{name} {value:9.2f}" for name, value in times.items())
    print(f"{what} {label:45}  {columns}  x{ratio:.2f}", flush=True)
    return {**cell, "us": times, "ratio": ratio}


def cells(report: Report, what: str, make: Callable[[str, int, int, int], dict[str, float]]) -> list[dict[str, Any]]:
    """Measure every case of the table."""
    found = []
    for dtype in DTYPES:
        for k, n in WEIGHTS:
            for m in ROWS:
                cell = {"dtype": dtype, "M": m, "N": n, "K": k}
                found.append(measured(report, what, cell, functools.partial(make, dtype, m, n, k)))
    return [row for row in found if row]


def fused(report: Report) -> dict[str, Any]:
    """Measure activations and small weights."""
    backend = Backend()
    found: list[dict[str, Any]] = []
    for dtype in ("float32 without TF32", "float16", "bfloat16"):
        for activation in FUSED:
            for k, n in WEIGHTS[:2]:
                for m in FUSED_ROWS:
                    cell = {"dtype": dtype, "activation": activation, "M": m, "N": n, "K": k}
                    make = functools.partial(kernel_cell, backend, dtype, m, n, k, activation)
                    found.append(measured(report, "fused", cell, make))
                    if activation != "silu":
                        again = functools.partial(fused_node_cell, dtype, m, n, k, activation)
                        found.append(measured(report, "fused node", {"node": True, **cell}, again))
    for weight_dtype in ("float16", "bfloat16"):
        for k, n in WEIGHTS:
            for m in MIXED_ROWS:
                dtype = "float32 without TF32"
                cell = {"dtype": dtype, "weights": weight_dtype, "M": m, "N": n, "K": k}
                make = functools.partial(kernel_cell, backend, dtype, m, n, k, "none", weight_dtype)
                found.append(measured(report, "mixed", cell, make))
    return {"cells": [row for row in found if row]}


def kernel(report: Report) -> dict[str, Any]:
    """Measure everything about the backend alone."""
    backend = Backend()
    print(backend.description)
    found: dict[str, Any] = {"backend": json.loads(backend.description)}
    found["cells"] = cells(report, "kernel", lambda *cell: kernel_cell(backend, *cell))
    for name, measure in (("rate", large_rate), ("bandwidth", bandwidth)):
        try:
            found[name] = measure(backend)
            print(name, json.dumps(found[name], indent=1))
        except Exception as error:
            report.fail(f"kernel, {name}: {type(error).__name__}: {error}")
    try:
        found["without_gemv"] = without_gemv()
    except Exception as error:
        report.fail(f"kernel, without GEMV: {type(error).__name__}: {error}")
    return found


def large_rate(backend: Backend) -> dict[str, Any]:
    """Measure TFLOP/s at 8192 x 8192 x 8192, and as a share of torch's product without a bias."""
    import torch

    found = {}
    for dtype in ("float16", "bfloat16", "float32"):
        torch.backends.cuda.matmul.allow_tf32 = allows_tf32(dtype)
        inputs = Inputs(dtype, 8192, 8192, 8192)

        def ours(inputs: Inputs = inputs, dtype: str = dtype) -> None:
            for i in range(inputs.count):
                backend.linear(inputs.x[i], inputs.w[i], inputs.b[i], inputs.y[i], allows_tf32(dtype))

        def product(inputs: Inputs = inputs) -> None:
            for i in range(inputs.count):
                torch.matmul(inputs.x[i], inputs.w[i].T, out=inputs.y[i])

        ours()
        inputs.check(f"rate {dtype}", dtype)
        times = microseconds({"mylinear": ours, "cublas": product}, inputs.count)
        rates = {name: 2 * 8192**3 / value * 1e-6 for name, value in times.items()}
        found[dtype] = {"tflops": rates, "share": rates["mylinear"] / rates["cublas"]}
    return found


def bandwidth(backend: Backend) -> dict[str, Any]:
    """Measure bytes per second at M = 1, and as a share of those that a copy reads and writes."""
    import torch

    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    time_of_copy = microseconds({"copy": lambda s=source, t=target: t.copy_(s)}, 1)["copy"]
    copy = 2 * source.numel() * 4 / time_of_copy * 1e-6
    found: dict[str, Any] = {"copy TB/s": copy}
    del source, target
    for dtype in DTYPES:
        for k, n in WEIGHTS:
            size = torch.empty(0, dtype=torch_dtype(dtype)).element_size()
            rate = size * (n * k + k + 2 * n) / kernel_cell(backend, dtype, 1, n, k)["mylinear"] * 1e-6
            found[f"{dtype} {k}->{n}"] = {"TB/s": rate, "share": rate / copy}
    return found


def without_gemv() -> list[dict[str, Any]]:
    """Time products of few rows by cuBLASLt, in a process that has the GEMV kernel switched off."""
    text = command(
        *(sys.executable, str(Path(__file__).resolve()), "--only", "few-rows"),
        timeout=300,
        MYLINEAR_CUDA_GEMV_ROWS="0",
    )
    print("by cuBLASLt instead of the GEMV kernel:")
    found: list[dict[str, Any]] = json.loads(text.strip().splitlines()[-1])
    for row in found:
        print(f"  {row['dtype']:21} {row['M']} {row['K']}->{row['N']}  {row['us']:.2f} us")
    return found


def few_rows() -> None:
    """Print the times of products of few rows as one line of JSON."""
    backend = Backend()
    found = []
    for dtype in DTYPES:
        for k, n in WEIGHTS:
            for m in (1, 2, 3, 4):
                times = kernel_cell(backend, dtype, m, n, k)
                found.append({"dtype": dtype, "M": m, "N": n, "K": k, "us": times["mylinear"]})
    print(json.dumps(found))


# ---- nodes in onnxruntime


def node_model(operator: str, dtype: str, count: int, activation: str = "none") -> bytes:
    """Make a model of independent products whose tensors are all inputs, so that one run rotates through them.

    An activation is an attribute of MYLINEAR, and a node after the others; ONNX has one for all of `FUSED` but silu.
    """
    from onnx import helper

    from ort_ops.operators.mylinear.contract import MYLINEAR
    from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2

    element = ONNX_TYPES[dtype.split()[0]]
    nodes, inputs, outputs = [], [], []
    for i in range(count):
        x, w, b, y = (f"{name}{i}" for name in "xwby")
        shape_of_weight = ["K", "N"] if operator == "MatMul + Add" else ["N", "K"]
        for name, shape in ((x, ["M", "K"]), (w, shape_of_weight), (b, ["N"])):
            inputs.append(helper.make_tensor_value_info(name, element, shape))
        outputs.append(helper.make_tensor_value_info(y, element, ["M", "N"]))
        total = y if operator == "mylinear" or activation == "none" else f"s{i}"
        if operator == "mylinear":
            attributes = {} if activation == "none" else {"activation": activation}
            nodes.append(helper.make_node(MYLINEAR.name, [x, w, b], [y], domain=MYLINEAR.domain, **attributes))
        elif operator == "Gemm":
            nodes.append(helper.make_node("Gemm", [x, w, b], [total], transB=1))
        else:
            nodes.append(helper.make_node("MatMul", [x, w], [f"p{i}"]))
            nodes.append(helper.make_node("Add", [f"p{i}", b], [total]))
        if total != y:
            nodes.append(helper.make_node(activation.capitalize(), [total], [y]))
    version = MYLINEAR.since_version if activation == "none" else MYLINEAR_2.since_version
    opsets = [
        helper.make_opsetid("", 17 if activation == "none" else 20),
        helper.make_opsetid(MYLINEAR.domain, version),
    ]
    graph = helper.make_graph(nodes, "products", inputs, outputs)
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


class NodeRun:
    """Open a session of one operator on the stream that is timed."""

    def __init__(self, operator: str, dtype: str, count: int, stream: Any, activation: str = "none") -> None:
        from exporter.bench.backends import cuda

        self.operator = operator
        self.session = cuda.open_session(
            node_model(operator, dtype, count, activation),
            with_ours=operator == "mylinear",
            stream=stream.cuda_stream,
            allows_tf32=allows_tf32(dtype),
        )

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        """Return a function that queues every product of the rotation."""
        from exporter.bench.backends import cuda

        weights = [w.T.contiguous() for w in inputs.w] if self.operator == "MatMul + Add" else inputs.w
        named = {"x": inputs.x, "w": weights, "b": inputs.b}
        feed = {f"{name}{i}": tensor for name, tensors in named.items() for i, tensor in enumerate(tensors)}
        return cuda.bind(self.session, feed, {f"y{i}": y for i, y in enumerate(inputs.y)})


def fused_node_cell(dtype: str, m: int, n: int, k: int, activation: str) -> dict[str, float]:
    """Time nodes of MYLINEAR with an activation, and of Gemm with a node after it, as onnxruntime runs them."""
    import torch

    stream = torch.cuda.Stream()
    inputs = Inputs(dtype, m, n, k)
    runs: dict[str, Callable[[], Any]] = {}
    for operator in ("mylinear", "Gemm"):
        run = NodeRun(operator, dtype, inputs.count, stream, activation).bind(inputs)
        inputs.poison()
        torch.cuda.synchronize()
        run()
        inputs.check(f"{operator} {dtype} {activation} {m} x {n} x {k}", dtype, activation)
        runs[operator] = run
    return microseconds(runs, inputs.count, stream)


def node(report: Report) -> dict[str, Any]:
    """Time nodes, as onnxruntime runs them."""
    import onnxruntime
    import torch

    with contextlib.suppress(AttributeError):
        onnxruntime.preload_dlls()
    stream = torch.cuda.Stream()
    sessions: dict[tuple[str, str, int], NodeRun] = {}

    def cell(dtype: str, m: int, n: int, k: int) -> dict[str, float]:
        torch.backends.cuda.matmul.allow_tf32 = allows_tf32(dtype)
        inputs = Inputs(dtype, m, n, k)
        torch.cuda.synchronize()
        runs: dict[str, Callable[[], Any]] = {}
        for operator in ("mylinear", "Gemm", "MatMul + Add"):
            key = operator, dtype, inputs.count
            try:
                if key not in sessions:
                    sessions[key] = NodeRun(operator, dtype, inputs.count, stream)
                run = sessions[key].bind(inputs)
                inputs.poison()
                torch.cuda.synchronize()
                run()
                inputs.check(f"{operator} {dtype} {m} x {n} x {k}", dtype)
            except Exception as error:
                if operator == "mylinear":
                    raise
                report.fail(f"node, peer {operator} {dtype} {m} x {n} x {k}: {str(error)[:200]}")
                continue
            runs[operator] = run

        def theirs() -> None:
            with torch.cuda.stream(stream):
                for i in range(inputs.count):
                    torch.nn.functional.linear(inputs.x[i], inputs.w[i], inputs.b[i])

        runs["torch"] = theirs
        return microseconds(runs, inputs.count, stream)

    found = cells(report, "node", cell)
    return {"cells": found}


def summarize(report: Report) -> None:
    """Print the goals, and which of them are met."""
    parts = report.found["parts"]
    print("\n=== summary")
    for name in ("kernel", "fused", "node"):
        rows = (parts.get(name) or {}).get("cells") or []
        if not rows:
            print(f"{name}: no cell was measured")
            continue
        ratios = [row["ratio"] for row in rows]
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
        below = sum(ratio < 1 for ratio in ratios)
        print(f"{name}: {len(rows)} cells, geometric mean x{mean:.3f} of the best peer, {below} below 1")
        for row in sorted(rows, key=lambda row: row["ratio"])[:8]:
            print(f"  x{row['ratio']:.2f}  " + "  ".join(f"{k}={v}" for k, v in row.items() if k != "ratio"))
    kernel_part = parts.get("kernel") or {}
    for dtype, row in (kernel_part.get("rate") or {}).items():
        print(f"8192^3 {dtype}: {row['tflops']['mylinear']:.0f} TFLOP/s, {row['share']:.3f} of cuBLAS")
    for name, row in (kernel_part.get("bandwidth") or {}).items():
        if isinstance(row, dict):
            print(f"M = 1 {name}: {row['TB/s']:.2f} TB/s, {row['share']:.3f} of a copy")
    print(f"{len(report.found['failures'])} failures")
    for failure in report.found["failures"]:
        print(f"  {failure.splitlines()[0][:300]}")


def main() -> int:
    """Run the chosen parts; return status 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("cuda.json"), help="where the JSON goes")
    parser.add_argument(
        "--only", choices=(*PARTS, "check-backend", "few-rows"), action="append", help="may be repeated"
    )
    args = parser.parse_args()
    # Use what `build` made, whatever else is installed; also in parts that run in processes of their own.
    os.environ["MYLINEAR_LIBRARY"] = str(ROOT / "ort_ops" / "libmylinear_ort.so")
    os.environ["MYLINEAR_CUDA_LIBRARY"] = str(ROOT / "ort_ops" / "libmylinear_cuda.so")
    if args.only == ["check-backend"]:
        check_backend()
        return 0
    if args.only == ["few-rows"]:
        few_rows()
        return 0
    report = Report(args.output)
    parts = args.only or PARTS
    report.part("machine", describe_machine)
    runs: dict[str, Callable[[], Any]] = {
        "build": build,
        "tests": tests,
        "sanitizer": lambda: sanitizer(report),
        "kernel": lambda: kernel(report),
        "fused": lambda: fused(report),
        "node": lambda: node(report),
    }
    for name in parts:
        report.part(name, runs[name])
    summarize(report)
    report.write()
    return 1 if report.found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
