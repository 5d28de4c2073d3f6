"""Measure what this machine can do at best: multiply-adds and bytes read a second, from each level of memory."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter.bench.measure.cells import Cell
from ort_ops.native import library as native
from ort_ops.opdef.element_types import ELEMENT_TYPES

LEVELS = ("L2", "L3", "memory")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ASSUMED_CACHES = {2: 1 << 20, 3: 32 << 20}
"""Bytes by level, where the system does not say."""
_GRANULE = 4096
_ALIGNMENT = 64
_MEMORY_NBYTES = 128 << 20
_SHARED = 0.8  # all threads must be at work together for this share of the time


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of this machine, as measured.

    Attributes:
        flops: floating-point operations a second, by accumulator dtype and threads; two for each multiply-add.
        bandwidth: bytes read a second by level and threads.
        capacity: bytes by level; L2 of one core, L3 of all cores, 0 for memory.
        isa: the fastest ISA for each measurement.
        is_capacity_known: whether the system said how large the caches are.
    """

    flops: dict[str, dict[int, float]]
    bandwidth: dict[str, dict[int, float]]
    capacity: dict[str, int]
    isa: dict[str, str]
    is_capacity_known: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Ceilings:
        """Read `as_dict`; JSON has made strings of the numbers of threads."""

        def by_threads(table: dict[str, dict[Any, float]]) -> dict[str, dict[int, float]]:
            return {name: {int(threads): rate for threads, rate in row.items()} for name, row in table.items()}

        return cls(**{**found, "flops": by_threads(found["flops"]), "bandwidth": by_threads(found["bandwidth"])})


def work(cell: Cell) -> tuple[int, int]:
    """Return a cell's floating-point operations, and the bytes of x, weight, bias and result."""
    numbers = cell.M * cell.K + cell.M * cell.N + cell.N
    return 2 * cell.M * cell.K * cell.N, cell.weight_nbytes + numbers * ELEMENT_TYPES[cell.dtype].nbytes


def least_time(cell: Cell, ceilings: Ceilings) -> tuple[float, str]:
    """Return the fewest seconds that a cell could take, and what limits it: ``flops`` or a level of memory.

    That is the larger of operations / rate and bytes / bandwidth; all arrays move once, at the speed of the level that
    the weight fits in, or of memory in a cold cell.
    """
    element_type = ELEMENT_TYPES[cell.dtype]
    flops, nbytes = work(cell)
    level = "memory" if cell.is_cold else level_of(cell.weight_nbytes, cell.threads, ceilings.capacity)
    moving = nbytes / ceilings.bandwidth[level][cell.threads]
    computing = flops / ceilings.flops[element_type.accumulator][cell.threads]
    return (computing, "flops") if computing >= moving else (moving, level)


def level_of(nbytes: int, threads: int, capacity: dict[str, int]) -> str:
    """Return the smallest level that holds ``nbytes``, shared evenly by the threads.

    >>> level_of(3 << 20, 2, {"L2": 1 << 20, "L3": 32 << 20})
    'L3'
    """
    if nbytes <= capacity["L2"] * threads:
        return "L2"
    return "L3" if nbytes <= capacity["L3"] else "memory"


def measure_ceilings(
    threads: tuple[int, ...], *, seconds: float, on_note: Callable[[str], None] = lambda note: None
) -> Ceilings:
    """Measure with each number of threads; each figure is the best of several runs of ``seconds`` altogether.

    The best and not the median, because only other work on the machine makes these loops slower. Narrower ISAs are
    tried too: they are as fast on some CPUs.

    Raises: NativeLibraryError if the C++ library, which has the loops, is not there.
    """
    library = _Loops()
    known = cache_sizes()
    capacity = {f"L{level}": known.get(level, ASSUMED_CACHES[level]) for level in (2, 3)} | {"memory": 0}
    flops: dict[str, dict[int, float]] = {}
    bandwidth: dict[str, dict[int, float]] = {}
    isa = {}
    for dtype in ("float32", "float64"):
        on_note(f"ceilings: {dtype} multiply-add")
        flops[dtype] = {}
        for count in threads:
            best = library.best(count, seconds, lambda i, thread, s, d=dtype: library.flops(i, d, s))  # type: ignore[misc]
            flops[dtype][count], isa[dtype] = best
    for level in LEVELS:
        on_note(f"ceilings: reading from {level}")
        bandwidth[level] = {}
        for count in threads:
            buffers = [_buffer(_nbytes_to_read(level, count, capacity)) for _ in range(count)]
            best = max(
                library.best(count, seconds / 2, lambda i, t, s, b=buffers, n=n: library.read(i, n, b[t], s))  # type: ignore[misc]
                for n in (1, 4)
            )
            bandwidth[level][count], isa[level] = best
    return Ceilings(flops, bandwidth, capacity, isa, set(known) >= {2, 3})


