"""The roads of the proof: every way to run a model, and to run one of its MYLINEAR nodes alone."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from exporter.operators.mylinear.models import make_linear_model
from ort_ops.analysis.evaluator import make_evaluator
from ort_ops.analysis.run_all import run_all
from ort_ops.errors import MylinearError
from ort_ops.installation.extras import install_extra
from ort_ops.models.files import load_model
from ort_ops.models.nodes import element_types
from ort_ops.native import cuda
from ort_ops.native import library as native
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES, Arithmetic
from ort_ops.operators.mylinear.contract import DOMAIN, NAME
from ort_ops.operators.mylinear.reference import linear
from ort_ops.session import InferenceSession, Kernel, KernelError, available_kernels, select_kernel

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], list[Array]]
RunAll = Callable[[Mapping[str, Array]], dict[str, Array]]
RunNode = Callable[[Array, Array, Array | None], Array]
OpenModel = Callable[[], Run]
# What is proved of float32 on CUDA is float32; TF32, which onnxruntime allows by default, is a wish for less.
_ON_CUDA = [(cuda.PROVIDER, {"use_tf32": "0"}), "CPUExecutionProvider"]


class WholeModelError(MylinearError, RuntimeError):
    """A runtime cannot run a model, because of another operator than MYLINEAR; each node alone it can."""


class RunError(MylinearError, RuntimeError):
    """A runtime opened a model and fails to run it, on an input that the float64 evaluation takes."""


class _OperatorError(Exception):
    """Carries what MYLINEAR itself raised out of the evaluator; never shown."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class NodeAlone:
    """One MYLINEAR node with its weight and bias; its model is made once for all sessions of it.

    Attributes:
        weight: ``[out_features, in_features]``; its dtype is the node's.
        bias: ``[out_features]``, or None.
    """

    def __init__(self, weight: Array, bias: Array | None) -> None:
        self.weight, self.bias = weight, bias
        self._serialized: dict[int, bytes] = {}

    def serialized(self, rank: int) -> bytes:
        """Return a model of the node for x of this rank, ``x`` to ``y``."""
        if rank not in self._serialized:
            shape = [*(f"d{i}" for i in range(rank - 1)), self.weight.shape[1]]
            self._serialized = {rank: make_linear_model(shape, self.weight, self.bias).SerializeToString()}
        return self._serialized[rank]


OpenNode = Callable[[NodeAlone, int], Callable[[Array], Array]]


def _cannot_open() -> Run:
    raise WholeModelError("it cannot be taken")


@dataclass(frozen=True)
class Road:
    """A backend: a way to run the model, and to run one of its MYLINEAR nodes alone; with a reason, it is not there.

    Attributes:
        open_model: gives what runs the model and gives its outputs; what that holds is released with it. Both raise:
            WholeModelError where another operator than MYLINEAR cannot be run.
        open_node: takes a node and the rank of x, and gives what runs the node alone on any such x.
        run_all: gives the values of all nodes of the main graph.
        element_types: that it serves; None for all.
        has_backward: whether gradients can be had on it.
        arithmetic: how its sums are made.
    """

    name: str
    open_model: OpenModel = _cannot_open
    open_node: OpenNode = lambda node, rank: lambda x: x
    run_all: RunAll = lambda feed: {}
    reason: str | None = None
    element_types: tuple[str, ...] | None = None
    has_backward: bool = False
    arithmetic: Arithmetic = ROUNDED


