"""What is measured: cells of M x (K, N) x dtype x threads, and how a user chooses them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ort_ops.errors import MylinearError
from ort_ops.opdef.element_types import FLOATS

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 1024)
SHAPES = ((2, 1), (64, 64), (256, 256), (768, 768), (768, 3072), (3072, 768), (1024, 4096), (4096, 4096))
DTYPES = ("float32", "float64", "float16", "bfloat16")
PEERS = ("gemm", "matmul", "torch", "compile", "openvino")
PARTS = ("ceilings", "grid", "load", "memory", "chain", "bits")
OURS = "ours"

_QUICK_ROWS = (1, 8, 128)
_QUICK_SHAPES = ((2, 1), (768, 3072), (1024, 4096))
_QUICK_PEERS = ("gemm", "matmul", "torch")  # compiling takes seconds a cell
# The ceilings, where the weights lie and the bits that threads share are those of the CPU; OpenVINO runs on it.
_PEERS_ON = {"cpu": PEERS, "cuda": ("gemm", "matmul", "torch", "compile")}
_PARTS_ON = {"cpu": PARTS, "cuda": ("grid", "chain")}
_BUDGET_S, _QUICK_BUDGET_S = 2.5, 0.3
_SYSFS = Path("/sys/devices/system/cpu")


class BenchError(MylinearError, ValueError):
    """An option of the benchmark that makes no sense, or a state that it cannot go on from."""


@dataclass(frozen=True)
class Cell:
    """One product: ``x [M, K]``, ``weight [N, K]``, a bias; in a dtype, on a number of threads, 0 for the GPU."""

    M: int
    K: int
    N: int
    dtype: str
    threads: int

    def __str__(self) -> str:
        return f"({self.M}, {self.K}, {self.N}) {self.dtype}, {runs_on(self.threads)}"

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cpu" if self.threads else "cuda"

    @property
    def key(self) -> str:
        """What the cell is called in a state file."""
        return f"{self.M}x{self.K}x{self.N}/{self.dtype}/{self.threads or 'cuda'}"


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
        rows: values of M; shapes: pairs (K, N); dtypes; threads, the number 0 alone for ``cuda``.
        peers: who takes part beside us, by the names in `PEERS`.
        parts: which of `PARTS` are done.
        budget_s: seconds of timing for a cell, all backends together; a cell whose calls are slow takes longer.
        is_quick: whether ceilings and the other parts are measured briefly too.
    """

    device: str
    rows: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    threads: tuple[int, ...]
    peers: tuple[str, ...]
    parts: tuple[str, ...]
    budget_s: float
    is_quick: bool

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, those of one weight one after the other."""
        for columns, outputs in self.shapes:
            for dtype in self.dtypes:
                for rows in self.rows:
                    for threads in self.threads:
                        yield Cell(rows, columns, outputs, dtype, threads)

    @property
    def num_steps(self) -> int:
        """How many cells and other parts there are."""
        grid = len(self.rows) * len(self.shapes) * len(self.dtypes) * len(self.threads)
        return sum(grid if part == "grid" else 1 for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        found = asdict(self)
        return {key: [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value
                for key, value in found.items()}  # fmt: skip


def make_plan(
    *,
    device: str = "cpu",
    rows: str | None = None,
    shapes: str | None = None,
    dtypes: str | None = None,
    threads: str | None = None,
    peers: str | None = None,
    parts: str | None = None,
    budget_s: float | None = None,
    is_quick: bool = False,
) -> Plan:
    """Make a plan of what the command line says; None takes the default, which is the whole grid.

    Raises: BenchError that names the option, the rule and what was given.
    """
    if budget_s is not None and not 0 < budget_s < 3600:
        raise BenchError(f"--budget must be seconds, more than 0 and less than 3600, got {budget_s:g}")
    if device != "cpu" and threads is not None:
        raise BenchError(f"--threads must be left out with --device {device}, which has none to choose")
    peers_here, parts_here = _PEERS_ON[device], _PARTS_ON[device]
    return Plan(
        device=device,
        rows=_numbers("--M", rows, _QUICK_ROWS if is_quick else ROWS),
        shapes=_shapes(shapes, _QUICK_SHAPES if is_quick else SHAPES),
        dtypes=_names("--dtypes", dtypes, DTYPES, tuple(t.name for t in FLOATS)),
        threads=_threads(threads) if device == "cpu" else (0,),
        peers=_names("--peers", peers, _QUICK_PEERS if is_quick else peers_here, peers_here, device),
        parts=_names("--parts", parts, parts_here, parts_here, device),
        budget_s=budget_s if budget_s is not None else _QUICK_BUDGET_S if is_quick else _BUDGET_S,
        is_quick=is_quick,
    )


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


def _split(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise BenchError(f"{option} must be values with commas between, got '{text}'")
    return list(dict.fromkeys(words))


def _numbers(option: str, text: str | None, default: Sequence[int]) -> tuple[int, ...]:
    if text is None:
        return tuple(default)
    words = _split(option, text)
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= 2**20 for word in words):
        raise BenchError(f"{option} must be whole numbers from 1 to {2**20} with commas between, got '{text}'")
    return tuple(dict.fromkeys(map(int, words)))


def _threads(text: str | None) -> tuple[int, ...]:
    cores = usable_cores()
    chosen = _numbers("--threads", text, tuple(dict.fromkeys((1, cores))))
    if max(chosen) > cores:
        raise BenchError(f"--threads must be at most {cores}, the cores that this process may use, got '{text}'")
    return chosen


def _shapes(text: str | None, default: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    if text is None:
        return tuple(default)
    found = []
    for word in _split("--shapes", text):
        numbers = word.lower().split("x")
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and 0 < int(n) <= 2**20 for n in numbers):
            raise BenchError(f"--shapes must be pairs KxN with commas between, such as 768x3072, got '{word}'")
        found.append((int(numbers[0]), int(numbers[1])))
    return tuple(dict.fromkeys(found))


def _names(
    option: str, text: str | None, default: Sequence[str], known: Sequence[str], device: str = "cpu"
) -> tuple[str, ...]:
    if text is None:
        return tuple(default)
    if text == "none" and option == "--peers":
        return ()
    words = _split(option, text)
    unknown = [word for word in words if word not in known]
    if unknown:
        where = "" if device == "cpu" else f" with --device {device}"
        raise BenchError(f"{option} must be among {', '.join(known)}{where}, got '{unknown[0]}'")
    return tuple(words)
