"""How many weights a call goes through where no cache is to hold them."""

from __future__ import annotations

from pathlib import Path

from exporter.bench.measure.ceilings import ASSUMED_CACHES, cache_sizes
from exporter.bench.measure.cells import Cell
from ort_ops.opdef.element_types import ELEMENT_TYPES

_TIMES_CACHE = 2
_MODEL_NBYTES = 3 << 29  # a model in one piece has at most 2 GiB
_SHARE_OF_MEMORY = 16  # two models of onnxruntime's have weights, a copy of them and a packed one each
_MEMINFO = Path("/proc/meminfo")


def num_layers(cell: Cell) -> int:
    """Return how many layers a call of a cell computes: 1, or so many that no cache holds their weights.

    As x's dtype has them, the weights of all exceed twice the largest cache; fewer where memory is short, or a model
    in one piece would not hold them.
    """
    if not cell.is_cold:
        return 1
    nbytes = cell.K * cell.N * ELEMENT_TYPES[cell.dtype].nbytes
    most = min(_MODEL_NBYTES, free_memory() // _SHARE_OF_MEMORY)
    return max(1, min(_TIMES_CACHE * largest_cache() // nbytes + 1, most // nbytes))


def largest_cache() -> int:
    """Return the bytes of the last level of cache, as the system states them; an assumption where it does not."""
    sizes = cache_sizes()
    return max(sizes.values()) if set(sizes) >= {2, 3} else max(*ASSUMED_CACHES.values(), *sizes.values())


def free_memory(meminfo: Path = _MEMINFO) -> int:
    """Return the bytes that processes can still get; as many as are always there where the system does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        lines = []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 8 << 30)
