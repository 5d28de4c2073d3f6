"""Who takes part in a cell: our node in a session, and its peers, all on the same arrays, or copies on the GPU.

Every backend gets its weight beforehand, and its input and output if it can take them, so that a call only computes.
Each keeps its own defaults, except for the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

import ort_ops
from exporter.bench.backends import cuda
from exporter.bench.backends.models import chain_model, one_node_model, unfused_model
from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import OURS, Cell
from ort_ops.opdef.element_types import ELEMENT_TYPES

Array = NDArray[Any]
_ALIGNMENT = 64
_LOG_FATAL = 4


class UnavailableError(Exception):
    """The backend cannot take part; the message says why."""


@dataclass(frozen=True)
class Backend:
    """One contender in a cell.

    Attributes:
        run: one call; on the GPU it queues the work, and `cuda.synchronize` waits for it.
        result: converts the call's result to an array ``[M, N]`` of the cell's dtype.
    """

    run: Callable[[], Any]
    result: Callable[[], Array]


@dataclass(frozen=True)
class Arrays:
    """Input and parameters of a cell; ``x [M, K]``, ``weight [N, K]``, ``bias [N]``, all of the cell's dtype."""

    x: Array
    weight: Array
    bias: Array


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return the NumPy dtype of an element type of the contract."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def draw(rows: int, columns: int, outputs: int, dtype: str) -> Arrays:
    """Draw from the normal distribution, with a fixed seed."""
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((outputs, columns), np.float32)
    bias = rng.standard_normal(outputs, np.float32)
    x = rng.standard_normal((rows, columns), np.float32)
    return Arrays(*(aligned(a.astype(numpy_dtype(dtype))) for a in (x, weight, bias)))


def aligned(array: Array) -> Array:
    """Return a copy whose data begins at a multiple of 64 bytes, for the same conditions on every backend."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def make_backend(name: str, cell: Cell, arrays: Arrays) -> Backend:
    """Make one backend of a cell.

    Raises: UnavailableError with the reason where it does not run on this machine or in this dtype.
    """
    try:
        return _MAKERS[name](cell, arrays)
    except (UnavailableError, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{error.name} is not installed") from error
    except Exception as error:  # peers raise many types of errors where a kernel or a compiler is missing
        raise UnavailableError(first_words(error)) from error


def first_words(error: Exception) -> str:
    """Return the beginning of an error's text in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def session_options(threads: int, *, with_ours: bool) -> onnxruntime.SessionOptions:
    """Make options with this number of threads, and for our own backend with the C++ kernels."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL
    if with_ours:
        ort_ops.register(options, "cpp")
    return options


def open_session(model: bytes | str, threads: int, *, with_ours: bool) -> onnxruntime.InferenceSession:
    """Open a model in onnxruntime's own session, the same for every backend."""
    options = session_options(threads, with_ours=with_ours)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bind(session: onnxruntime.InferenceSession, x: Array, outputs: int) -> tuple[Callable[[], Any], Array]:
    """Bind input and output; return a call, and the array ``[M, N]`` that it fills."""
    y = aligned(np.zeros((*x.shape[:-1], outputs), x.dtype))
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", _ort_value(x))
    # The output's OrtValue lies on y's own memory, as the input's does.
    binding.bind_ortvalue_output("y", _ort_value(y))
    return partial(session.run_with_iobinding, binding), y


def _ort_value(array: Array) -> onnxruntime.OrtValue:
    if array.dtype.name != "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    make = getattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type", None)
    if make is None:
        raise UnavailableError(f"onnxruntime {onnxruntime.__version__} takes no bfloat16 arrays from Python; 1.20 does")
    return make(array.view(np.uint16), ELEMENT_TYPES["bfloat16"].onnx_type)


def session_backend(model: ModelProto, x: Array, outputs: int, threads: int, *, with_ours: bool = False) -> Backend:
    """Open a model from ``x`` to ``y`` and bind both; 0 threads stand for the GPU."""
    if not threads:
        return _cuda_backend(model, x, outputs, with_ours=with_ours)
    session = open_session(model.SerializeToString(), threads, with_ours=with_ours)
    run, y = bind(session, x, outputs)

    def result() -> Array:
        run()
        return y

    return Backend(run, result)


