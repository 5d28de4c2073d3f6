"""torch's own layers as peers: eager, and compiled by its own backend or another; torch may be missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np

from exporter.bench.backends import cuda
from exporter.bench.backends.arrays import Array, Arrays, Backend, UnavailableError
from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import NO_ACTIVATION, Cell

EAGER, COMPILED, ZENTORCH = "torch", "compile", "zentorch"


def make_eager(cell: Cell, arrays: Arrays) -> Backend:
    """Return torch's own function, and its activation after it. Raises: ModuleNotFoundError without torch."""
    return _backend(_function(cell), cell, arrays)


def make_zentorch(cell: Cell, arrays: Arrays) -> Backend:
    """Return the same compiled by AMD's ZenDNN. Raises: ModuleNotFoundError without torch or zentorch;
    UnavailableError on a CPU without AVX-512, where zentorch warns and hands the graph to torch as it is.
    """
    import_module(ZENTORCH)  # which makes its compiler known to torch
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX512" not in capability:
        raise UnavailableError(f"zentorch optimizes on CPUs with AVX-512 only, got {capability}")
    return make_compiled(cell, arrays, ZENTORCH)


def make_compiled(cell: Cell, arrays: Arrays, compiler: str = "inductor") -> Backend:
    """Return the same by ``torch.compile``, for the cell's shape alone. Raises: ModuleNotFoundError without torch."""
    import torch

    torch._dynamo.reset()  # otherwise the ninth shape would run eagerly
    backend = _backend(torch.compile(_function(cell), dynamic=False, backend=compiler), cell, arrays)
    backend.run()
    return backend


def inference_mode(peers: Sequence[str]) -> AbstractContextManager[object]:
    """Return torch's inference mode if torch takes part; otherwise a context that does nothing."""
    if not {EAGER, COMPILED, ZENTORCH} & set(peers):
        return nullcontext()
    try:
        import torch
    except ModuleNotFoundError:
        return nullcontext()
    mode: AbstractContextManager[object] = torch.inference_mode()
    return mode


def tensor(array: Array) -> Any:
    """Return a torch tensor on the same memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _function(cell: Cell) -> Callable[..., Any]:
    product = subject().torch_function()
    if cell.activation == NO_ACTIVATION:
        return product
    activation = subject().activations[cell.activation].torch_function()
    return lambda x, weight, bias: activation(product(x, weight, bias))


def _backend(function: Callable[..., Any], cell: Cell, arrays: Arrays) -> Backend:
    """Return a call of the function for every layer, on the cell's device and number of threads."""
    import torch

    from exporter.torch_ops.tensors import to_numpy

    def placed(array: Array) -> Any:
        return tensor(array) if cell.threads else tensor(array).to(cuda.DEVICE)

    if cell.threads:
        torch.set_num_threads(cell.threads)
    x, *others = (placed(array) for array in (arrays.x, *(array for layer in arrays.wide_layers for array in layer)))
    layers = list(zip(others[::2], others[1::2], strict=True))
    if len(layers) == 1:
        ((weight, bias),) = layers
        return Backend(lambda: function(x, weight, bias), lambda: to_numpy(function(x, weight, bias)))

    def run() -> list[Any]:
        return [function(x, weight, bias) for weight, bias in layers]

    return Backend(run, lambda: np.stack([to_numpy(y) for y in run()]))
