"""`mylinear bench --device cuda` as far as it goes without a GPU: options, what is missing, and its logic on stand-ins.

That its backends run on a GPU is not tested here, nor anywhere yet.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import ort_ops
from exporter.bench.backends import contestants as backends
from exporter.bench.backends import cuda
from exporter.bench.backends.models import chain_model
from exporter.bench.measure import grid, identity, timing
from exporter.bench.measure.cells import OURS, Cell
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.options import DTYPES, make_plan
from ort_ops.cli import main as cli
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES
from tests.linear_model import make_linear_model

MODEL = make_linear_model(["batch", 2], np.ones((3, 2), np.float32), None, with_function=False).SerializeToString()


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ended with."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mylinear: ")]
    return line


# Options


def test_the_plan_for_a_gpu_has_no_threads_and_the_peers_and_parts_that_run_there() -> None:
    plan = make_plan(device="cuda")
    assert (plan.device, plan.threads) == ("cuda", (0,))
    assert plan.peers == ("gemm", "matmul", "torch", "compile")
    assert plan.parts == ("grid", "chain")
    assert {cell.device for cell in plan.cells()} == {"cuda"}
    assert {cell.device for cell in make_plan().cells()} == {"cpu"}
    assert make_plan(device="cuda", is_quick=True).peers == ("gemm", "matmul", "torch")
    cell = Cell(1, 2, 3, "float32", 0)
    assert (str(cell), cell.key) == ("(1, 2, 3) float32, CUDA", "1x2x3/float32/cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "1"], "--threads must be left out with --device cuda"),
        (["--goals"], "--goals must be left out with --device cuda"),
        (["--peers", "gemm,openvino"], "among gemm, matmul, torch, compile with --device cuda, got 'openvino'"),
        *((["--parts", name], f"among grid, chain with --device cuda, got '{name}'")
          for name in ("ceilings", "load", "memory", "bits")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_what_is_of_the_cpu_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--device", "cuda", "--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in complaint(capsys)
    assert not (tmp_path / "out").exists()


# What is missing


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA kernel that is said to be there."""
    monkeypatch.setattr(
        cuda.cuda, "status", lambda: ort_ops.native.cuda.CudaStatus(None, toolkit="13.0", driver="13.1")
    )


