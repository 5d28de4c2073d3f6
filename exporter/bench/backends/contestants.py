"""Who takes part in a cell: our node in a session, and its peers, all on the same arrays, or copies on the GPU.

Every backend gets its weight beforehand, and its input and output if it can take them, so that a call only computes.
Each keeps its own defaults, except for the number of threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

import ort_ops
from exporter.bench.backends import cuda, torch_peers
from exporter.bench.backends.arrays import Array, Arrays, Backend, UnavailableError, aligned, first_words, numpy_dtype
from exporter.bench.backends.models import layers_model
from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import NO_ACTIVATION, OURS, Cell
from ort_ops.opdef.element_types import ELEMENT_TYPES

_LOG_FATAL = 4


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
    """Bind input and the one output; return a call, and the array ``[M, N]`` that it fills."""
    run, (y,) = bind_all(session, x, outputs)
    return run, y


def bind_all(session: onnxruntime.InferenceSession, x: Array, outputs: int) -> tuple[Callable[[], Any], list[Array]]:
    """Bind input and every output; return a call, and the arrays ``[M, N]`` that it fills."""
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", _ort_value(x))
    results = []
    for output in session.get_outputs():
        results.append(aligned(np.zeros((*x.shape[:-1], outputs), x.dtype)))
        # The output's OrtValue lies on the array's own memory, as the input's does.
        binding.bind_ortvalue_output(output.name, _ort_value(results[-1]))
    return partial(session.run_with_iobinding, binding), results


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
    run, results = bind_all(session, x, outputs)

    def result() -> Array:
        run()
        return results[0] if len(results) == 1 else np.stack(results)

    return Backend(run, result)


def _cuda_backend(model: ModelProto, x: Array, outputs: int, *, with_ours: bool) -> Backend:
    import torch

    from exporter.torch_ops.tensors import to_numpy

    stream = torch.cuda.Stream()  # from torch's pool, whose streams are never destroyed
    session = cuda.open_session(model.SerializeToString(), with_ours=with_ours, stream=stream.cuda_stream)
    on_gpu = torch_peers.tensor(x).to(cuda.DEVICE)
    y = torch.full((*x.shape[:-1], outputs), torch.nan, dtype=on_gpu.dtype, device=on_gpu.device)
    cuda.synchronize()  # they were made on another stream
    run = cuda.bind(session, {"x": on_gpu}, {"y": y})

    def result() -> Array:
        run()
        cuda.synchronize()
        return to_numpy(y)

    return Backend(run, result)


def _make_ours(cell: Cell, arrays: Arrays) -> Backend:
    model = layers_model(OURS, arrays.layers, cell.activation)
    return session_backend(model, arrays.x, cell.N, cell.threads, with_ours=True)


def _make_onnx(name: str, cell: Cell, arrays: Arrays) -> Backend:
    """Make ONNX's own nodes, as onnxruntime optimizes them by default.

    Raises: UnavailableError where it fuses an activation no more that it is known to fuse: that would be another peer.
    """
    nodes = ""
    if cell.activation != NO_ACTIVATION and cell.threads:
        made = optimized_nodes(name, cell.dtype, cell.activation)
        nodes, fused = " + ".join(made), subject().activations[cell.activation].fused
        if name == "gemm" and cell.dtype == "float32" and fused and made != (fused,):
            raise UnavailableError(
                f"onnxruntime {onnxruntime.__version__} makes {nodes} of the product and {cell.activation}, not {fused}"
            )
    model = layers_model(name, arrays.wide_layers, cell.activation)
    backend = session_backend(model, arrays.x, cell.N, cell.threads)
    return Backend(backend.run, backend.result, nodes)


@lru_cache
def optimized_nodes(name: str, dtype: str, activation: str) -> tuple[str, ...]:
    """Return the nodes that onnxruntime makes by default of a peer's graph, here with a weight of 2 x 2."""
    ones = np.ones((2, 2)).astype(numpy_dtype(dtype))
    options = session_options(1, with_ours=False)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        model = layers_model(name, [(ones, ones[0])], activation)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return tuple(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def _make_openvino(cell: Cell, arrays: Arrays) -> Backend:
    import openvino

    core = openvino.Core()
    model = core.read_model(layers_model("gemm", arrays.wide_layers, cell.activation).SerializeToString())
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
        found = [request.get_output_tensor(i).data for i in range(arrays.num_layers)]
        y: Array = found[0] if len(found) == 1 else np.stack(found)
        return y.view(arrays.x.dtype) if y.dtype.itemsize == arrays.x.dtype.itemsize else y

    return Backend(run, result)


_MAKERS: dict[str, Callable[[Cell, Arrays], Backend]] = {
    OURS: _make_ours,
    "gemm": partial(_make_onnx, "gemm"),
    "matmul": partial(_make_onnx, "matmul"),
    torch_peers.EAGER: torch_peers.make_eager,
    torch_peers.COMPILED: torch_peers.make_compiled,
    torch_peers.ZENTORCH: torch_peers.make_zentorch,
    "openvino": _make_openvino,
}
