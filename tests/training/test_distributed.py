"""Two processes on one machine: DDP, FSDP2 and tensor parallel as with nn.Linear; `mylinear train` under torchrun.

One pair of processes runs all of `SCENARIOS`, because to start one costs seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from exporter.operators.mylinear.module import MyLinear
from exporter.torch_ops.counting import count_calls
from exporter.training.checkpoints.checkpoint import load_checkpoint
from exporter.training.data.dataset import Dataset, load_diabetes
from exporter.training.data.linear_example import LinearExample
from exporter.training.distributed import PeerLostError, Processes, joined
from exporter.training.loop import Problem, TrainingError, train
from exporter.training.options import DEFAULTS, TrainingOptions

STEPS = 5
OPTIONS = TrainingOptions(epochs=3, batch_size=8, hidden=(5,), device="cpu", dtype="float64")


def rows() -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(50, 10, (45, 3))  # 36 rows to train on: the last batch of 8 has 4
    return Dataset("rows", "regression", x, x @ [[1.0], [-2.0], [0.5]], ("a", "b", "c"))


TRAININGS: dict[str, tuple[Callable[[], Problem], TrainingOptions]] = {
    "even batches": (rows, OPTIONS),
    "uneven batches": (rows, replace(OPTIONS, batch_size=5)),
    "batches of one row": (LinearExample, replace(DEFAULTS["linear"], device="cpu", epochs=20)),
    "sgd, float32": (rows, replace(OPTIONS, optimizer="sgd", lr=0.01, dtype="float32")),
}


def model(layer: type[nn.Linear]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(layer(8, 16), nn.ReLU(), layer(16, 16), nn.ReLU(), layer(16, 4))


def ddp(layer: type[nn.Linear]) -> nn.Module:
    return DistributedDataParallel(model(layer))


def ddp_static_graph(layer: type[nn.Linear]) -> nn.Module:
    return DistributedDataParallel(model(layer), static_graph=True, gradient_as_bucket_view=True)


def ddp_compiled(layer: type[nn.Linear]) -> nn.Module:
    return torch.compile(DistributedDataParallel(model(layer)), backend="aot_eager")


def fsdp2(layer: type[nn.Linear]) -> nn.Module:
    whole = model(layer)
    for child in whole:
        if isinstance(child, nn.Linear):
            fully_shard(child)
    return fully_shard(whole)


def fsdp2_bfloat16(layer: type[nn.Linear]) -> nn.Module:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    whole = model(layer)
    for child in whole:
        if isinstance(child, nn.Linear):
            fully_shard(child, mp_policy=policy)
    return fully_shard(whole, mp_policy=policy)


def tensor_parallel(layer: type[nn.Linear]) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    return parallelize_module(model(layer), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


SCENARIOS = (ddp, ddp_static_graph, ddp_compiled, fsdp2, fsdp2_bfloat16, tensor_parallel)


def losses(make: Callable[[type[nn.Linear]], nn.Module], layer: type[nn.Linear], rank: int) -> list[float]:
    network = make(layer)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    # Tensor parallel processes see the same rows, the others each their own.
    generator = torch.Generator().manual_seed(0 if make is tensor_parallel else rank)
    result = []
    for _ in range(STEPS):
        x = torch.rand(6, 8, generator=generator)
        optimizer.zero_grad()
        loss = (network(x) - x[:, :4]).square().mean()
        loss.backward()
        optimizer.step()
        result.append(loss.item())
    return result


def outcome(problem: Problem, options: TrainingOptions, folder: Path | None = None) -> dict[str, Any]:
    result = train(problem, options, folder=folder)
    return {
        "losses": [record.train_loss for record in result.history],
        "state": result.network.state_dict(),
        "wrote": result.checkpoint is not None,
    }


def work(rank: int, folder: Path) -> None:
    """What each of the two processes does; its results go to a file of its own."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results: dict[str, Any] = {}
    for make in SCENARIOS:
        with count_calls() as calls:
            results[make.__name__] = {layer.__name__: losses(make, layer, rank) for layer in (nn.Linear, MyLinear)}
            results[make.__name__]["calls"] = calls.total()
    for name, (problem, options) in TRAININGS.items():
        results[name] = outcome(problem(), options, folder / name)
    try:
        train(rows(), replace(OPTIONS, optimizer="sgd", lr=1e300))
    except TrainingError as error:
        results["diverged"] = str(error)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.long
