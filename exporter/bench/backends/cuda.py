"""Open sessions on onnxruntime's CUDA provider, and bind them to tensors on the device.

`benchmarks/cuda.py` opens and binds its sessions here too. Call `require` first, which says what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime

import ort_ops
from exporter.bench.backends.models import one_node_model
from exporter.bench.measure.cells import BenchError
from exporter.torch_ops.devices import why_not_cuda
from ort_ops.native import cuda
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES, Arithmetic
from ort_ops.opdef.element_types import ELEMENT_TYPES

DEVICE = "cuda"
"""The device's name in torch; tests without a GPU put another in its place."""

_LOG_FATAL = 4


def require() -> None:
    """Check that our operator and its peers can run on the GPU. Raises: BenchError that says what is missing."""
    reason = cuda.status().reason
    if reason is not None:
        raise BenchError(f"--device cuda needs the CUDA kernel: {reason}")
    reason = why_not_cuda()
    if reason is not None:
        raise BenchError(f"--device cuda needs torch with CUDA: {reason}")
    with contextlib.suppress(AttributeError):  # onnxruntime before 1.21
        onnxruntime.preload_dlls()
    model = one_node_model(np.ones((1, 1), np.float32), None)
    try:
        open_session(model.SerializeToString(), with_ours=True)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise BenchError(f"onnxruntime cannot start its CUDA provider; its log says why, `{words}`") from error


def open_session(model: bytes, *, with_ours: bool, stream: int = 0, allows_tf32: bool = False) -> Any:
    """Open a model with every node on the GPU, with or without our kernel.

    Args:
        model: the model's bytes.
        with_ours: whether to register our CUDA kernel.
        stream: address of the CUDA stream to use; 0 for one of onnxruntime's own.
        allows_tf32: for float32.

    Raises: what onnxruntime raises where a node has no CUDA kernel, or the provider does not start.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    # Otherwise onnxruntime silently gives nodes without a CUDA kernel, or all nodes, to the CPU.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if with_ours:
        ort_ops.register(options, "cuda")
    provider = {"use_tf32": str(int(allows_tf32))}
    if stream:
        provider |= {"user_compute_stream": str(stream), "do_copy_in_default_stream": "0"}
    return onnxruntime.InferenceSession(model, options, providers=[(cuda.PROVIDER, provider)], enable_fallback=0)


def bind(session: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], Any]:
    """Bind contiguous tensors in their place, without copies.

    Returns: a call that queues the work and waits for nothing; it keeps the tensors alive.
    Raises: what onnxruntime raises for tensors that the model does not take.
    """
    binding = session.io_binding()
    for bind_one, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, tensor in tensors.items():
            place = tensor.device.type, tensor.device.index or 0
            bind_one(name, *place, _element_type(tensor), list(tensor.shape), tensor.data_ptr())
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    kept = dict(inputs), dict(outputs)  # the binding has only their addresses

    def run(kept: object = kept) -> Any:
        return session.run_with_iobinding(binding, options)

    return run


def finish(threads: int) -> Callable[[], None]:
    """Return the function that ends a batch of calls: a wait on the GPU (0 threads), nothing on the CPU."""
    return (lambda: None) if threads else synchronize


def arithmetic(threads: int) -> Arithmetic:
    """Return the arithmetic of a cell's sums, as in `mylinear verify`."""
    return ROUNDED if threads else TENSOR_CORES


def synchronize() -> None:
    """Wait until the GPU has finished all queued work, on every stream."""
    import torch

    torch.cuda.synchronize()


def _element_type(tensor: Any) -> Any:
    """Return the type for `io_binding`: NumPy's, or ONNX's number for a type that NumPy does not have."""
    name = str(tensor.dtype).removeprefix("torch.")
    return ELEMENT_TYPES[name].onnx_type if name == "bfloat16" else np.dtype(name).type
