"""Find the backends for a model on this machine, and say why others are not available."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime

from exporter.verification.backends.base import Backend, ReferenceBackend
from exporter.verification.backends.session import ON_CUDA, SessionBackend
from exporter.verification.reasons import LacksTypes, Unavailable
from ort_ops.installation.extras import install_extra
from ort_ops.kernels.providers import Offers
from ort_ops.models.nodes import node_types, operator_nodes
from ort_ops.native import cuda
from ort_ops.native import library as native
from ort_ops.opdef.kit import OperatorKit
from ort_ops.session import Kernel, KernelError, available_kernels, select_kernel

_NO_CUDA = "onnxruntime could not start its CUDA provider, and took the CPU; its log says why"


def find_backends(
    model: onnx.ModelProto,
    path: str | Path,
    checkpoint: str | Path | None,
    compile_backend: str | None,
    device: str = "auto",
) -> list[Backend]:
    """Return every backend, with the reason where it is not available; ``device`` as in `verify`.

    Args:
        model: without the operators' own definitions, which onnx's evaluator would take instead of an operator.

    Raises: KernelError if ``device`` is ``cuda`` and the CUDA kernel cannot run.
    """
    if device == "cuda":
        select_kernel("cuda")
    has_cuda = device != "cpu" and cuda.PROVIDER in onnxruntime.get_available_providers()
    backends = _torch_backends(model, checkpoint, compile_backend)
    backends.append(ReferenceBackend(model))
    types = {t.name for of_node in node_types(model) for t in of_node.values() if t.is_floating}
    kits = list({id(found.kit): found.kit for found in operator_nodes(model)}.values())
    kernels = available_kernels()
    offers = Offers()
    for kernel in kernels:
        found = [offer for kit in kits if (offer := offers.named(kernel.name, kit)) is not None]
        # That some operator has the kernel says nothing of the model's, such as a newer version of one. A kernel in
        # Python that is there and cannot be made is not missing: its row runs, and fails.
        is_made_here = kernel.name == "python" and native.status().is_usable
        missing_offers = [] if is_made_here else [offer.reason for offer in found if not offer.is_available]
        reason = kernel.reason or next(iter(missing_offers), None)
        missing = types - set(kernel.element_types)
        if kernel.name == "cuda" and not has_cuda:
            continue
        if reason is not None:
            backends.append(Backend(kernel.name, Unavailable(reason)))
        elif missing:
            backends.append(Backend(kernel.name, LacksTypes(tuple(kernel.element_types), tuple(sorted(missing)))))
        elif kernel.name == "cuda":
            backends.append(_on_cuda(path, kernel, kits))
        elif kernel.name == "cpp":
            backends += [SessionBackend(path, kernel, kits, isa) for isa in native.status().usable_isas]
        else:
            backends.append(SessionBackend(path, kernel, kits))
    if has_cuda:
        backends.append(_on_cuda(path, next(kernel for kernel in kernels if kernel.name == "body"), kits))
    missing_cuda = next((b for b in backends if b.name == "cuda" and b.reason is not None), None)
    if device == "cuda" and missing_cuda is not None:
        raise KernelError(f"the cuda kernel cannot run: {missing_cuda.reason}")
    return backends


def _on_cuda(path: str | Path, kernel: Kernel, kits: Sequence[OperatorKit]) -> Backend:
    backend = SessionBackend(path, kernel, kits, providers=ON_CUDA)
    if cuda.PROVIDER not in backend.probe(_any_model()).get_providers():
        return Backend(backend.name, Unavailable(_NO_CUDA))
    return backend


def _any_model() -> bytes:
    """Return a model of one node that any provider runs."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 13)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model


def _torch_backends(
    model: onnx.ModelProto, checkpoint: str | Path | None, compile_backend: str | None
) -> list[Backend]:
    if importlib.util.find_spec("torch") is None:
        return [Backend("torch eager", Unavailable(f"torch is not installed; {install_extra('torch')}"))]
    from exporter.verification.backends.torch import make_torch_backends

    return make_torch_backends(model, checkpoint, compile_backend)
