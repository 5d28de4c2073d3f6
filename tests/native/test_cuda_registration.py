"""The CUDA kernels without a GPU: what is loaded and when, what is said of what is missing, and who serves then.

Long because all tests share the fake backend and what must not have been loaded before.

A fake backend (``cpp/fake_backend.cc``) stands in for ``libmylinear_cuda.so``. onnxruntime here has no CUDA provider,
so that no node is ever given to it: that the backend computes what it must is for ``test_cuda.py``, on a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from exporter.verification.backends.find import find_backends
from exporter.verification.verify import VerificationError, verify
from ort_ops.cli import main as cli
from ort_ops.inspection import doctor
from ort_ops.kernels import fallbacks
from ort_ops.native import cuda
from ort_ops.native import library as native
from ort_ops.opdef import registry
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS
from tests.linear_model import make_linear_model

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)
if cuda.PROVIDER in onnxruntime.get_available_providers():
    pytest.skip("onnxruntime has its CUDA provider here", allow_module_level=True)

pytestmark = pytest.mark.native
ROOT = Path(__file__).parents[2]
PROVIDERS = [cuda.PROVIDER, "CPUExecutionProvider"]
MODEL = make_linear_model(["n", 2], np.eye(2, dtype=np.float32), np.ones(2, np.float32)).SerializeToString()
X = np.array([[3, 5]], np.float32)


@pytest.fixture(scope="module")
def fake_backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("fake") / "libmylinear_cuda.so"
    sources = [ROOT / "tests/cpp/fake_backend.cc", ROOT / "cpp_ops/kernels/reference.cc"]
    version = f'-DMYLINEAR_VERSION="{native.status().version}"'
    flags = ["-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{ROOT / 'cpp_ops'}", version]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(path)], check=True)
    return path


@pytest.fixture
def backend(fake_backend: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake backend, and an onnxruntime that says that it has CUDA."""
    monkeypatch.setenv(cuda.LIBRARY_VARIABLE, str(fake_backend))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(fallbacks, "_warned", set())
    return fake_backend


def cuda_kernel() -> ort_ops.Kernel:
    return next(kernel for kernel in ort_ops.available_kernels() if kernel.name == "cuda")