@pytest.mark.parametrize("make", SCENARIOS, ids=lambda make: make.__name__)
def test_the_losses_are_those_of_nn_linear(make: Callable[..., Any], both: list[dict[str, Any]]) -> None:
    for results in both:
        result = results[make.__name__]
        assert len(set(result["Linear"])) == STEPS
        assert result["MyLinear"] == result["Linear"]
        if make is not ddp_compiled:  # its calls are not eager
            assert result["calls"] == 3 * STEPS
    if make is not tensor_parallel:
        assert both[0][make.__name__] != both[1][make.__name__]


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_does(name: str, both: list[dict[str, Any]]) -> None:
    problem, options = TRAININGS[name]
    alone = outcome(problem(), options)
    # One rounding of a sum apart at first; 20 steps of AdamW make of it what they will, far below this.
    tolerance = 1e-5 if options.dtype == "float32" else 1e-12
    for results in both:
        assert len(results[name]["losses"]) == options.epochs
        np.testing.assert_allclose(results[name]["losses"], alone["losses"], rtol=tolerance)
        for key, value in alone["state"].items():
            torch.testing.assert_close(results[name]["state"][key], value, rtol=tolerance, atol=tolerance)
    assert [results[name]["wrote"] for results in both] == [True, False]
    first, second = (results[name] for results in both)
    assert first["losses"] == second["losses"]
    assert all(torch.equal(first["state"][key], second["state"][key]) for key in first["state"])


def test_all_processes_see_a_divergence_and_none_waits_for_the_others(both: list[dict[str, Any]]) -> None:
    assert "lower the learning rate" in both[0]["diverged"]
    assert both[0]["diverged"] == both[1]["diverged"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 4, 7])
def test_the_shares_of_a_batch_are_disjoint_and_all_of_it(count: int, size: int) -> None:
    shares = [Processes(rank, count).share(size) for rank in range(count)]
    assert [i for share in shares for i in range(share.start, share.stop)] == list(range(size))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_without_torchrun_a_process_is_alone() -> None:
    with joined("cpu") as processes:
        assert processes == Processes(0, 1)
        assert processes.is_writer
    assert Processes(1, 2).device(torch.device("cpu")) == torch.device("cpu")


def test_each_process_takes_the_gpu_that_torchrun_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Processes(7, 8).device(torch.device("cuda")) == torch.device("cuda", 3)
    assert Processes(7, 8).device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert Processes(0, 1).device(torch.device("cuda")) == torch.device("cuda")


def torchrun(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "ort_ops.cli", "train", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.long
def test_mylinear_train_runs_under_torchrun_and_rank_0_writes_and_prints(tmp_path: Path) -> None:
    options = ["--hidden", "8", "--device", "cpu", "--dtype", "float64", "--epochs", "2"]
    done = torchrun("diabetes", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network   10 -> 8 -> 1, float64") == 1
    assert "processes 2" in done.stdout
    written = tmp_path / "mylinear-train"
    assert {path.name for path in written.iterdir()} == {"checkpoint.pt", "loss.csv", "loss.png"}

    alone = train(load_diabetes(), replace(DEFAULTS["diabetes"], hidden=(8,), device="cpu", dtype="float64", epochs=2))
    for ours, other in zip(load_checkpoint(written / "checkpoint.pt").history, alone.history, strict=True):
        assert ours.train_loss == pytest.approx(other.train_loss, rel=1e-12)


@pytest.mark.slow
def test_a_training_is_resumed_under_torchrun(tmp_path: Path) -> None:
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"]):
        done = torchrun("diabetes", "--device", "cpu", *more, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "resuming  after epoch 1 of 2" in done.stdout


@pytest.mark.slow
def test_a_bad_option_ends_all_processes(tmp_path: Path) -> None:
    done = torchrun("diabetes", "--epochs", "0", folder=tmp_path)
    assert done.returncode != 0
    assert "epochs must be 1 or more" in done.stderr
    assert not (tmp_path / "mylinear-train").exists()


def test_a_lost_process_is_one_line_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(message: torch.Tensor) -> None:
        raise RuntimeError("[pair.cc:537] Read error [127.0.0.1]:11668: Connection reset by peer.")

    monkeypatch.setattr(dist, "all_reduce", reset)
    with pytest.raises(PeerLostError, match="process 0 of 2: another process of this training has ended") as caught:
        Processes(0, 2).sum_gradients([nn.Parameter(torch.zeros(2))], torch.zeros(()))
    assert "pair.cc" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_without_a_traceback_of_ours(tmp_path: Path, rank: int) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from exporter.training import run as training_run\n"
        "from ort_ops.cli.main import main\n"
        "if __name__ == '__main__':\n"
        f"    if os.environ['RANK'] == '{rank}':\n"
        "        validate = training_run.Run._validate\n"
        "        training_run.Run._validate = (\n"
        "            lambda run: os.kill(os.getpid(), signal.SIGKILL) if run.epoch == 3 else validate(run)\n"
        "        )\n"
        "    sys.exit(main(['train', 'diabetes', '--device', 'cpu', '--epochs', '100000']))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", str(script)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode != 0
    assert "[rank" not in done.stderr  # how torch marks the traceback of a worker
    assert (tmp_path / "mylinear-train" / "checkpoint.pt").exists()