def find_roads(
    model: onnx.ModelProto,
    path: str | Path,
    checkpoint: str | Path | None,
    compile_backend: str | None,
    device: str = "auto",
) -> list[Road]:
    """Return every backend: how it runs, or the reason why it is not there; ``device`` as in `verify`.

    Args:
        model: without the operator's own definition, which onnx's evaluator would take instead of an operator.

    Raises: KernelError if ``device`` is ``cuda`` and its roads cannot be taken.
    """
    if device == "cuda":
        select_kernel("cuda")
    has_cuda = device != "cpu" and cuda.PROVIDER in onnxruntime.get_available_providers()
    roads = _torch_roads(model, checkpoint, compile_backend)
    roads.append(_evaluator_road("reference", model, linear))
    types = element_types(model)
    for kernel in available_kernels():
        missing = types - set(kernel.element_types)
        reason = kernel.reason
        if reason is None and missing:
            reason = f"serves {' and '.join(kernel.element_types)}, the model has {' and '.join(sorted(missing))}"
        if kernel.name == "cuda" and not has_cuda:
            continue
        if reason is not None:
            roads.append(Road(kernel.name, reason=reason))
        elif kernel.name == "cuda":
            roads.append(_session_road(path, kernel, providers=_ON_CUDA))
        elif kernel.name == "cpp":
            roads += [_session_road(path, kernel, isa) for isa in native.status().usable_isas]
        else:
            roads.append(_session_road(path, kernel))
    if has_cuda:
        body = next(k for k in available_kernels() if k.name == "body")
        roads.append(_session_road(path, body, providers=_ON_CUDA))
    untaken = next((road for road in roads if road.name == "cuda" and road.reason is not None), None)
    if device == "cuda" and untaken is not None:
        raise KernelError(f"the cuda kernel cannot run: {untaken.reason}")
    return roads


def _session_road(path: str | Path, kernel: Kernel, isa: str | None = None, providers: Any = None) -> Road:
    variant = isa or ("cuda" if providers and kernel.name != "cuda" else None)
    name = f"{kernel.name}[{variant}]" if variant else kernel.name

    def open_session(source: Any, options: Any = None) -> Any:
        quiet = options or _quiet_options()
        with forced_isa(isa):
            return InferenceSession(source, quiet, providers or ["CPUExecutionProvider"], kernels=kernel.name)

    def open_node(node: NodeAlone, rank: int) -> Callable[[Array], Array]:
        alone = open_session(node.serialized(rank))
        return lambda x: cast("Array", alone.run(None, {"x": x})[0])

    if providers:
        probe = open_session(NodeAlone(np.ones((1, 1), np.float32), None).serialized(2))
        if cuda.PROVIDER not in probe.get_providers():
            return Road(
                name, reason="onnxruntime could not start its CUDA provider, and took the CPU; its log says why"
            )

    def open_model() -> Run:
        try:
            session = open_session(path)
        except Exception as error:
            # Where onnxruntime lacks a kernel of its own, such as for a Relu in bfloat16, that tells nothing of ours.
            reason = f"onnxruntime cannot run the model: {_first_line(error)}"
            if "NOT_IMPLEMENTED" not in reason or NAME in reason:
                raise
            raise WholeModelError(reason) from error

        def run(feed: Mapping[str, Array]) -> list[Array]:
            try:
                outputs: list[Array] = session.run(None, feed)
            except MylinearError:
                raise
            except Exception as error:
                raise RunError(f"onnxruntime fails: {_first_line(error)}") from error
            return outputs

        return run

    return Road(
        name,
        open_model,
        open_node,
        lambda feed: run_all(load_model(path), feed, open_session),
        element_types=kernel.element_types,
        arithmetic=TENSOR_CORES if providers else ROUNDED,
    )


def _quiet_options() -> onnxruntime.SessionOptions:
    """Options without a log, and without threads that spin between calls: many sessions are open at once here."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Probe:
    """Runs the model once in onnxruntime to see whether an input suits it, and forgets the result."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._sessions: dict[str, Any] = {}

    def __call__(self, feed: Mapping[str, Array]) -> None:
        """Do nothing if the model runs by any kernel of MYLINEAR, or cannot be opened.

        Raises: RunError where it opens and runs by none.
        """
        reasons = []
        for kernel in ("cpp", "python", "body"):
            session = self._session(kernel)
            if session is None:
                continue
            try:
                session.run(None, feed)
            except Exception as error:
                reasons.append(f"onnxruntime fails: {_first_line(error)}")
            else:
                return
        if reasons:
            raise RunError(reasons[-1])

    def _session(self, kernel: str) -> Any:
        if kernel not in self._sessions:
            self._sessions[kernel] = None
            with suppress(Exception):  # the backends will say why
                session = InferenceSession(self._path, _quiet_options(), ["CPUExecutionProvider"], kernels=kernel)
                self._sessions[kernel] = session
        return self._sessions[kernel]