def cache_sizes(folder: Path = _CACHES) -> dict[int, int]:
    """Return the sizes of the first CPU's data caches in bytes, by level, as far as Linux tells."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[int(level)] = int(size.rstrip("KM")) << {"K": 10, "M": 20}.get(size[-1], 0)
        except (OSError, ValueError):
            continue
    return found


def _nbytes_to_read(level: str, threads: int, capacity: dict[str, int]) -> int:
    """Return how many bytes a thread reads again and again: half of its L2; a part of L3 beyond L2; more than L3."""
    if level == "L2":
        nbytes = capacity["L2"] // 2
    elif level == "L3":
        nbytes = max(capacity["L3"] // 4 // threads, 2 * capacity["L2"])
    else:
        nbytes = max(_MEMORY_NBYTES, 4 * capacity["L3"]) // threads
    return nbytes // _GRANULE * _GRANULE


def _buffer(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    whole = np.ones(nbytes + _ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % _ALIGNMENT
    return whole[start : start + nbytes]


class _Loops:
    """The loops of ``cpp_ops/ceilings`` in the C++ library."""

    _RUNS = 20  # many short ones, because other work on the machine spoils a long one

    def __init__(self) -> None:
        library = ctypes.CDLL(native.library_path())
        name_of = library.mylinear_ceiling_isa
        name_of.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
        self._flops = library.mylinear_ceiling_flops
        self._flops.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_double]
        self._read = library.mylinear_ceiling_read
        self._read.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_double]
        self._flops.restype = self._read.restype = ctypes.c_double
        self.isas: dict[int, str] = {}
        name, number = ctypes.c_char_p(), 0
        while True:
            is_usable = name_of(number, ctypes.byref(name))
            if name.value is None:
                break
            if is_usable and not (name.value == b"baseline" and self.isas):
                self.isas[number] = name.value.decode()
            number += 1

    def flops(self, isa: int, dtype: str, seconds: float) -> float:
        rate: float = self._flops(isa, dtype == "float64", seconds)
        return rate

    def read(self, isa: int, streams: int, buffer: np.ndarray[Any, Any], seconds: float) -> float:
        rate: float = self._read(isa, streams, buffer.ctypes.data, buffer.nbytes, seconds)
        return rate

    def best(self, threads: int, seconds: float, rate: Callable[[int, int, float], float]) -> tuple[float, str]:
        """Return the largest sum of the threads' rates over all ISAs and runs, and the ISA."""
        each = seconds / (self._RUNS * len(self.isas))
        found = []
        for _ in range(self._RUNS):
            for isa, name in self.isas.items():
                is_together, total = together(threads, lambda thread, isa=isa: rate(isa, thread, each))  # type: ignore[misc]
                found.append((is_together, total, name))
        _, most, name = max(found)
        return most, name


def together(threads: int, rate: Callable[[int], float]) -> tuple[bool, float]:
    """Call ``rate`` in several threads at once; ctypes releases Python's lock meanwhile.

    Returns: whether they worked at the same time (otherwise each had the machine to itself), and their summed rate.
    """
    rates, starts, ends = [0.0] * threads, [0.0] * threads, [0.0] * threads
    barrier = threading.Barrier(threads)

    def work(thread: int) -> None:
        barrier.wait()
        starts[thread] = time.perf_counter()
        rates[thread] = rate(thread)
        ends[thread] = time.perf_counter()

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return at_once(starts, ends), sum(rates)


def at_once(starts: Sequence[float], ends: Sequence[float]) -> bool:
    """Whether all threads were at work for nearly all of the time.

    >>> at_once([0.0, 0.1], [1.0, 1.1]), at_once([0.0, 0.5], [1.0, 1.5])
    (True, False)
    """
    return min(ends) - max(starts) >= _SHARED * (max(ends) - min(starts))
