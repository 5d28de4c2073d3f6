"""Time a training step of `ort_ops.Trainer` beside torch's, and measure the memory that both take.

    python benchmarks/training.py                                       # all of it: about ten minutes
    python benchmarks/training.py --cases linear,digits --threads 1     # some of it
    python benchmarks/training.py --quick --json quick.json             # a smoke test: figures of no worth

Long because it is one script: the contenders, their check, both measurements, and how they are shown.

Results first: from the same weights, each contender trains a few steps, and its distance to torch in float64 must be
that of torch eager; one that is off is named and not timed. Then all contenders of a case take turns in one process,
in slots in random order, as in `mylinear bench`. A ratio is a peer's median time / that of `Trainer.step`, so above 1
ours is faster. ``loop`` is `Trainer.run_loop`, which trains many steps in one call; ``bodies`` is a `Trainer` without
our kernels, as in a plain onnxruntime. Peers are `torch.nn.Linear` with torch's default optimizer (``eager``), with
its fused one (``fused``), and compiled, with the fused optimizer (``compile``). Memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import exporter
import ort_ops
from exporter.bench.measure.timing import measure
from ort_ops.console.table import print_table

Array = NDArray[Any]

BUDGET_S, QUICK_S = 40.0, 0.2
CHECKED_STEPS = 3
LOOP_BYTES, LOOP_STEPS = 8 << 20, 200  # of the arrays of one run_loop, and the most steps in it
ROUNDINGS = 8  # a weight's share of them in a step, in units in the last place of its tensor
MORE_THAN_EAGER = 2.0  # times the distance of torch eager to float64, root mean square
MEMORY_SIZES, MEMORY_BATCH, MEMORY_STEPS, MEMORY_GOAL = (1024, 4096, 4096, 10), 256, 3, 0.9
PEERS = ("eager", "fused", "compile")


@dataclass(frozen=True)
class Case:
    """A network, and how it is trained.

    Attributes:
        sizes: of the layers, with ReLU between them.
        batch: rows of a step.
        dtype: of weights and rows.
        optimizer: makes torch's.
        goal: ratio to reach.
        peers: that the goal is about; the fastest counts.
    """

    sizes: tuple[int, ...]
    batch: int
    dtype: torch.dtype
    optimizer: Callable[..., torch.optim.Optimizer]
    goal: float
    peers: tuple[str, ...]

    @property
    def loss(self) -> nn.Module:
        """Mean squares for one output, cross entropy for classes."""
        return nn.MSELoss() if self.sizes[-1] == 1 else nn.CrossEntropyLoss()

    def data(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return rows and targets."""
        torch.manual_seed(1)
        x = torch.rand(rows, self.sizes[0], dtype=self.dtype)
        return x, x.sum(1, keepdim=True) if self.sizes[-1] == 1 else torch.randint(0, self.sizes[-1], (rows,))

    def model(self, layer: type[nn.Linear]) -> nn.Sequential:
        """Return the network with its first weights."""
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for size, after in zip(self.sizes, self.sizes[1:], strict=False):
            layers += [layer(size, after, dtype=self.dtype), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def export(self, path: Path) -> Path:
        """Write the training file."""
        model = self.model(exporter.MyLinear)
        exporter.export_training(model, self.loss, self.optimizer(model.parameters()), self.data(self.batch), path)
        return path


def _sgd(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, **options)


def _momentum(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, **options)


def _adamw(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, **options)


CASES = {
    "linear": Case((2, 1), 1, torch.float64, _momentum, 8.0, ("eager",)),
    "digits": Case((64, 128, 64, 10), 32, torch.float32, _adamw, 3.0, ("eager",)),
    "large-sgd": Case((512, 1024, 1024, 10), 256, torch.float32, _sgd, 1.0, PEERS),
    "large-adamw": Case((512, 1024, 1024, 10), 256, torch.float32, _adamw, 1.0, PEERS),
}
MEMORY = Case(MEMORY_SIZES, MEMORY_BATCH, torch.float32, _adamw, MEMORY_GOAL, ("eager",))


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
        call: trains one step, or several.
        steps: that a call trains.
        train: trains as many steps as it is told.
        weights: returns copies of them.
    """

    call: Callable[[], Any]
    steps: int
    train: Callable[[int], Any]
    weights: Callable[[], dict[str, Array]]


def torch_contender(case: Case, name: str) -> Contender:
    """Return a step of torch; in float64 if the name is ``exact``."""
    model = case.model(nn.Linear)
    x, y = case.data(case.batch)
    if name == "exact":
        model, x = model.double(), x.double()
    optimizer = case.optimizer(model.parameters(), **({"fused": True} if name in ("fused", "compile") else {}))
    loss = case.loss

    def forward(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = loss(model(x), y)
        return value

    compute = torch.compile(forward, fullgraph=True) if name == "compile" else forward

    def step() -> None:
        optimizer.zero_grad()
        compute(x, y).backward()
        optimizer.step()

    def train(steps: int) -> None:
        for _ in range(steps):
            step()

    return Contender(step, 1, train, lambda: {n: p.detach().numpy().copy() for n, p in model.named_parameters()})


def our_contenders(case: Case, path: Path, threads: int) -> dict[str, Contender]:
    """Return the steps of a Trainer: one a call, many a call, and without our kernels."""
    x, y = (tensor.numpy() for tensor in case.data(case.batch))
    count = max(2, min(LOOP_STEPS, LOOP_BYTES // x.nbytes))
    xs, ys = np.stack([x] * count), np.stack([y] * count)

    def stepping(trainer: ort_ops.Trainer) -> Contender:
        def step() -> float:
            return trainer.step(x, y)

        return Contender(step, 1, lambda steps: trainer.run([(x, y)] * steps), trainer.parameters)

    ours, loop, bodies = (
        ort_ops.Trainer(path, kernels=kernels, threads=threads) for kernels in ("auto", "auto", "body")
    )
    return {
        "ours": stepping(ours),
        "loop": Contender(
            lambda: loop.run_loop(xs, ys), count, lambda steps: loop.run_loop(xs[:steps], ys[:steps]), loop.parameters
        ),
        "bodies": stepping(bodies),
    }


def check(contenders: Mapping[str, Contender], case: Case) -> dict[str, str]:
    """Train a few steps with each from the same weights; return what is wrong, by name."""
    judge = torch_contender(case, "exact")
    for contender in (judge, *contenders.values()):
        contender.train(CHECKED_STEPS)
    exact, eager = judge.weights(), contenders["eager"].weights()
    wrong = {}
    for name, contender in contenders.items():
        for key, value in contender.weights().items():
            rounding = ROUNDINGS * CHECKED_STEPS * _rms(exact[key]) * float(np.finfo(value.dtype).eps)
            error, allowed = _rms(value - exact[key]), MORE_THAN_EAGER * _rms(eager[key] - exact[key]) + rounding
            if not error <= allowed:
                wrong[name] = f"{key} is off by {error:.2g} after {CHECKED_STEPS} steps, more than {allowed:.2g}"
    return wrong


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def run_case(name: str, path: Path, threads: int, budget_s: float, peers: Sequence[str]) -> dict[str, Any]:
    """Check the contenders of a case, time those that are right, and return figures as JSON has them."""
    case = CASES[name]
    torch.set_num_threads(threads)
    torch.compiler.reset()
    contenders = our_contenders(case, path, threads) | {peer: torch_contender(case, peer) for peer in peers}
    wrong = check(contenders, case)
    if "ours" in wrong:
        raise SystemExit(f"{name}: ours: {wrong['ours']}")
    right = {key: contender for key, contender in contenders.items() if key not in wrong}
    timings = measure({key: c.call for key, c in right.items()}, budget_s, rng=random.Random(0))
    seconds = {key: timing.median / right[key].steps for key, timing in timings.items()}
    ratios = {key: value / seconds["ours"] for key, value in seconds.items()}
    rivals = [ratios[peer] for peer in case.peers if peer in ratios]
    return {
        "case": name,
        "threads": threads,
        "seconds": seconds,
        "quartiles": {key: [t.q1 / right[key].steps, t.q3 / right[key].steps] for key, t in timings.items()},
        "ratios": ratios,
        "wrong": wrong,
        "goal": case.goal,
        "measured": min(rivals) if rivals else None,
    }


def measure_memory(path: Path, threads: int) -> dict[str, Any]:
    """Return the peaks of bytes of processes that train: all of it, and above what the imports took."""
    found: dict[str, Any] = {"case": "memory", "threads": threads, "goal": MEMORY_GOAL, "peak": {}, "above_imports": {}}
    for side, source in CHILDREN.items():
        values = {"path": str(path), "threads": threads, "batch": MEMORY.batch, "sizes": MEMORY.sizes}
        done = subprocess.run(
            [sys.executable, "-c", COMMON + source],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"memory of {side}: {done.stderr}")
        imports, peak = map(int, done.stdout.split())
        found["peak"][side], found["above_imports"][side] = peak, peak - imports
    found["measured"] = found["above_imports"]["ours"] / found["above_imports"]["eager"]
    return found


COMMON = f"""
import json, sys
import numpy as np
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
given = json.load(sys.stdin)
rng, rows, sizes, steps = np.random.default_rng(0), given["batch"], given["sizes"], {MEMORY_STEPS}
x, y = rng.random((rows, sizes[0]), np.float32), rng.integers(0, sizes[-1], rows)
"""
CHILDREN = {
    "ours": """
import ort_ops
ort_ops.Trainer
imports = peak()
trainer = ort_ops.Trainer(given["path"], threads=given["threads"])
for _ in range(steps):
    trainer.step(x, y)
assert "torch" not in sys.modules
print(imports, peak())
""",
    "eager": """
import torch
from torch import nn
torch.set_num_threads(given["threads"])
optimizer_class = torch.optim.AdamW
imports = peak()
layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ReLU())]
model = nn.Sequential(*layers[:-1])
optimizer = optimizer_class(model.parameters(), lr=1e-3)
x, y = torch.from_numpy(x), torch.from_numpy(y)
for _ in range(steps):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print(imports, peak())
""",
}


def _listed(kind: type, known: Sequence[Any], what: str) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        try:
            found = [kind(word) for word in text.split(",")]
        except ValueError:
            found = []
        unknown = [value for value in found if known and value not in known] or ([] if found else [text])
        if unknown:
            raise argparse.ArgumentTypeError(f"{what} must be of {', '.join(map(str, known))}, got {unknown[0]!r}")
        return found

    return parse


def main() -> None:
    """Print a table of times, one of ratios, and the memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = (*CASES, "memory")
    parser.add_argument("--cases", type=_listed(str, parts, "cases"), default=list(parts), help=", ".join(parts))
    parser.add_argument("--threads", type=_listed(int, (1, 2, 4, 8, 16), "threads"), default=[1, 2], help="default 1,2")
    parser.add_argument("--peers", type=_listed(str, PEERS, "peers"), default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds of a case (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: a moment for each, no compile, no memory")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    if args.quick:
        args.budget = QUICK_S
        args.peers = [peer for peer in args.peers if peer != "compile"]
        args.cases = [name for name in args.cases if name != "memory"]
    peers = ["eager", *(peer for peer in args.peers if peer != "eager")]
    about = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {platform.machine()}"
    print(f"{about}, {os.cpu_count()} cores", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.cases:
            path = (MEMORY if name == "memory" else CASES[name]).export(Path(folder) / f"{name}.onnx")
            for threads in args.threads:
                if name == "memory":
                    results.append(measure_memory(path, threads))
                else:
                    results.append(run_case(name, path, threads, args.budget, peers))
                _show(results[-1])
    if args.json:
        args.json.write_text(json.dumps({"about": about, "results": results}, indent=1))


def _show(result: Mapping[str, Any]) -> None:
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    if result["case"] == "memory":
        print(f"\nmemory of {'-'.join(map(str, MEMORY_SIZES))}, AdamW, batch {MEMORY_BATCH}, {threads}")
        columns = ("peak", "above_imports")
        rows = [[side, *(f"{result[key][side] / 1e6:.0f}" for key in columns)] for side in CHILDREN]
        print_table(["side", "peak, MB", "above imports, MB"], rows)
        met = result["measured"] <= result["goal"]
        print(
            f"ratio {result['measured']:.2f}, goal at most {result['goal']}: {'met' if met else 'missed'}", flush=True
        )
        return
    print(f"\n{result['case']}, {threads}")
    rows = []
    for key, seconds in result["seconds"].items():
        low, high = result["quartiles"][key]
        rows.append([key, *(f"{value * 1e6:.1f}" for value in (seconds, low, high)), f"{result['ratios'][key]:.2f}"])
    print_table(["contender", "us a step", "first quartile", "third quartile", "ratio to ours"], rows)
    for key, complaint in result["wrong"].items():
        print(f"{key} is not timed: {complaint}")
    if result["measured"] is not None:
        met = "met" if result["measured"] >= result["goal"] else "missed"
        of = " or ".join(CASES[result["case"]].peers)
        print(f"{result['measured']:.2f} of {of}, goal {result['goal']}: {met}", flush=True)


if __name__ == "__main__":
    main()