@contextmanager
def forced_isa(isa: str | None) -> Iterator[None]:
    """Let the C++ library take one instruction set for what is registered within the block."""
    if isa is None:
        yield
        return
    before = os.environ.get(native.ISA_VARIABLE)
    os.environ[native.ISA_VARIABLE] = isa
    try:
        yield
    finally:
        if before is None:
            del os.environ[native.ISA_VARIABLE]
        else:
            os.environ[native.ISA_VARIABLE] = before


def _evaluator_road(name: str, model: onnx.ModelProto, run_node: RunNode, *, has_backward: bool = False) -> Road:
    class Linear(OpRun):
        op_domain = DOMAIN

        def _run(self, x: Any, weight: Any, bias: Any = None) -> tuple[Array]:
            try:
                return (run_node(x, weight, bias),)
            except Exception as error:
                raise _OperatorError(error) from error

    Linear.__name__ = NAME

    def open_evaluator() -> Callable[..., Any]:
        try:
            evaluator = make_evaluator(model, [Linear])
        except Exception as error:  # it does not know every operator
            raise WholeModelError(_evaluator_reason(error)) from error

        def run(feed: Mapping[str, Array], *, intermediate: bool = False) -> Any:
            try:
                with np.errstate(all="ignore"):
                    return evaluator.run(None, dict(feed), intermediate=intermediate)
            except _OperatorError as error:
                raise error.cause from None
            except Exception as error:  # nor every use of one
                raise WholeModelError(_evaluator_reason(error)) from error

        return run

    def open_model() -> Run:
        run = open_evaluator()
        return lambda feed: [np.asarray(output) for output in run(feed)]

    def run_values(feed: Mapping[str, Array]) -> dict[str, Array]:
        return {key: np.asarray(value) for key, value in open_evaluator()(feed, intermediate=True).items()}

    def open_node(node: NodeAlone, rank: int) -> Callable[[Array], Array]:
        return lambda x: run_node(x, node.weight, node.bias)

    return Road(name, open_model, open_node, run_values, has_backward=has_backward)


def _evaluator_reason(error: Exception) -> str:
    return f"onnx's reference evaluator cannot take the model: {_first_line(error)}"


def _torch_roads(model: onnx.ModelProto, checkpoint: str | Path | None, compile_backend: str | None) -> list[Road]:
    name = "torch eager"
    if importlib.util.find_spec("torch") is None:
        return [Road(name, reason=f"torch is not installed; {install_extra('torch')}")]
    import torch

    from exporter.operators.mylinear import functional
    from exporter.torch_ops.tensors import from_numpy, to_numpy

    def node_runner(function: Callable[..., torch.Tensor]) -> RunNode:
        def run_node(x: Array, weight: Array, bias: Array | None) -> Array:
            with torch.no_grad():
                bias_tensor = None if bias is None else from_numpy(bias)
                return to_numpy(function(from_numpy(x), from_numpy(weight), bias_tensor))

        return run_node

    functions: dict[str, Any] = {name: lambda *a: functional.linear(*a)}
    if compile_backend is not None:
        compiled = torch.compile(functional.linear, backend=compile_backend, dynamic=True, fullgraph=True)

        def run_compiled(*arguments: Any) -> torch.Tensor:
            # Every rank and dtype is another graph, and a proof wants them all; dynamo's own warnings are not ours.
            with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=9999):
                warnings.simplefilter("ignore")
                result: torch.Tensor = compiled(*arguments)
                return result

        functions[f"torch.compile[{compile_backend}]"] = run_compiled
    roads = []
    for road_name, function in functions.items():
        run_node = node_runner(function)
        is_eager = road_name == name
        road = _evaluator_road(road_name, model, run_node, has_backward=is_eager)
        if checkpoint is not None and is_eager:
            from exporter.training.checkpoints.checkpoint import load_network

            network = load_network(checkpoint)

            def run(feed: Mapping[str, Array], network: Any = network) -> list[Array]:
                with torch.no_grad():
                    return [to_numpy(network(*map(from_numpy, feed.values())))]

            road = replace(road, open_model=lambda run=run: run)  # type: ignore[misc]
        roads.append(road)
    return roads


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