def _cuda_backend(model: ModelProto, x: Array, outputs: int, *, with_ours: bool) -> Backend:
    import torch

    from exporter.torch_ops.tensors import to_numpy

    stream = torch.cuda.Stream()  # from torch's pool, whose streams are never destroyed
    session = cuda.open_session(model.SerializeToString(), with_ours=with_ours, stream=stream.cuda_stream)
    on_gpu = _tensor(x).to(cuda.DEVICE)
    y = torch.full((*x.shape[:-1], outputs), torch.nan, dtype=on_gpu.dtype, device=on_gpu.device)
    cuda.synchronize()  # they were made on another stream
    run = cuda.bind(session, {"x": on_gpu}, {"y": y})

    def result() -> Array:
        run()
        cuda.synchronize()
        return to_numpy(y)

    return Backend(run, result)


def _make_ours(cell: Cell, arrays: Arrays) -> Backend:
    model = one_node_model(arrays.weight, arrays.bias)
    return session_backend(model, arrays.x, cell.N, cell.threads, with_ours=True)


def _make_gemm(cell: Cell, arrays: Arrays) -> Backend:
    return session_backend(chain_model("gemm", [(arrays.weight, arrays.bias)]), arrays.x, cell.N, cell.threads)


def _make_matmul(cell: Cell, arrays: Arrays) -> Backend:
    return session_backend(unfused_model(arrays.weight, arrays.bias), arrays.x, cell.N, cell.threads)


def _make_torch(cell: Cell, arrays: Arrays) -> Backend:

    run = partial(subject().torch_function(), *_tensors(cell, arrays))
    return _torch_backend(run)


def _make_compile(cell: Cell, arrays: Arrays) -> Backend:
    import torch

    torch._dynamo.reset()  # otherwise the ninth shape would run eagerly
    compiled = torch.compile(subject().torch_function(), dynamic=False)
    run = partial(compiled, *_tensors(cell, arrays))
    run()
    return _torch_backend(run)


def _torch_backend(run: Callable[[], Any]) -> Backend:
    from exporter.torch_ops.tensors import to_numpy

    return Backend(run, lambda: to_numpy(run()))


def _tensors(cell: Cell, arrays: Arrays) -> list[Any]:
    """Return input and parameters as torch tensors on the cell's device, and set its number of threads."""
    import torch

    tensors = [_tensor(array) for array in (arrays.x, arrays.weight, arrays.bias)]
    if not cell.threads:
        return [tensor.to(cuda.DEVICE) for tensor in tensors]
    torch.set_num_threads(cell.threads)
    return tensors


def _tensor(array: Array) -> Any:
    """Return a torch tensor on the same memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _make_openvino(cell: Cell, arrays: Arrays) -> Backend:
    import openvino

    core = openvino.Core()
    model = core.read_model(chain_model("gemm", [(arrays.weight, arrays.bias)]).SerializeToString())
    model.reshape([cell.M, cell.K])
    settings = {
        "INFERENCE_NUM_THREADS": cell.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if cell.dtype == "bfloat16" else "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    if cell.dtype == "bfloat16":
        x = openvino.Tensor(openvino.Type.bf16, openvino.Shape([cell.M, cell.K]))
        x.data.view(np.uint16)[...] = arrays.x.view(np.uint16)
    else:
        x = openvino.Tensor(arrays.x, shared_memory=True)
    request.set_input_tensor(x)
    run = partial(request.infer, share_outputs=True)

    def result() -> Array:
        run()
        y: Array = request.get_output_tensor().data
        return y.view(arrays.x.dtype) if y.dtype.itemsize == arrays.x.dtype.itemsize else y

    return Backend(run, result)


def inference_mode(peers: Sequence[str]) -> AbstractContextManager[object]:
    """Return torch's inference mode if torch takes part; otherwise a context that does nothing."""
    if not {"torch", "compile"} & set(peers):
        return nullcontext()
    try:
        import torch
    except ModuleNotFoundError:
        return nullcontext()
    mode: AbstractContextManager[object] = torch.inference_mode()
    return mode


_MAKERS: dict[str, Callable[[Cell, Arrays], Backend]] = {
    OURS: _make_ours,
    "gemm": _make_gemm,
    "matmul": _make_matmul,
    "torch": _make_torch,
    "compile": _make_compile,
    "openvino": _make_openvino,
}
