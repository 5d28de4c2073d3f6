"""Make a plan of what a user asks for; the defaults, and how a bad option is refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import NO_ACTIVATION, BenchError, Kind, Plan, usable_cores
from ort_ops.opdef.element_types import FLOATS

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 1024)
OTHER_ROWS = (1, 2, 4, 64, 1024)
SHAPES = ((2, 1), (64, 64), (256, 256), (768, 768), (768, 3072), (3072, 768), (1024, 4096), (4096, 4096))
DTYPES = ("float32", "float64", "float16", "bfloat16")
PEERS = ("gemm", "matmul", "torch", "compile", "openvino", "zentorch")
PARTS = ("ceilings", "grid", "load", "memory", "chain", "bits")
SAME = "same"
"""The weight's dtype is that of x."""

_WIDE = "float32"
"""The dtype of x under which a weight may be narrower."""
_QUICK_ROWS, _QUICK_OTHER_ROWS = (1, 8, 128), (1, 128)
_QUICK_SHAPES = ((2, 1), (768, 3072), (1024, 4096))
_QUICK_PEERS = ("gemm", "matmul", "torch")  # compiling takes seconds a cell
# The ceilings, where the weights lie and the bits that threads share are those of the CPU; OpenVINO runs on it.
_PEERS_ON = {"cpu": PEERS, "cuda": ("gemm", "matmul", "torch", "compile")}
_PARTS_ON = {"cpu": PARTS, "cuda": ("grid", "chain")}
_BUDGET_S, _QUICK_BUDGET_S = 2.5, 0.3


def make_plan(
    *,
    device: str = "cpu",
    rows: str | None = None,
    shapes: str | None = None,
    dtypes: str | None = None,
    threads: str | None = None,
    activations: str | None = None,
    weights: str | None = None,
    peers: str | None = None,
    parts: str | None = None,
    budget_s: float | None = None,
    is_quick: bool = False,
    is_cold: bool = False,
    is_quiet: bool = False,
) -> Plan:
    """Make a plan of what the command line says; None takes the default, which is the whole grid.

    Raises: BenchError that names the option, the rule and what was given.
    """
    if budget_s is not None and not 0 < budget_s < 3600:
        raise BenchError(f"--budget must be seconds, more than 0 and less than 3600, got {budget_s:g}")
    if device != "cpu" and threads is not None:
        raise BenchError(f"--threads must be left out with --device {device}, which has none to choose")
    if device != "cpu" and is_cold:
        raise BenchError(f"--cold must be left out with --device {device}: it is about the caches of the CPU")
    peers_here, parts_here = _PEERS_ON[device], _PARTS_ON[device]
    chosen_rows = _numbers("--M", rows, _QUICK_ROWS if is_quick else ROWS)
    is_open = dtypes is None and activations is None and weights is None
    chosen_dtypes = _names("--dtypes", dtypes, DTYPES if is_open else (_WIDE,), tuple(t.name for t in FLOATS))
    kinds = _kinds(chosen_dtypes, activations, weights)
    if is_open and device == "cpu":
        kinds += _more_kinds(is_quick=is_quick)
    return Plan(
        device=device,
        rows=chosen_rows,
        other_rows=chosen_rows if rows is not None else _QUICK_OTHER_ROWS if is_quick else OTHER_ROWS,
        shapes=_shapes(shapes, _QUICK_SHAPES if is_quick else SHAPES),
        dtypes=chosen_dtypes,
        threads=_threads(threads) if device == "cpu" else (0,),
        kinds=kinds,
        peers=_names("--peers", peers, _QUICK_PEERS if is_quick else peers_here, peers_here, device),
        parts=_names("--parts", parts, parts_here, parts_here, device),
        budget_s=budget_s if budget_s is not None else _QUICK_BUDGET_S if is_quick else _BUDGET_S,
        is_quick=is_quick,
        is_cold=is_cold,
        is_quiet=is_quiet,
    )


def _kinds(dtypes: Collection[str], activations: str | None, weights: str | None) -> tuple[Kind, ...]:
    """Return all that is asked for, combined; weights narrower than x under float32 only."""
    kit = subject()
    chosen = _names("--activations", activations, (NO_ACTIVATION,), (NO_ACTIVATION, *kit.activations))
    stored = _names("--weights", weights, (SAME,), (SAME, *kit.narrow_weights))
    if set(stored) != {SAME} and _WIDE not in dtypes:
        raise BenchError(f"--weights {weights} needs {_WIDE} among --dtypes: under others a weight has the dtype of x")
    return tuple(
        Kind(dtype, "" if weight == SAME else weight, activation)
        for dtype in dtypes
        for weight in stored
        for activation in chosen
        if weight == SAME or dtype == _WIDE
    )


def _more_kinds(*, is_quick: bool) -> tuple[Kind, ...]:
    """Return float32 with each activation of the grid, and with each narrow weight; two and one of them in a hurry."""
    kit = subject()
    names = [name for name, activation in kit.activations.items() if activation.is_on_grid]
    narrow = kit.narrow_weights
    if is_quick:
        names, narrow = names[:2], narrow[:1]
    return (*(Kind(_WIDE, activation=name) for name in names), *(Kind(_WIDE, weight) for weight in narrow))


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