def bench_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must leave nothing, and return its complaint."""
    capsys.readouterr()
    assert cli.main(["bench", "--device", "cuda", "--quick", "--output", str(folder)]) == 2
    assert not folder.exists()
    return complaint(capsys)


def test_a_missing_kernel_is_said_in_the_words_of_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda.cuda, "status", lambda: ort_ops.native.cuda.CudaStatus("it was not built: build it"))
    assert bench_fails(tmp_path / "out", capsys).endswith("needs the CUDA kernel: it was not built: build it")


@pytest.mark.usefixtures("kernel")
def test_a_torch_without_cuda_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    words = bench_fails(tmp_path / "out", capsys)
    assert "needs torch with CUDA: torch" in words
    assert "was built without it; install a build for CUDA" in words
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = bench_fails(tmp_path / "out", capsys)
    assert "built for CUDA 13.0, finds no device; `nvidia-smi` says" in words
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch is not installed; pip install '.[export]'" in bench_fails(tmp_path / "out", capsys)


@pytest.mark.usefixtures("kernel")
def test_a_provider_that_does_not_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "why_not_cuda", lambda: None)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no\nlibcudnn")

    monkeypatch.setattr(cuda, "open_session", fail)
    words = bench_fails(tmp_path / "out", capsys)
    assert "onnxruntime cannot start its CUDA provider; its log says why, `no libcudnn`" in words


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime has CUDA")
def test_a_session_never_takes_the_cpu_instead(capfd: pytest.CaptureFixture[str]) -> None:
    gemm = chain_model("gemm", [(np.ones((3, 2), np.float32), np.ones(3, np.float32))])
    with pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"):
        cuda.open_session(gemm.SerializeToString(), with_ours=False)
    assert capfd.readouterr().out == "", "and onnxruntime does not say that it tries the CPU"


@pytest.mark.parametrize(("stream", "allows_tf32"), [(0, False), (77, True)])
def test_a_session_has_our_kernel_the_stream_and_tf32_only_where_asked(
    stream: int, allows_tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []
    registered: list[str] = []
    monkeypatch.setattr(ort_ops, "register", lambda options, kernels: registered.append(kernels))  # first: it imports
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda model, options, **rest: opened.append(rest))
    for with_ours in (True, False):
        cuda.open_session(MODEL, with_ours=with_ours, stream=stream, allows_tf32=allows_tf32)
    assert registered == ["cuda"]
    ((name, options),) = opened[0]["providers"]
    assert opened[1] == opened[0]
    assert opened[0]["enable_fallback"] == 0, "else onnxruntime tries the CPU where CUDA's provider raises"
    assert (name, options["use_tf32"]) == ("CUDAExecutionProvider", "1" if allows_tf32 else "0")
    assert options.get("user_compute_stream") == (str(stream) if stream else None)


# How it is timed


class Queue:
    """A clock, and a GPU that works on what was queued only while it is waited for; queueing takes a moment too."""

    QUEUEING_S = 1e-6

    def __init__(self) -> None:
        self.now = self.left = 0.0
        self.waits = 0

    def __call__(self) -> float:
        return self.now

    def backend(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += self.QUEUEING_S
            self.left += seconds

        return run

    def finish(self) -> None:
        self.now += self.left
        self.left = 0.0
        self.waits += 1


def test_a_batch_of_calls_is_timed_to_the_end_of_their_work() -> None:
    queue = Queue()
    runs = {"a": queue.backend(1e-4), "b": queue.backend(3e-4)}
    rng = random.Random(0)
    found = timing.measure(runs, 1.0, rng=rng, clock=queue, settle=lambda: None, finish=queue.finish)
    assert found["a"].calls > 1
    for name, seconds in (("a", 1e-4), ("b", 3e-4)):  # the warm-up's work is in nobody's time
        assert found[name].q1 == pytest.approx(seconds + queue.QUEUEING_S)
        assert found[name].q3 == pytest.approx(seconds + queue.QUEUEING_S)
    slots = sum(timed.slots for timed in found.values())
    assert queue.waits < 3 * slots + 20, "one wait for a batch, not one for a call"


def test_only_a_gpu_is_waited_for() -> None:
    assert cuda.finish(0) is cuda.synchronize
    assert cuda.finish(1)() is None
    assert (cuda.arithmetic(0), cuda.arithmetic(2)) == (TENSOR_CORES, ROUNDED)


# A cell, with the CPU in the GPU's place


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, kernel: None) -> list[int]:
    """Sessions and tensors on the CPU where they would be on the GPU; returns a list that grows with each wait."""
    waits: list[int] = []
    monkeypatch.setattr(cuda, "DEVICE", "cpu")
    monkeypatch.setattr(cuda, "require", lambda: None)
    monkeypatch.setattr(cuda, "synchronize", lambda: waits.append(0))
    monkeypatch.setattr(cuda, "open_session", on_cpu)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a made-up GPU")
    return waits


def on_cpu(model: bytes, *, with_ours: bool, stream: int, allows_tf32: bool = False) -> Any:
    assert stream == 77
    assert not allows_tf32
    return backends.open_session(model, 1, with_ours=with_ours)


@pytest.mark.native
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cell_binds_tensors_and_waits_for_every_side(dtype: str, stand_in: list[int]) -> None:
    cell = Cell(3, 5, 4, dtype, 0)
    problem = grid.make_problem(7, cell.K, cell.N, cell.kind, cuda.arithmetic(0))
    found = grid.run_cell(cell, problem, ("gemm", "matmul", "torch"), 0.01, None)
    for name in (OURS, "torch") if dtype == "bfloat16" else (OURS, "gemm", "matmul", "torch"):
        assert found.backends[name].reason == ""
        assert (found.backends[name].median or 0) > 0
        assert found.backends[name].error_in_bounds is not None
        assert found.backends[name].error_in_bounds <= 1
    assert len(stand_in) > 3 * found.backends[OURS].slots
    assert CellResult.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.native
def test_a_result_that_nothing_was_written_to_is_wrong(stand_in: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "bind", lambda *_: lambda: None)
    cell = Cell(3, 5, 4, "float32", 0)
    found = grid.run_cell(cell, grid.make_problem(3, 5, 4, cell.kind), (), 0.01, None)
    assert found.backends[OURS].reason.startswith("wrong result")


@pytest.mark.native
def test_the_command_names_the_gpu_and_leaves_the_same_files(
    stand_in: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--M", "1,3", "--shapes", "2x1", "--dtypes", "float32", "--peers", "gemm,torch", "--budget", "0.01"]
    command = ["bench", *sizes, "--quick", "--output", str(tmp_path)]
    assert cli.main([*command, "--device", "cuda"]) == 0
    shown = capsys.readouterr().out
    assert "a made-up GPU, CUDA kernel built with CUDA 13.0, driver for CUDA 13.1" in shown
    assert "float32, CUDA\n" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.csv", "bench.html", "ratios.png"}
    rows = list(csv.DictReader((tmp_path / "bench.csv").read_text().splitlines()))
    assert {(row["device"], row["threads"], row["ceiling_us"]) for row in rows} == {("cuda", "", "")}
    found = json.loads((tmp_path / "bench.json").read_bytes())
    assert [cell["device"] for cell in found["cells"]] == ["cuda", "cuda"]
    assert set(found["parts"]) == {"chain"}
    assert found["parts"]["chain"][0]["sides"]["ours"]["chain"] > 0
    assert "float32, CUDA" in (tmp_path / "bench.html").read_text()
    assert cli.main([*command, "--parts", "grid", "--threads", "1"]) == 2
    assert "measured otherwise, plan: device was 'cuda', is 'cpu'" in complaint(capsys)


@pytest.mark.usefixtures("stand_in")
def test_the_identity_of_a_result_on_a_gpu_has_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(identity.native, "library_path", lambda: __file__)
    found = identity.identify(make_plan(device="cuda"))
    assert found["gpu"] == {"name": "a made-up GPU", "driver": "13.1", "toolkit": "13.0", "sha256": None}
    assert "gpu" not in identity.identify(make_plan())
