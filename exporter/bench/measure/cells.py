"""What is measured: cells of M x (K, N) x kind of product x threads; `options` lets a user choose them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ort_ops.errors import MylinearError
from ort_ops.opdef.element_types import ELEMENT_TYPES

OURS = "ours"
NO_ACTIVATION = "none"

_COLD_ROWS = 4
"""Up to so many rows a product waits for its weight, so that one narrower than x is measured from memory."""
_COLD_NBYTES = 1 << 20
"""A smaller weight always lies in a cache, since a model of few layers has no more of them than a cache holds."""
_SYSFS = Path("/sys/devices/system/cpu")


class BenchError(MylinearError, ValueError):
    """An option of the benchmark that makes no sense, or a state that it cannot go on from."""


@dataclass(frozen=True)
class Kind:
    """What a product computes with.

    Attributes:
        dtype: of x, bias and result.
        weight: the weight's dtype where it is a narrower one; otherwise empty.
        activation: what the sum passes through; ``none`` for nothing.
    """

    dtype: str
    weight: str = ""
    activation: str = NO_ACTIVATION

    @property
    def is_plain(self) -> bool:
        """Whether it is a product of one dtype alone."""
        return not self.weight and self.activation == NO_ACTIVATION

    def __str__(self) -> str:
        weight = f" with {self.weight} weights" if self.weight else ""
        return f"{self.dtype}{weight}{'' if self.activation == NO_ACTIVATION else f', {self.activation}'}"


@dataclass(frozen=True)
class Cell:
    """One product: ``x [M, K]``, ``weight [N, K]``, a bias; of a kind, on a number of threads, 0 for the GPU.

    Attributes:
        is_cold: whether a call takes one of so many weights that no cache holds them all.
    """

    M: int
    K: int
    N: int
    dtype: str
    threads: int
    weight: str = ""
    activation: str = NO_ACTIVATION
    is_cold: bool = False

    def __str__(self) -> str:
        return f"({self.M}, {self.K}, {self.N}) {self.group}"

    @property
    def kind(self) -> Kind:
        """What it computes with."""
        return Kind(self.dtype, self.weight, self.activation)

    @property
    def group(self) -> str:
        """All but the sizes, in words: what a table has in its title."""
        return f"{self.kind}{', weights from memory' if self.is_cold else ''}, {runs_on(self.threads)}"

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cpu" if self.threads else "cuda"

    @property
    def weight_nbytes(self) -> int:
        """The bytes of the weight as it is stored."""
        return self.K * self.N * ELEMENT_TYPES[self.weight or self.dtype].nbytes

    @property
    def key(self) -> str:
        """What the cell is called in a state file."""
        more = "" if self.kind.is_plain else f"/{self.weight}/{self.activation}"
        where = self.threads or "cuda"
        return f"{self.M}x{self.K}x{self.N}/{self.dtype}/{where}{more}{'/cold' if self.is_cold else ''}"


def runs_on(threads: int) -> str:
    """Name what a cell runs on.

    >>> runs_on(1), runs_on(2), runs_on(0)
    ('1 thread', '2 threads', 'CUDA')
    """
    return f"{threads} thread{'s' * (threads > 1)}" if threads else "CUDA"


@dataclass(frozen=True)
class Plan:
    """What one run of the benchmark measures.

    Attributes:
        device: ``cpu`` or ``cuda``.
        rows: values of M; other_rows: those of kinds that are not plain.
        shapes: pairs (K, N); dtypes; threads, the number 0 alone for ``cuda``.
        kinds: what the products compute with.
        peers: who takes part beside us, by the names in `options.PEERS`.
        parts: which of `options.PARTS` are done.
        budget_s: seconds of timing for a cell, all backends together; a cell whose calls are slow takes longer.
        is_quick: whether ceilings and the other parts are measured briefly too.
        is_cold: whether every weight of a size worth it comes from memory. Otherwise only narrow ones do, for few rows.
        is_quiet: whether a cell is timed until two tries agree, as `quiet.until_quiet` does.
    """

    device: str
    rows: tuple[int, ...]
    other_rows: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    threads: tuple[int, ...]
    kinds: tuple[Kind, ...]
    peers: tuple[str, ...]
    parts: tuple[str, ...]
    budget_s: float
    is_quick: bool
    is_cold: bool = False
    is_quiet: bool = False

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, those of one weight one after the other."""
        for columns, outputs in self.shapes:
            for kind in self.kinds:
                for rows in self.rows_of(kind):
                    for threads in self.threads:
                        cell = Cell(rows, columns, outputs, kind.dtype, threads, kind.weight, kind.activation)
                        yield Cell(**{**asdict(cell), "is_cold": self._is_cold(cell)})

    def rows_of(self, kind: Kind) -> tuple[int, ...]:
        """Return the values of M for a kind."""
        return self.rows if kind.is_plain else self.other_rows

    def _is_cold(self, cell: Cell) -> bool:
        is_meant = self.is_cold or (cell.weight != "" and cell.M <= _COLD_ROWS)
        is_worth_it = cell.K * cell.N * ELEMENT_TYPES[cell.dtype].nbytes >= _COLD_NBYTES
        return is_meant and is_worth_it and cell.threads > 0

    @property
    def narrow_weights(self) -> tuple[str, ...]:
        """The dtypes of weights that are narrower than x."""
        return tuple(dict.fromkeys(kind.weight for kind in self.kinds if kind.weight))

    @property
    def num_steps(self) -> int:
        """How many cells and other parts there are."""
        grid = sum(len(self.rows_of(kind)) for kind in self.kinds) * len(self.shapes) * len(self.threads)
        return sum(grid if part == "grid" else 1 for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return found | {"shapes": [list(shape) for shape in self.shapes], "kinds": [str(kind) for kind in self.kinds]}


def usable_cores() -> int:
    """Return the number of physical cores that this process may run on: what "all threads" means."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in cpus:
        try:
            cores.add((_SYSFS / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return len(cpus)
    return len(cores)