def test_a_backend_that_was_not_built_is_said_and_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "_FILE_NAME", "libmylinear_nothing.so")
    reason = cuda_kernel().reason
    assert reason is not None
    assert "was built without it" in reason
    assert "cmake.define.MYLINEAR_CUDA=ON" in reason
    assert cli.main(["doctor"]) == 0
    assert "CUDA backend  not available: this installation was built without it" in capsys.readouterr().out
    monkeypatch.setenv(cuda.LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert "MYLINEAR_CUDA_LIBRARY names no file" in str(cuda_kernel().reason)


def test_an_onnxruntime_without_cuda_is_said_and_is_a_fault_where_the_backend_was_built(
    fake_backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cuda.LIBRARY_VARIABLE, str(fake_backend))
    assert "is without the CUDA provider; install onnxruntime-gpu" in str(cuda_kernel().reason)
    (fault,) = doctor.diagnose().faults
    assert fault.what == "the cuda kernel is not available"


def test_a_missing_c_library_takes_the_backend_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")
    assert "it needs the C++ library" in str(cuda_kernel().reason)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("have no device", "the driver finds no CUDA device"),
        ("speak another version", "is of another build than this library"),
        ("be of another release", "is of version 0.0.9, and this library of"),
    ],
)
def test_each_thing_that_is_missing_is_said_and_the_cpu_serves(
    behaviour: str, reason: str, backend: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_BACKEND", behaviour)
    assert reason in str(cuda_kernel().reason)
    assert cli.main(["doctor", "--json"]) == 1
    assert reason in json.loads(capsys.readouterr().out)["cuda"]["reason"]
    with pytest.raises(ort_ops.KernelError, match="the cuda kernel is not available"):
        ort_ops.register(onnxruntime.SessionOptions(), "cuda")
    with pytest.warns(ort_ops.CpuFallbackWarning, match="copied, because the CUDA kernel is not available"):
        kernel = ort_ops.register(onnxruntime.SessionOptions(), providers=PROVIDERS)
    assert kernel.name == "cpp"
    assert ort_ops.register(onnxruntime.SessionOptions(), "cpp", providers=PROVIDERS).name == "cpp"  # is no surprise


def test_a_damaged_backend_is_said_in_the_loader_s_words(
    backend: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_text("not a library")
    monkeypatch.setenv(cuda.LIBRARY_VARIABLE, str(damaged))
    assert "damaged.so cannot be loaded: " in str(cuda_kernel().reason)


def test_auto_is_cuda_only_where_the_providers_are(backend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda_kernel().is_available
    with_cuda = [kit.operator.op_type for kit in registry.kits() if kit.cuda_library is not None]
    assert sorted(set(with_cuda)) == ["mylinear::MYLINEAR", "mylinear::MYLINEARGRAD"]
    for providers in (PROVIDERS, [(cuda.PROVIDER, {"device_id": 1}), "CPUExecutionProvider"]):
        options = onnxruntime.SessionOptions()
        assert ort_ops.register(options, providers=providers, operators=with_cuda).name == "cuda"
        assert options.get_session_config_entry(cuda.CONFIG_KEY) == "require"
        # Of all operators, one has no CUDA kernel; nobody is known to use it, so nobody is warned.
        assert ort_ops.register(onnxruntime.SessionOptions(), providers=providers).name == "cuda, cpp"
    for providers in (None, [], ["CPUExecutionProvider"]):
        assert ort_ops.register(onnxruntime.SessionOptions(), providers=providers).name == "cpp"
    assert cli.main(["doctor"]) == 0
    assert f"CUDA backend  {backend}" in capsys.readouterr().out


@pytest.mark.parametrize("kernels", ["auto", "cuda"])
def test_the_cpu_kernel_of_the_same_domain_serves_a_session_without_cuda(kernels: str, backend: Path) -> None:
    """onnxruntime falls back to its CPU provider, and finds the CPU's kernel in the domain that has both."""
    with pytest.warns(UserWarning, match="CUDAExecutionProvider' is not in available provider names"):
        served = ort_ops.InferenceSession(MODEL, providers=PROVIDERS if kernels == "auto" else None, kernels=kernels)
    assert served.kernel == "cpp"
    assert served.get_providers() == ["CPUExecutionProvider"]
    assert (served.run(None, {"x": X})[0] == X + 1).all()


def test_options_with_both_kernels_serve_any_session(backend: Path) -> None:
    options = onnxruntime.SessionOptions()
    ort_ops.register(options, "cuda")
    for _ in range(2):
        served = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        assert (served.run(None, {"x": X})[0] == X + 1).all()
    with pytest.raises(ort_ops.KernelError, match=r"have the cuda kernel .* registered already"):
        ort_ops.register(options, "cpp")


@pytest.mark.parametrize("how", ["entry", "variable"])
def test_a_host_in_another_language_asks_by_config_entry_or_environment(
    how: str, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BACKEND", "have no device")

    def options(wanted: str) -> onnxruntime.SessionOptions:
        made = onnxruntime.SessionOptions()
        if how == "entry":
            made.add_session_config_entry(cuda.CONFIG_KEY, wanted)
        else:
            monkeypatch.setenv("MYLINEAR_CUDA", wanted)
        made.register_custom_ops_library(native.library_path())
        return made

    assert onnxruntime.InferenceSession(MODEL, options("1"), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="the CUDA kernel is not available: the driver finds no CUDA device"):
        options("require")
    for wrong in ("maybe", "what is longer than any word that is right"):
        with pytest.raises(Exception, match=f"must be 0, 1 or require, got {wrong}"):
            options(wrong)


def test_a_session_without_cuda_loads_nothing_of_it(fake_backend: Path) -> None:
    script = """
        import numpy, onnxruntime, ort_ops, sys
        from ort_ops.native import cuda
        onnxruntime.get_available_providers = lambda: [cuda.PROVIDER, "CPUExecutionProvider"]
        is_loaded = lambda: "libmylinear_cuda" in open("/proc/self/maps").read()
        ort_ops.InferenceSession(open(sys.argv[1], "rb").read())
        ort_ops.register(onnxruntime.SessionOptions(), providers=["CPUExecutionProvider"])
        assert not is_loaded()
        ort_ops.register(onnxruntime.SessionOptions(), providers=[cuda.PROVIDER])
        assert is_loaded()
    """
    model = fake_backend.parent / "model.onnx"
    model.write_bytes(MODEL)
    environment = {**os.environ, cuda.LIBRARY_VARIABLE: str(fake_backend)}
    command = [sys.executable, "-c", textwrap.dedent(script), str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_two_libraries_of_one_build_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real backend, where it was built; without a driver it loads all the same, and says what is missing."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    found = cuda.status()
    if found.path is None:
        pytest.skip("libmylinear_cuda.so was not built")
    assert found.toolkit is not None, found.reason
    assert found.architectures.split() == ["80", "89", "90"]
    if not found.devices:
        assert found.reason is not None
        assert "driver" in found.reason


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_benchmark_speaks_the_backend_s_interface(dtype: str, fake_backend: Path) -> None:
    """Its structs are those of ``backend.h``, so that on a GPU it measures and does not crash."""
    torch = pytest.importorskip("torch")
    benchmark = _benchmark()
    backend = benchmark.Backend(fake_backend, "cpu")
    x, w, b = (torch.randn(*shape, dtype=getattr(torch, dtype)) for shape in ((5, 7), (3, 7), (3,)))
    for bias in (b, None):
        y = torch.full((5, 3), float("nan"), dtype=x.dtype)
        backend.linear(x, w, bias, y, False)
        benchmark.check_result("the fake", dtype, y, x, w, bias)
    for activation in benchmark.ACTIVATIONS:
        backend.linear(x, w, b, y, False, activation)
        benchmark.check_result("the fake", dtype, y, x, w, b, activation)
    if dtype == "float32":
        for narrow in (w.half(), w.bfloat16()):
            backend.linear(x, narrow, b, y, False)
            benchmark.check_result("the fake", dtype, y, x, narrow, b)
    backend.linear(x, w, None, y, False)
    with pytest.raises(RuntimeError, match="is wrong: relative error"):
        benchmark.check_result("the fake", dtype, y + 1, x, w, None)
    with pytest.raises(RuntimeError, match="is wrong: relative error inf"):
        benchmark.check_result("the fake", dtype, y * float("nan"), x, w, None)


def test_the_benchmark_s_models_compute_the_same() -> None:
    benchmark = _benchmark()
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal(shape) for name, shape in (("x", (5, 7)), ("w", (3, 7)), ("b", (3,)))}
    feed = {f"{name}{i}": (array * (i + 1)).astype(np.float32) for name, array in drawn.items() for i in range(2)}
    for operator in ("mylinear", "Gemm", "MatMul + Add"):
        of_operator = {k: v.T.copy() if k[0] == "w" and operator == "MatMul + Add" else v for k, v in feed.items()}
        served = ort_ops.InferenceSession(benchmark.node_model(operator, "float32 without TF32", 2))
        for i, y in enumerate(served.run(None, of_operator)):
            np.testing.assert_allclose(y, feed[f"x{i}"] @ feed[f"w{i}"].T + feed[f"b{i}"], 1e-4, 1e-5)


def test_the_benchmark_s_fused_models_compute_the_same() -> None:
    torch = pytest.importorskip("torch")
    benchmark = _benchmark()
    assert benchmark.ACTIVATIONS == ACTIVATIONS
    x, w, b = (torch.randn(*shape) for shape in ((5, 7), (3, 7), (3,)))
    feed = {f"{name}0": tensor.numpy() for name, tensor in (("x", x), ("w", w), ("b", b))}
    for activation in ("relu", "gelu"):
        for operator in ("mylinear", "Gemm"):
            served = ort_ops.InferenceSession(benchmark.node_model(operator, "float32", 1, activation))
            y = torch.from_numpy(served.run(None, feed)[0])
            benchmark.check_result(operator, "float32 without TF32", y, x, w, b, activation)
            with pytest.raises(RuntimeError, match="is wrong"):
                benchmark.check_result(operator, "float32 without TF32", y, x, w, b)


@pytest.mark.parametrize("operator", ["mylinear", "Gemm", "MatMul + Add"])
def test_the_benchmark_binds_every_product_of_a_rotation(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU's tensors and provider; which differ from the GPU's in nothing that is bound here."""
    torch = pytest.importorskip("torch")
    from exporter.bench.backends import contestants
    from exporter.bench.backends import cuda as sessions

    def on_cpu(model: bytes, *, with_ours: bool, stream: int, allows_tf32: bool) -> Any:
        assert (stream, allows_tf32) == (77, False)
        return contestants.open_session(model, 1, with_ours=with_ours)

    monkeypatch.setattr(sessions, "open_session", on_cpu)
    benchmark = _benchmark()
    node = benchmark.NodeRun(operator, "float32 without TF32", 2, types.SimpleNamespace(cuda_stream=77))
    shapes = {"x": (3, 5), "w": (4, 5), "b": (4,), "y": (3, 4)}
    inputs = types.SimpleNamespace(**{name: [torch.randn(*shape) for _ in range(2)] for name, shape in shapes.items()})
    node.bind(inputs)()
    for x, w, b, y in zip(inputs.x, inputs.w, inputs.b, inputs.y, strict=True):
        torch.testing.assert_close(y, torch.nn.functional.linear(x, w, b))


def _benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_cuda", ROOT / "benchmarks" / "cuda.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_verify_does_not_take_the_cpu_for_the_gpu(backend: Path, tmp_path: Path) -> None:
    """Where onnxruntime says that it has CUDA and then cannot start it, its backends do not run, and say so."""
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specified provider", UserWarning)
        reasons = {backend.name: backend.reason for backend in find_backends(onnx.load(path), path, None, None)}
    for name in ("cuda", "body[cuda]"):
        assert "could not start its CUDA provider" in str(reasons[name])
    assert reasons["body"] is None


def test_verify_can_insist_on_the_gpu_or_leave_it_out(backend: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    names = {backend.name for backend in find_backends(onnx.load(path), path, None, None, "cpu")}
    assert {"cpp", "body"} <= {name.partition("[")[0] for name in names}
    assert not {"cuda", "body[cuda]"} & names
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specified provider", UserWarning)
        with pytest.raises(ort_ops.KernelError, match="the cuda kernel cannot run: onnxruntime could not start"):
            find_backends(onnx.load(path), path, None, None, "cuda")


def test_verify_says_what_the_gpu_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "_FILE_NAME", "libmylinear_nothing.so")
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    command = ["verify", str(path), "--compile", "none", "--batch-size", "1"]
    assert cli.main([*command, "--device", "cuda", "--json", str(tmp_path / "verified.json")]) == 2
    assert (
        "mylinear: the cuda kernel is not available: this installation was built without it" in capsys.readouterr().err
    )
    assert [found.name for found in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(VerificationError, match="device must be auto or cpu or cuda, got gpu"):
        verify(path, device="gpu")
