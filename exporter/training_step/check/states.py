"""The states and batches from which a step is compared with torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.training_step.network import Network
from exporter.training_step.optimizers.read import Optimizer

_MORE_ROWS = 3
_MORE_STEPS = 300
_LR = 0.5
_NOISES = (0.05, 0.005, 0.0)
_SMALLEST = 1e-2
_TINY = 1e-3


@dataclass(frozen=True)
class State:
    """From where a step goes.

    Attributes:
        what: in words, for errors.
        tensors: parameters, buffers, slots and sums of gradients, by name.
        step: number of steps done.
        lrs: a learning rate for each group.
        inputs: of the network, targets included.
        count: how many gradients the sums hold.
        is_first: whether it is the state of the model and the optimizer themselves.
    """

    what: str
    tensors: dict[str, Tensor]
    step: int
    lrs: list[float]
    inputs: tuple[Tensor, ...]
    count: int
    is_first: bool


class States:
    """Draws the states for one network, always the same ones."""

    def __init__(self, network: Network, read: Optimizer, sums: Mapping[str, str], count: int) -> None:
        """Take what the states are for.

        Args:
            sums: parameter by the name of its sum of gradients, for files that have such sums.
            count: how many gradients the sums hold.
        """
        self._network, self._read, self._sums, self._count = network, read, sums, count
        self._generator = torch.Generator().manual_seed(0)

    def first(self, now: Mapping[str, Tensor], *, draw_sums: bool) -> State:
        """Return the example, from the state that the file holds; sums are 0, or drawn."""
        sums = {name: torch.zeros_like(now[p], requires_grad=False) for name, p in self._sums.items()}
        if draw_sums:
            sums = {name: self._drawn(now[p], self._size_of(now, p)) for name, p in self._sums.items()}
        lrs = [group.lr for group in self._read.groups]
        inputs = self._network.tensors
        return State(self._batch(inputs), {**now, **sums}, self._read.step, lrs, inputs, self._count, True)

    def others(self, after: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> Iterator[State]:
        """Yield other batches and learning rates, and states in which nothing is left as it began.

        Only the first batch has a row of zeros, and each state has less noise than the one before: a model need not
        take such rows, nor all parameters.

        Args:
            after: what the first step led to.
            grads: of the first step; empty where it had none.
        """
        for i, noise in enumerate(_NOISES):
            yield self._other(after, grads, noise, has_zeros=not i)

    def _other(
        self, after: Mapping[str, Tensor], grads: Mapping[str, Tensor], part: float, *, has_zeros: bool
    ) -> State:
        read = self._read
        tensors = {name: tensor for name, tensor in after.items() if name not in read.slots}
        for name in read.parameters:
            tensors[name] = after[name] + self._drawn(after[name], part * self._size_of(after, name))
        for slot in read.slots:
            name = slot.rpartition("/")[0]
            size = max(_size(grads[name]) if name in grads else 0.0, self._size_of(after, name))
            # Every other number is tiny, and what an optimizer adds before it divides by its root shows.
            tiny = torch.ones(after[slot].numel(), dtype=after[slot].dtype)
            tiny[1::2] = _TINY
            noise = self._drawn(after[slot], size)
            # An average of squares is positive, and larger than the square of an average.
            noise = (noise.abs() + size) ** 2 if slot.endswith("_sq") else noise
            tensors[slot] = noise * (tiny**2 if slot.endswith("_sq") else tiny).reshape(noise.shape)
        for sums, name in self._sums.items():
            tensors[sums] = self._drawn(after[name], self._size_of(after, name))
        inputs = self._other_rows(has_zeros=has_zeros)
        lrs = [_LR / (i + 1) for i in range(len(read.groups))]
        what = f"{self._batch(inputs)}, in the middle of a training"
        return State(what, tensors, read.step + _MORE_STEPS, lrs, inputs, self._count + 1, False)

    def _size_of(self, tensors: Mapping[str, Tensor], name: str) -> float:
        """Return the size of a parameter, or a hundredth of the largest for one that is 0."""
        largest = max(_size(tensors[name]) for name in self._read.parameters) or 1.0
        return max(_size(tensors[name]), _SMALLEST * largest)

    def _drawn(self, like: Tensor, size: float) -> Tensor:
        numbers = torch.randn(like.shape, generator=self._generator, dtype=torch.float64)
        return (size * numbers).to(like.dtype)

    def _other_rows(self, *, has_zeros: bool) -> tuple[Tensor, ...]:
        """Return more rows than the example has, the same rows of all inputs and targets.

        Args:
            has_zeros: whether the first row of each input of floating-point numbers is 0.
        """
        tensors, dims = self._network.tensors, self._dims()
        sizes = self._sizes(tensors)
        if not sizes:
            return tensors
        rows = torch.randint(sizes[0], (sizes[0] + _MORE_ROWS,), generator=self._generator)
        found = [
            tensor if dim is None else tensor.index_select(dim, rows) for tensor, dim in zip(tensors, dims, strict=True)
        ]
        if has_zeros:
            for tensor, dim in zip(found[: len(self._network.inputs)], dims, strict=False):
                if dim is not None and tensor.is_floating_point():
                    tensor.select(dim, 0).zero_()
        return tuple(found)

    def _dims(self) -> list[int | None]:
        """Return which dimension of each tensor is the batch; None for none."""
        names = [*self._network.inputs, *self._network.targets]
        return [next(iter(self._network.axes[name]), None) for name in names]

    def _sizes(self, tensors: Sequence[Tensor]) -> list[int]:
        return [t.shape[dim] for t, dim in zip(tensors, self._dims(), strict=True) if dim is not None]

    def _batch(self, tensors: Sequence[Tensor]) -> str:
        sizes = self._sizes(tensors)
        return f"a batch of {sizes[0]}" if sizes else "the example"


def _size(tensor: Tensor) -> float:
    """Return the root mean square of the finite numbers."""
    values = tensor.detach().to(torch.float64)
    values = values[torch.isfinite(values)]
    return float(values.square().mean().sqrt()) if values.numel() else 0.0
