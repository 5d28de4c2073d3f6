"""Time a training step (forward, backward, optimizer) with MyLinear, beside nn.Linear and the textbook formula.

    python benchmarks/train_step.py [--compile] [--repeats 2000] [--threads 1]

Checks the results first: MyLinear's weights after five steps must be nn.Linear's, bit for bit in eager mode. Then all
contenders take one step after the other, in a new random order each round, so that other work on the machine hits all
alike; ratios are those of medians. Memory is what the layer saves for backward, and the peak of all tensors of a step.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from exporter.operators.mylinear.module import MyLinear

SHAPES = [((1, 2), 1), ((64, 256), 256), ((256, 512), 512), ((512, 1024), 1024), ((8, 64, 256), 256)]
GOALS = {((1, 2), 1): 1.15}
GOAL, COMPILED_GOAL = 1.05, 1.02
# Where the parameters happen to lie in memory makes some percent of difference, so all are made anew this often.
BUILDS = 5


class TextbookF(torch.autograd.Function):
    """The textbook formula, which computes every gradient, whether or not it is needed."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight, bias)
        return x @ weight.t() + bias

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        x, weight, _ = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        return grad @ weight, rows.t() @ x.reshape(-1, x.shape[-1]), rows.sum(0)


class TextbookLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = TextbookF.apply(input, self.weight, self.bias)
        return y


LAYERS: dict[str, type[nn.Linear]] = {"nn.Linear": nn.Linear, "MyLinear": MyLinear, "textbook": TextbookLinear}


@dataclass
class Contender:
    """One layer in training on fixed rows."""

    model: nn.Module
    call: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor

    @classmethod
    def make(cls, layer: type[nn.Linear], shape: tuple[int, ...], size: int, is_compiled: bool) -> Contender:
        torch.manual_seed(0)
        # Compiled, two layers: the first kernel's launch alone would be most of the time.
        layers = [layer(shape[-1], size), nn.ReLU(), layer(size, size)] if is_compiled else [layer(shape[-1], size)]
        model = nn.Sequential(*layers) if is_compiled else layers[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        x, y = torch.rand(shape), torch.rand(*shape[:-1], size)
        call: Callable[[Tensor], Tensor] = model
        if is_compiled:
            # Each with a code object of its own; with a shared one, dynamo would try the guards of all contenders.
            namespace: dict[str, Callable[[Tensor], Tensor]] = {}
            exec("def call(x): return model(x)", {"model": model}, namespace)
            call = torch.compile(namespace["call"], fullgraph=True)
        return cls(model, call, optimizer, x, y)

    def step(self) -> None:
        self.optimizer.zero_grad()
        F.mse_loss(self.call(self.x), self.y).backward()
        self.optimizer.step()

    def saved_nbytes(self) -> int:
        """Return the number of bytes that the layer saves for backward."""
        kept: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.call(self.x)
        return sum(kept)

    def peak_nbytes(self) -> int:
        """Return the peak of bytes in a step's own tensors, with gradients but without the kernels' scratch memory."""
        self.step()
        with PeakMemory() as memory:
            self.step()
        return memory.peak_nbytes


class PeakMemory(TorchDispatchMode):
    """Follow every storage that an operation makes, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[StorageWeakRef, int] = {}
        self.peak_nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        before = {StorageWeakRef(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                reference = StorageWeakRef(tensor.untyped_storage())
                if reference not in before:
                    self._alive[reference] = tensor.untyped_storage().nbytes()
        self._alive = {reference: size for reference, size in self._alive.items() if not reference.expired()}
        self.peak_nbytes = max(self.peak_nbytes, sum(self._alive.values()))
        return out


def check(contenders: dict[str, Contender], is_compiled: bool) -> None:
    """Train five steps with each, and stop unless the weights agree."""
    for contender in contenders.values():
        for _ in range(5):
            contender.step()
    expected = list(contenders["nn.Linear"].model.parameters())
    for name, contender in contenders.items():
        for ours, theirs in zip(contender.model.parameters(), expected, strict=True):
            if name == "MyLinear" and not is_compiled:
                assert torch.equal(ours, theirs), "MyLinear's weights are not nn.Linear's"
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of ``rounds`` rounds of one step for each contender, in a new order each round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            started = time.perf_counter()
            contenders[name].step()
            times[name].append(time.perf_counter() - started)
    return times


def main() -> None:
    """Print a line for each shape and layer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="two layers under torch.compile(fullgraph=True)")
    parser.add_argument("--repeats", type=int, default=2000, help="rounds for the smallest shape (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {args.threads} thread(s), float32, SGD; medians")
    print(f"{'x -> out_features':22}{'layer':12}{'us':>10}{'ratio':>8}{'goal':>7}{'saved B':>12}{'peak B':>12}")
    for shape, size in SHAPES:
        times: dict[str, list[float]] = {name: [] for name in LAYERS}
        rounds = max(40, min(args.repeats, args.repeats * 4_000_000 // (torch.Size(shape).numel() * size)))
        for _ in range(BUILDS):
            torch.compiler.reset()
            contenders = {name: Contender.make(layer, shape, size, args.compile) for name, layer in LAYERS.items()}
            check(contenders, args.compile)
            for name, taken in measure(contenders, rounds // BUILDS).items():
                times[name] += taken
        base = statistics.median(times["nn.Linear"])
        goal = COMPILED_GOAL if args.compile else GOALS.get((shape, size), GOAL)
        for name, contender in contenders.items():
            median = statistics.median(times[name])
            memory = f"{'-':>12}" * 2 if args.compile else f"{contender.saved_nbytes():12}{contender.peak_nbytes():12}"
            shown = f"{goal:7.2f}" if name == "MyLinear" else f"{'':7}"
            print(
                f"{f'{shape} -> {size}':22}{name:12}{median * 1e6:10.1f}{median / base:8.3f}{shown}{memory}", flush=True
            )


if __name__ == "__main__":
    main()
